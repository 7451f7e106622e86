"""Attack any model, without hardening it: the one before, the one after, somebody else's, or an endpoint.

The same data, protocol and figures as `evaluate` has; results go to a folder of their own under artifacts/attacks.
A killed run goes on where it was.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jpu.attacks import choose_suite, get_attack
from jpu.errors import SettingsError
from jpu.evaluation.evaluate import Evaluation, Measured
from jpu.files import atomic_folder, write_json
from jpu.models import Subject, Target
from jpu.spread import Spread
from tasks.attackers import with_attackers
from tasks.card import make_card, write_card
from tasks.engine import SubjectCopy, copies
from tasks.evaluate import build, chosen_suite, reporter
from tasks.layout import PREPARED, SUBJECT, load_prepared
from tasks.protocol import attempts_folder, describe, finish
from tasks.results import Metrics, write_results
from tasks.sections import EngineSettings
from tasks.settings import Settings, chosen_engine, load_settings
from tasks.targets import open_target

RESULTS = Path("artifacts/attacks")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# A model that was only attacked is a card's "before".
SIDE = "before"


@dataclass(frozen=True)
class Request:
    """What to attack, and how.

    Attributes:
        model: Folder of a chat model, hub name, or address of an endpoint; the folder of an adapter goes on the subject
            in artifacts/subject.
        adapter: Folder of a LoRA adapter to put on the model.
        served: Name of the model at the endpoint.
        suite: Suites and attacks by name; those of params.yaml where there are none.
        scale: Factor of every budget.
        controls: Run the attacks' controls as well.
        attacker: Folder or address of a model that writes attacks.
        workers: Ray actors that share the work; 0 for what params.yaml's engine says.
        data: Folder of behaviors, templates and refusals, as `prepare` writes them.
        out: Name of the results; made of the model's where it is empty.
        reveal: Write prompts and completions in plain text.
    """

    model: str
    adapter: Path | None = None
    served: str = ""
    suite: Sequence[str] = ()
    scale: float = 1.0
    controls: bool = False
    attacker: str = ""
    workers: int = 0
    data: Path = PREPARED
    out: str = ""
    reveal: bool = False


@dataclass(frozen=True)
class Attacked:
    """What an attack run ends with.

    Attributes:
        figures: Name → value, low, high, n.
        not_run: Attack → why it was left out.
        folder: Where the results are.
    """

    figures: Metrics
    not_run: Mapping[str, str]
    folder: Path


def attack(request: Request) -> Attacked:
    """Attack a model, judge what came back, and write the results.

    Raises:
        SettingsError: An attack is not known, or cannot be run on this target; workers for an endpoint, or without Ray.
        ModelError: The model or the adapter cannot be used.
        DataError: The prepared data is missing or broken.
        InfrastructureError: An endpoint does not answer.
    """
    if request.out and not _NAME.fullmatch(request.out):
        raise SettingsError(
            f"no name for results: {request.out!r}",
            where="--out",
            mend="Use letters, digits, dots, dashes and underscores, a letter or digit first. Nothing was written.",
        )
    settings = load_settings()
    section, place = settings.evaluation, settings.subject
    if request.suite:
        suite = choose_suite(request.suite, scale=request.scale)
    else:
        suite = chosen_suite(section.model_copy(update={"scale": section.scale * request.scale}))
    named = {name: get_attack(name) for name in request.suite if name in suite}
    model, adapter = parts(request)
    target = open_target(model, adapter, served=request.served, device=place.device, dtype=place.dtype)
    data = load_prepared(request.data)
    ours = settings.data.source == "sandbox" and request.data == PREPARED
    attacks, attackers = with_attackers(place, data, request.attacker, ours=ours) if "pair" in suite else ({}, {})
    evaluation = build(
        data,
        target if isinstance(target, Subject) else None,
        settings,
        suite=suite,
        attacks=attacks,
        required=bool(named) and len(named) == len(suite),
    )
    protocol = describe(target, model, adapter, evaluation, data) | {"attackers": attackers}
    local = isinstance(target, Subject)
    # Nobody knows whether an address still serves the model that it did.
    kept = attempts_folder(protocol, anew=not local)
    if request.workers and not local:
        mend = "Leave --workers out: an endpoint is asked in parallel anyway."
        raise SettingsError("workers share a model's weights", where=model, mend=mend)
    # An endpoint has its own machine.
    engine = engine_of(request, settings) if local else EngineSettings()
    with copies(engine, SubjectCopy.of(model, adapter, place)) as over:
        measured = measure(target, evaluation, kept, controls=request.controls, over=over)
    folder = RESULTS / (request.out or label(target.name if not local else model, adapter))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as made:
        figures = write_results(made, {SIDE: measured}, reveal=request.reveal)
        write_json(made / "protocol.json", {SIDE: protocol})
        card = make_card({SIDE: measured}, evaluation, protocol, profile=settings.profile, reveal=request.reveal)
        write_card(card, made)
        write_json(made / "seconds.json", {name: spent.seconds for name, spent in measured.spent.items()})
    if not local:
        finish(kept)
    return Attacked(figures[SIDE], measured.not_run, folder)


def engine_of(request: Request, settings: Settings) -> EngineSettings:
    """The engine of the settings, or so many Ray workers as the request names."""
    engine = chosen_engine(settings)
    if not request.workers:
        return engine
    return engine.model_copy(update={"kind": "ray", "workers": request.workers})


def measure(
    target: Target, evaluation: Evaluation, folder: Path, *, controls: bool, over: Spread[Subject] | None = None
) -> Measured:
    """Attack with progress on the terminal; KL and perplexity only where there is an original to compare with."""
    if isinstance(target, Subject):
        measured = evaluation.measure(target, folder=folder, report=reporter("attacking"), over=over)
    else:
        measured = evaluation.attack(target, folder=folder, report=reporter("attacking"))
    if controls:
        chance = evaluation.control(target, folder=folder, report=reporter("control"), over=over)
        measured.metrics |= chance.metrics
    return measured


def label(model: str, adapter: Path | None) -> str:
    """A folder's name for the results of a model: what is last in its path, or in its adapter's."""
    words = re.split(r"[^A-Za-z0-9.]+", str(adapter or model).removeprefix("artifacts/"))
    return "-".join(word for word in words if word.strip("."))[-64:].strip("-.") or "model"


def parts(request: Request) -> tuple[str, Path | None]:
    """Model and adapter: the folder of an adapter by itself goes on the subject."""
    folder = Path(request.model)
    if request.adapter is None and (folder / "adapter_config.json").is_file():
        return str(SUBJECT), folder
    return request.model, request.adapter
