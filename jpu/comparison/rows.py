"""One run of one method on one subject, as it is kept: figures, outcomes by entity, cost.

Entities are named by digests and no text is held, so that rows can be committed. A row is found by its key, a digest of
all that decides it; what it took (seconds, memory) stands beside its figures and is part of no key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from jpu.errors import DataError
from jpu.files import read_json, write_text

VERSION: Literal[1] = 1
_DIGITS = 12

Whole = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Outcome(_Record):
    """What a share was counted from: successes and observations of each entity.

    Attributes:
        of: Name of the list in `Row.entities` that the counts go with.
        k: Observations for which it held.
        n: Observations; an entity without any has 0.
    """

    of: str
    k: tuple[Whole, ...]
    n: tuple[Whole, ...]

    @model_validator(mode="after")
    def _fits(self) -> Outcome:
        if len(self.k) != len(self.n) or any(k > n for k, n in zip(self.k, self.n, strict=True)):
            raise ValueError("as many successes as entities, and none above its observations")
        return self

    @property
    def rate(self) -> float | None:
        """The share; None without observations."""
        return sum(self.k) / sum(self.n) if sum(self.n) else None


class Cost(_Record):
    """What a run took on the machine that it ran on. Compares only with runs of the same machine.

    Attributes:
        train_seconds: CPU seconds of the training.
        train_wall: Seconds by the clock.
        evaluate_seconds: CPU seconds of the measurement.
        peak_mib: Most memory that the process held during the training, MiB.
        machine: The processor.
    """

    train_seconds: Finite = 0.0
    train_wall: Finite = 0.0
    evaluate_seconds: Finite = 0.0
    peak_mib: Finite = 0.0
    machine: str = ""


class Row(_Record):
    """One run.

    Attributes:
        version: Of this record.
        key: Digest of all that decides the run (`tasks.comparing.keys`).
        kind: "trial" on the validation split, or "final" on the test split.
        subject: Name of the subject.
        method: Name of the method.
        seed: Seed of the defence.
        trial: Number of the setting among the method's trials.
        settings: What the method was set to.
        entities: Name → digests of entities, in their order.
        outcomes: Name of a share → its counts.
        figures: Name → other numbers: None where it could not be measured, or was not reached.
        weights: Digest of the subject's weights: the same name trained on two machines need not be one subject.
        libraries: Versions of what decides a result.
        cost: What it took.
    """

    version: Literal[1] = VERSION
    key: str
    kind: Literal["trial", "final"]
    subject: str
    method: str
    seed: Whole
    trial: Whole
    settings: dict[str, Any]
    entities: dict[str, tuple[str, ...]]
    outcomes: dict[str, Outcome]
    figures: dict[str, Finite | None]
    weights: str
    libraries: dict[str, str] = Field(default_factory=dict)
    cost: Cost = Cost()

    @model_validator(mode="after")
    def _entities_are_known(self) -> Row:
        for name, outcome in self.outcomes.items():
            if len(self.entities.get(outcome.of, ())) != len(outcome.k):
                raise ValueError(f"the counts of {name!r} do not go with the entities {outcome.of!r}")
        return self


def counted(held: Iterable[tuple[str, bool]], entities: Sequence[str], of: str) -> Outcome:
    """Counts of (entity, whether it held), in the order of the entities."""
    at = {entity: i for i, entity in enumerate(entities)}
    k, n = [0] * len(at), [0] * len(at)
    for entity, holds in held:
        n[at[entity]] += 1
        k[at[entity]] += holds
    return Outcome(of=of, k=tuple(k), n=tuple(n))


def named(entities: Iterable[str]) -> tuple[str, ...]:
    """Entities by the digests that stand for them in a row."""
    return tuple(hashlib.sha256(e.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS] for e in entities)


def write_row(path: Path, row: Row) -> None:
    """Write a row, whole or not at all. Raises StorageError."""
    # On one line: hundreds of lists of counts, one number to a line, would be all that there is to the repository.
    text = json.dumps(row.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)
    write_text(path, text + "\n")


def read_row(path: Path) -> Row:
    """Read what `write_row` wrote.

    Raises:
        DataError: There is no such file, or it is no row.
        StorageError: It cannot be read.
    """
    found: Mapping[str, Any] = read_json(path)
    try:
        return Row.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(
            f"not a row of a comparison ({place + ': ' if place else ''}{first['msg']})",
            where=str(path),
            mend="Remove the file: `jpu compare` runs it again.",
        ) from None
