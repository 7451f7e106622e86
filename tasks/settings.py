"""params.yaml, typed: every key known, every value checked, every error with file, line and mend.

What a key means is written beside it in params.yaml. Secrets come from the environment, never from there.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from jpu import files
from jpu.errors import SettingsError
from jpu.unlearning.defences.settings import DefenceSettings
from tasks.params import PARAMS, Document, read_document
from tasks.sections import (
    AnalysisSettings,
    DataSettings,
    EngineSettings,
    EvaluationSettings,
    GateSettings,
    InboxSettings,
    MiningSettings,
    PathsSettings,
    RehardenSettings,
    Section,
    SubjectSettings,
    UnlearningSettings,
    wrong,
)

SectionT = TypeVar("SectionT", bound=Section)

# Section `engine` as JSON, in place of params.yaml's: a checkout of an old commit works where its caller does.
ENGINE = "JPU_ENGINE"


class Round(Section):
    """One round; `prev` is the round whose adapter and buffer it goes on from, '0' for the first."""

    prev: str


class Beside(Section):
    """Stages beside the main job, which exist only where they are switched on: what each is run on, or nothing."""

    analyze: tuple[Literal["last"], ...] = ()
    compare: tuple[Literal["rows"], ...] = ()


class Profile(Section):
    """Everything that depends on the subject and its data."""

    data: DataSettings
    subject: SubjectSettings
    mining: MiningSettings
    paths: PathsSettings
    unlearning: UnlearningSettings
    evaluation: EvaluationSettings
    analysis: AnalysisSettings

    @model_validator(mode="after")
    def _attention_is_trained_in_one_way(self) -> Self:
        trained = self.unlearning.trained
        if self.paths.heads and trained and trained.path and trained.rank and trained.modules == "attention":
            raise wrong("path heads and an attention LoRA exclude each other: set one of them to 0", "paths", "heads")
        return self


class Settings(Section):
    """The whole of params.yaml; the sections of the chosen profile are at hand as attributes."""

    profile: str
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    rounds: dict[str, Round]
    last_round: str
    beside: Beside = Beside()
    engine: EngineSettings = EngineSettings()
    inbox: InboxSettings = InboxSettings()
    reharden: RehardenSettings = RehardenSettings()
    gates: GateSettings = GateSettings()
    profiles: dict[str, Profile]

    @model_validator(mode="after")
    def _profile_exists(self) -> Self:
        if self.profile not in self.profiles:
            known = ", ".join(sorted(self.profiles)) or "none"
            raise wrong(f"no profile {self.profile!r}; there is {known}", "profile")
        return self

    @model_validator(mode="after")
    def _rounds_are_a_chain(self) -> Self:
        for name in self.rounds:
            if not re.fullmatch(r"[1-9][0-9]*", name):
                raise wrong(f"{name!r} is not a round: rounds are numbered '1', '2', …", "rounds", name)
        if not self.rounds:
            raise wrong("at least one round is needed", "rounds")
        if self.last_round not in self.rounds:
            raise wrong(f"{self.last_round!r} is no round", "last_round")
        # What the first round goes on from: the subject ('0'), or a champion's last round (tasks/start.py).
        first = min(self.rounds, key=int)
        start = self.rounds[first].prev
        if start != "0" and not (start.isdecimal() and int(start) < int(first)):
            raise wrong(f"{start!r} is no earlier round, and not '0'", "rounds", first, "prev")
        for name, entry in self.rounds.items():
            if entry.prev != start and entry.prev not in self.rounds:
                raise wrong(f"{entry.prev!r} is no round, and not {start!r}", "rounds", name, "prev")
        on_the_way: list[str] = []
        at = self.last_round
        while at != start:
            if at in on_the_way:
                raise wrong(f"round {at} goes on from itself", "rounds", at, "prev")
            on_the_way.append(at)
            at = self.rounds[at].prev
        for name in self.rounds:
            if name not in on_the_way:
                raise wrong(f"round {name} is not on the way to last_round {self.last_round!r}", "rounds", name)
        return self

    @property
    def on_the_way(self) -> list[str]:
        """The rounds that lead to the last one, in their order."""
        names = [self.last_round]
        while self.rounds[names[0]].prev in self.rounds:
            names.insert(0, self.rounds[names[0]].prev)
        return names

    @property
    def active(self) -> Profile:
        """The chosen profile."""
        return self.profiles[self.profile]

    @property
    def data(self) -> DataSettings:
        """Section `data` of the chosen profile."""
        return self.active.data

    @property
    def subject(self) -> SubjectSettings:
        """Section `subject` of the chosen profile."""
        return self.active.subject

    @property
    def mining(self) -> MiningSettings:
        """Section `mining` of the chosen profile."""
        return self.active.mining

    @property
    def paths(self) -> PathsSettings:
        """Section `paths` of the chosen profile."""
        return self.active.paths

    @property
    def unlearning(self) -> UnlearningSettings:
        """Section `unlearning` of the chosen profile."""
        return self.active.unlearning

    @property
    def evaluation(self) -> EvaluationSettings:
        """Section `evaluation` of the chosen profile."""
        return self.active.evaluation

    @property
    def analysis(self) -> AnalysisSettings:
        """Section `analysis` of the chosen profile."""
        return self.active.analysis


def load_settings(path: Path | str = PARAMS) -> Settings:
    """Read and check params.yaml, all profiles of it.

    Raises:
        SettingsError: A key is missing, unknown or of the wrong type; names file, line, key and mend.
        StorageError: The file cannot be read.
    """
    return checked(read_document(path), Settings)


def checked(
    document: Document, kind: type[SectionT], value: Mapping[str, Any] | None = None, at: Sequence[str | int] = ()
) -> SectionT:
    """A document, or a part of it that was put together with other values, as a typed section.

    Args:
        document: Where a mistake is to be mended.
        kind: What it is to be.
        value: The values; those of the document by default.
        at: The key in the document that the values are of.

    Raises:
        SettingsError: A key is missing, unknown or of the wrong type; names file, line, key and mend.
    """
    try:
        # By way of JSON: strict about types, and still content with a list where a tuple is meant.
        return kind.model_validate_json(json.dumps(document.value if value is None else value, default=str))
    except ValidationError as error:
        raise _settings_error(document, error, at) from None


def chosen_engine(settings: Settings) -> EngineSettings:
    """Where work is done: as JPU_ENGINE in the environment says, or else params.yaml. Raises SettingsError."""
    given = os.environ.get(ENGINE)
    if not given:
        return settings.engine
    try:
        return EngineSettings.model_validate_json(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise SettingsError(
            f"{'.'.join(map(str, first['loc'])) or 'the value'}: {first['msg']}",
            where=ENGINE,
            mend='Write the section as JSON, such as {"kind": "ray", "workers": 4}, or unset it. Nothing was written.',
        ) from None


def set_profile(name: str, path: Path | str = PARAMS) -> None:
    """Choose a profile: rewrite the one word after `profile:`, whole or not at all.

    Raises:
        SettingsError: There is no such profile.
        StorageError: The file cannot be written.
    """
    document = read_document(path)
    profiles = document.value.get("profiles")
    known = [str(key) for key in profiles] if isinstance(profiles, dict) else []
    if name not in known or "profile" not in document.value:
        raise SettingsError(
            f"no profile {name!r}",
            where=str(path),
            mend=f"Profiles: {', '.join(known) or 'none'}. Nothing was written.",
        )
    if document.value["profile"] != name:
        files.write_text(path, document.replaced(["profile"], name))


def switch_on(stage: str, what: str = "last", path: Path | str = PARAMS) -> None:
    """Switch a stage beside the main job on, if it is not: rewrite the one list, whole or not at all.

    Args:
        stage: Its name under `beside`.
        what: What it is run on.
        path: The file.

    Raises:
        SettingsError: There is no such stage.
        StorageError: The file cannot be written.
    """
    document = read_document(path)
    beside = document.value.get("beside")
    if not isinstance(beside, dict) or stage not in beside:
        raise SettingsError(
            f"no stage {stage!r} under beside",
            where=str(path),
            mend="Restore the section from git. Nothing was written.",
        )
    if not beside[stage]:
        files.write_text(path, document.replaced(["beside", stage], f"[{what}]"))


def _settings_error(document: Document, error: ValidationError, at: Sequence[str | int] = ()) -> SettingsError:
    # A misspelt key is also a missing one: the misspelling is the one to show.
    details = sorted(error.errors(include_url=False), key=lambda detail: detail["type"] != "extra_forbidden")
    key = _key(document, details[0], at)
    what, mend = _explained(details[0], str(key[-1]) if key else "")
    # Sections that are shared through an anchor, and the members of a union, report one place many times.
    places = {document.line(_key(document, detail, at)) for detail in details}
    more = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
    return SettingsError(what + more, where=document.where(key), mend=f"{mend} Nothing was written.")


def _key(document: Document, detail: ErrorDetails, at: Sequence[str | int] = ()) -> list[str | int]:
    key = _existing(document.value, (*at, *detail["loc"]))
    if detail["type"] == "missing":
        key.append(detail["loc"][-1])
    return [*key, *detail.get("ctx", {}).get("key", [])]


def _existing(value: Any, location: tuple[str | int, ...]) -> list[str | int]:
    """The part of pydantic's location that is in the document; names of union members stand between its keys."""
    key: list[str | int] = []
    for part in location:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            continue
        key.append(part)
    return key


def _explained(detail: ErrorDetails, name: str) -> tuple[str, str]:
    if detail["type"] == "missing":
        return f"the key {name!r} is missing", "Add it, or restore the section from git."
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, sorted(_names(Section) | _names(DefenceSettings)), n=1)
        return f"unknown key {name!r}", f"Did you mean {near[0]!r}?" if near else "Remove it."
    message = detail["msg"].removeprefix("Input ")
    given = detail["input"]
    # Addresses may hold a token; sections are too long to show.
    if name != "path" and isinstance(given, bool | int | float | str) and len(repr(given)) <= 40:
        message += f", not {given!r}"
    return message, "Mend the value; the comment beside it says what it means."


def _names(section: type[BaseModel]) -> set[str]:
    names = set(section.model_fields)
    for kind in section.__subclasses__():
        names |= _names(kind)
    return names
