"""The runs that a file of experiments asks for, each with all that decides it and the key that it is found by.

The settings of a final run are chosen among the trials of its method, so the finals of a method are only known when
its trials are done; where a subject has learning rates to try, these come between.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jpu.comparison.rows import Row
from jpu.errors import SettingsError
from tasks.comparing.choice import choose
from tasks.comparing.code import code_digest, file_of, names_in
from tasks.comparing.sections import Attacks, Changes, EvaluationSection, Experiments, TuningSection, WorldSection
from tasks.params import Document, read_document
from tasks.sections import DataSettings, MiningSettings, PathsSettings, SubjectSettings, UnlearningSettings
from tasks.settings import Settings, checked, load_settings

EXPERIMENTS = Path("experiments/compare.yaml")
# What can be made again: subjects, first minings.
KEPT = Path(".jpu/compare")

# Where the code that decides begins.
_SUBJECT_CODE = ("tasks/comparing/subjects.py",)
# A subject is loaded by code that knows of adapters, and its world is written beside an attacker: it has neither.
_NO_SUBJECT = ("jpu/unlearning/", "jpu/paths/", "jpu/attacks/", "jpu/sandbox/attacker.py")
_RUN_CODE = ("tasks/comparing/run.py",)
_START_CODE = ("tasks/mining.py", "tasks/attribution.py")
# What a method has no part in: the search for a path, and what JPU alone is made of. `test_plan.py` holds this true.
_PATH_CODE = ("tasks/attribution.py", *(f"jpu/paths/{name}.py" for name in ("ascent", "igi", "select", "selectors")))
_JPU_CODE = ("jpu/unlearning/exposures.py",)
_RELEARNING_CODE = ("jpu/unlearning/relearning.py",)
_JPU_SETTINGS = {"weights", "exposures", "prefill_batch", "exposure_batch", "exposures_a_step", "positions"}


@dataclass(frozen=True)
class SubjectSpec:
    """A subject to be made.

    Attributes:
        name: Its name in the file.
        group: Subjects that are averaged over.
        seed: Of its teaching.
        world: The sandbox's world.
        data: Section `data`.
        subject: Section `subject`.
        tuned_on: Name of the subject whose validation split settings are chosen on.
        measured: Whether it is in the table.
        key: Digest of all that decides it.
    """

    name: str
    group: str
    seed: int
    world: WorldSection
    data: DataSettings
    subject: SubjectSettings
    tuned_on: str
    measured: bool
    key: str

    @property
    def folder(self) -> Path:
        """Where it is kept, made or not; by whatever name it was made."""
        kept, key = KEPT / "subjects", self.key[:12]
        made = sorted(mark.parent for mark in kept.glob(f"*-{key}/shown.json"))
        return made[0] if made else kept / f"{self.name}-{key}"

    @property
    def made(self) -> bool:
        """Whether it has been made."""
        return (self.folder / "shown.json").is_file()


@dataclass(frozen=True)
class Run:
    """One training and one measurement.

    Attributes:
        kind: A trial on the validation split, or a final one on the test split.
        subject: The subject.
        method: Name of the method.
        original: Whether the subject is measured as it is.
        seed: Of the defence.
        trial: Number of the trial; of a final run, that of the setting.
        setting: Place of the setting among those that the method tries.
        multiplier: What the setting's learning rate is multiplied by.
        mining: Section `mining`.
        paths: Section `paths`.
        unlearning: Section `unlearning`.
        seconds: CPU seconds that the training may take.
        attacks: Attack → queries and behaviors.
        measured: How it is measured, attacks excepted.
        tokens: Bound on a completion.
        key: Digest of all that decides it.
    """

    kind: Literal["trial", "final"]
    subject: SubjectSpec
    method: str
    original: bool
    seed: int
    trial: int
    setting: int
    multiplier: float
    mining: MiningSettings
    paths: PathsSettings
    unlearning: UnlearningSettings
    seconds: float
    attacks: Attacks
    measured: TuningSection | EvaluationSection
    tokens: int
    key: str

    @property
    def name(self) -> str:
        """How it is called on a terminal."""
        what = f"trial {self.trial}" if self.kind == "trial" else f"seed {self.seed}"
        return f"{self.method} on {self.subject.name}, {what}"

    def start(self, wants_path: bool) -> Path:
        """Where the first mining is kept, and the path of it, by all that decides them."""
        key = _digest(
            {
                "subject": self.subject.key,
                "seed": self.seed,
                "mining": self.mining.model_dump(mode="json"),
                "paths": self.paths.model_dump(mode="json") if wants_path else None,
                "code": code_digest(_START_CODE, without=() if wants_path else _PATH_CODE),
            }
        )
        return KEPT / "starts" / f"{self.subject.name}-{key[:16]}"

    @property
    def settings(self) -> dict[str, Any]:
        """What the method was set to, for its row."""
        parts = {"mining": self.mining, "paths": self.paths, "unlearning": self.unlearning}
        if self.original:
            return {}
        return {name: part.model_dump(mode="json") for name, part in parts.items()}


@dataclass(frozen=True)
class Plan:
    """What the file asks for.

    Attributes:
        experiments: The file, typed.
        subjects: Name → subject.
        trials: Every trial.
        finals: The final runs whose settings are known.
        waiting: (method, subject) of those that wait for trials.
        chosen: (method, subject) → the best of the trials there, once all are there.
    """

    experiments: Experiments
    subjects: Mapping[str, SubjectSpec]
    trials: Sequence[Run]
    finals: Sequence[Run]
    waiting: Sequence[tuple[str, str]]
    chosen: Mapping[tuple[str, str], Run]

    @property
    def runs(self) -> list[Run]:
        """Trials, then finals."""
        return [*self.trials, *self.finals]


class Planner:
    """A file of experiments beside params.yaml.

    Args:
        path: The file.

    Raises:
        SettingsError: A key is missing, unknown or of the wrong type, in the file or in what a section becomes by it.
    """

    def __init__(self, path: Path = EXPERIMENTS) -> None:
        self.document: Document = read_document(path)
        self.experiments: Experiments = checked(self.document, Experiments)
        self.settings: Settings = load_settings()
        self._attacks_are_there()
        self.subjects = {name: self._subject(name) for name in self.experiments.subjects}
        for name, entry in self.experiments.methods.items():
            # A mistake in a setting is told before anything is run.
            for changes in entry.tune or (Changes(),):
                self._sections(name, next(iter(self.subjects.values())), changes)

    def plan(self, rows: Mapping[str, Row]) -> Plan:
        """What there is to run, given the rows that are there.

        Args:
            rows: Key → row.
        """
        trials: list[Run] = []
        finals: list[Run] = []
        waiting: list[tuple[str, str]] = []
        chosen: dict[tuple[str, str], Run] = {}

        def tried(runs: Sequence[Run]) -> None:
            trials.extend(runs)
            known = [rows[run.key] for run in runs if run.key in rows]
            if len(known) == len(runs):
                best = runs[choose(known, self.experiments.tuning.utility_weight)]
                chosen[best.method, best.subject.name] = best

        sources = [(self.experiments.methods[m].tuned_as or m, s) for m, s in self._wanted() if not self._original(m)]
        for method, tuning in self._sorted((method, subject.tuned_on) for method, subject in sources):
            settings = range(len(self.experiments.methods[method].tune))
            tried([self._run("trial", method, self.subjects[tuning], n) for n in settings])
        for method, name in self._sorted((method, subject.name) for method, subject in sources):
            subject, factors = self.subjects[name], self.experiments.subjects[name].learning_rate_multipliers
            first = chosen.get((method, subject.tuned_on))
            if first and factors:
                tried([self._run("trial", method, subject, first.setting, n, by) for n, by in enumerate(factors)])
        for method, subject in self._wanted():
            source = self.experiments.methods[method].tuned_as or method
            factors = self.experiments.subjects[subject.name].learning_rate_multipliers
            if self._original(method):
                finals.append(self._run("final", method, subject, 0))
            elif taken := chosen.get((source, subject.name if factors else subject.tuned_on)):
                for seed in self.experiments.seeds_on(subject.name):
                    finals.append(
                        self._run("final", method, subject, taken.setting, multiplier=taken.multiplier, seed=seed)
                    )
            else:
                waiting.append((method, subject.name))
        return Plan(self.experiments, self.subjects, trials, finals, waiting, chosen)

    def _wanted(self) -> Iterator[tuple[str, SubjectSpec]]:
        """Each method with each subject that it is measured on."""
        for subject in self.subjects.values():
            for method, entry in self.experiments.methods.items():
                if subject.measured and (not entry.groups or subject.group in entry.groups):
                    yield method, subject

    def _original(self, method: str) -> bool:
        return self.experiments.methods[method].kind == "original"

    def _sorted(self, pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Pairs of method and subject, each once, in the order of the file."""
        subjects, names = list(self.subjects), list(self.experiments.methods)
        return sorted(set(pairs), key=lambda pair: (subjects.index(pair[1]), names.index(pair[0])))

    def _attacks_are_there(self) -> None:
        known = names_in("jpu/attacks")
        asked = {"tuning": self.experiments.tuning.attacks, "evaluation": self.experiments.evaluation.attacks}
        for section, name in ((section, name) for section, attacks in asked.items() for name in attacks):
            if name not in known:
                raise SettingsError(
                    f"no attack is called {name!r}",
                    where=self.document.where([section, "attacks", name]),
                    mend=f"Choose among: {', '.join(known)}.",
                )

    def _subject(self, name: str) -> SubjectSpec:
        entry = self.experiments.subjects[name]
        at = ("subjects", name)
        if entry.profile not in self.settings.profiles:
            raise SettingsError(
                f"params.yaml has no profile {entry.profile!r}",
                where=self.document.where([*at, "profile"]),
                mend=f"There are: {', '.join(sorted(self.settings.profiles))}.",
            )
        profile = self.settings.profiles[entry.profile]
        data = checked(self.document, DataSettings, merged(profile.data, entry.data), (*at, "data"))
        subject = checked(self.document, SubjectSettings, merged(profile.subject, entry.subject), (*at, "subject"))
        # A mistake in it is told before anything is run.
        everywhere = _layered(profile.unlearning, [entry.unlearning])
        checked(self.document, UnlearningSettings, everywhere, (*at, "unlearning"))
        key = _digest(
            {
                "seed": entry.seed,
                "world": entry.world.model_dump(mode="json"),
                "data": data.model_dump(mode="json"),
                "subject": subject.model_dump(mode="json", exclude={"gates"}),
                "code": code_digest(_SUBJECT_CODE, without=_NO_SUBJECT),
            }
        )
        return SubjectSpec(
            name, entry.group, entry.seed, entry.world, data, subject, entry.tuned_on, entry.measured, key
        )

    def _sections(
        self, method: str, subject: SubjectSpec, chosen: Changes, multiplier: float = 1.0
    ) -> tuple[MiningSettings, PathsSettings, UnlearningSettings]:
        """The sections of a method on a subject: the profile's, with the changes of each in turn."""
        on = self.experiments.subjects[subject.name]
        profile = self.settings.profiles[on.profile]
        entry = self.experiments.methods[method]
        # An ablation is its model's settings as they were chosen, and then its own.
        model = self.experiments.methods[entry.tuned_as] if entry.tuned_as else entry
        layers: list[Changes] = [model, chosen, entry] if entry.tuned_as else [entry, chosen]
        at = ("methods", method)
        mining = _layered(profile.mining, [layer.mining for layer in layers])
        paths = _layered(profile.paths, [layer.paths for layer in layers])
        unlearning = _layered(profile.unlearning, [on.unlearning, *(layer.unlearning for layer in layers)])
        # Every method takes as many steps.
        unlearning["steps"] = on.unlearning.get("steps", self.experiments.budget.steps)
        if multiplier != 1.0:
            unlearning["learning_rate"] = float(f"{unlearning['learning_rate'] * multiplier:.12g}")
        return (
            checked(self.document, MiningSettings, mining, (*at, "mining")),
            checked(self.document, PathsSettings, paths, (*at, "paths")),
            checked(self.document, UnlearningSettings, unlearning, (*at, "unlearning")),
        )

    def _run(
        self,
        kind: Literal["trial", "final"],
        method: str,
        subject: SubjectSpec,
        setting: int,
        trial: int | None = None,
        multiplier: float = 1.0,
        seed: int | None = None,
    ) -> Run:
        experiments = self.experiments
        entry = experiments.methods[method]
        source = experiments.methods[entry.tuned_as] if entry.tuned_as else entry
        chosen = source.tune[setting] if source.tune else Changes()
        mining, paths, unlearning = self._sections(method, subject, chosen, multiplier)
        measured = experiments.tuning if kind == "trial" else experiments.evaluation
        seed = experiments.seeds[0] if seed is None else seed
        seconds = experiments.subjects[subject.name].seconds or experiments.budget.seconds
        decides: dict[str, Any] = {
            "kind": kind,
            "subject": subject.key,
            "seed": seed,
            "measured": measured.model_dump(mode="json", exclude={"utility_weight"}),
            "tokens": experiments.evaluation.max_new_tokens,
        }
        named = [file_of("jpu/attacks", name) for name in measured.attacks]
        without: tuple[str, ...] = ()
        if entry.kind != "original":
            ours, path = unlearning.defence.name == "jpu", searches_path(unlearning)
            relearning = ours and unlearning.weights.relearned > 0
            parts = ((path, _PATH_CODE), (ours, _JPU_CODE), (relearning, _RELEARNING_CODE))
            without = tuple(file for wanted, files in parts if not wanted for file in files)
            decides["mining"] = mining.model_dump(mode="json")
            decides["paths"] = paths.model_dump(mode="json") if path else None
            decides["unlearning"] = unlearning.model_dump(mode="json", exclude=set() if ours else _JPU_SETTINGS)
            decides["seconds"] = seconds
            named.append(file_of("jpu/unlearning/defences", unlearning.defence.name))
        decides["code"] = code_digest(_RUN_CODE, named=named, without=without)
        return Run(
            kind,
            subject,
            method,
            entry.kind == "original",
            seed,
            setting if trial is None else trial,
            setting,
            multiplier,
            mining,
            paths,
            unlearning,
            seconds,
            measured.attacks,
            measured,
            experiments.evaluation.max_new_tokens,
            _digest(decides),
        )


def searches_path(section: UnlearningSettings) -> bool:
    """Whether a path is searched for: JPU compares with anchors on it, the others only move it if they are told to."""
    moved = section.trained is not None and section.trained.path
    return section.defence.name == "jpu" or moved or section.reidentify


def merged(section: Any, changes: Mapping[str, Any]) -> dict[str, Any]:
    """A section's values with others in their place.

    A mapping is gone into, unless it goes by another name: of another defence, nothing is kept. All else is replaced.
    """
    values: dict[str, Any] = section.model_dump(mode="json")
    return _merged(values, changes)


def _layered(section: Any, layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = section.model_dump(mode="json")
    for changes in layers:
        values = _merged(values, changes)
    return values


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return dict(_pairs(values, changes))


def _pairs(values: Mapping[str, Any], changes: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key in dict.fromkeys([*values, *changes]):
        old, new = values.get(key), changes.get(key)
        if key not in changes:
            yield key, old
        elif isinstance(old, Mapping) and isinstance(new, Mapping) and new.get("name") in (None, old.get("name")):
            yield key, _merged(old, new)
        else:
            yield key, new


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
