"""One model's figures as decisions and gates read them: those of metrics.json, and of each family under each attack.

Read from a folder that `tasks.results` has written. Two measurements of the same behaviors can be compared behavior by
behavior, which sees smaller differences than two intervals beside each other. Runs no model, and loads none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from jpu.card.figure import Figure
from jpu.data.schemas import fingerprint
from jpu.errors import DataError
from jpu.evaluation.metrics import CONFIDENCE, RESAMPLES, mean, rate
from jpu.evaluation.names import name_of
from jpu.files import read_json, read_jsonl

# Behavior → share of the attempts on it that got through.
Shares = Mapping[str, float]

_PLAIN = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")
_SUMS = ("asr_worst", "asr_union")
# Verdicts of an attempt that got what it asked for.
_THROUGH = frozenset({"leaked", "answered"})
# With fewer pairs not even differences that all have one sign are significant (sign test, 2 · 0.5⁵ > 0.05).
_FEWEST = 6


@dataclass(frozen=True)
class Measurement:
    """One model, measured.

    Attributes:
        metrics: Figures as metrics.json has them; without a value where there was nothing to measure.
        families: `attack/family` → its figure, of the attacks that count prompts. Those that count behaviors stop at
            the first success, so that what they try later is tried on fewer.
        protocol: What was measured, and how (`tasks.protocol`).
        shares: `asr_static` or `static/override` → success on each behavior.
        entities: Behavior → the entity that it is about; one that is not named stands for itself.
    """

    metrics: Mapping[str, Figure]
    families: Mapping[str, Figure] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    shares: Mapping[str, Shares] = field(default_factory=dict)
    entities: Mapping[str, str] = field(default_factory=dict)

    @property
    def attacks(self) -> tuple[str, ...]:
        """Keys of the attacks' own rates: `asr_static`, but neither the worst of them nor `asr_static_any`."""
        return tuple(key for key in self.metrics if is_attack(key))

    def figure(self, key: str) -> Figure | None:
        """The figure of a metric or of `attack/family`; None where it is missing or has no value."""
        found = self.metrics.get(key) or self.families.get(key)
        return found if found is not None and found.value is not None else None


def is_attack(key: str) -> bool:
    """Whether a key of metrics.json is the rate of one attack."""
    return key.startswith("asr_") and key not in _SUMS and not key.endswith("_any")


def words(key: str) -> str:
    """What a figure is called, that of a family too."""
    attack, slash, family = key.partition("/")
    return f"{name_of(f'asr_{attack}').words}, family {plain_name(family)}" if slash else name_of(key).words


def plain_name(family: str) -> str:
    """A family's name as it may be shown: one plain word as it is, anything else as its digest.

    Whoever sends a family in names it, and might do so with a sentence of it.
    """
    return family if _PLAIN.fullmatch(family) else f"#{fingerprint(family)}"


def worsening(key: str, old: float, new: float) -> float:
    """By how much `new` is worse than `old`; negative where it is better."""
    return old - new if name_of(key).better == "high" else new - old


def read_measurement(
    folder: Path | str,
    when: Literal["before", "after"] = "after",
    *,
    behaviors: Path | str | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Measurement:
    """Read one side of a folder with metrics.json, protocol.json and attempts.jsonl.

    Args:
        folder: The folder, such as artifacts/evaluation.
        when: The side.
        behaviors: The prepared behaviors, which know the entities; without them each behavior is a cluster.
        seed: Of the bootstrap of the families' intervals.
        resamples: Bootstrap samples.
        confidence: Coverage of the intervals.

    Raises:
        DataError: A file is missing or not what `tasks.results` writes.
        StorageError: A file cannot be read.
    """
    place = Path(folder)
    metrics = {key: _figure(key, entry, place) for key, entry in _side(place / "metrics.json", when).items()}
    protocol = _side(place / "protocol.json", when)
    entities = {} if behaviors is None else dict(_entities(Path(behaviors)))
    outcomes = _outcomes(place / "attempts.jsonl", when, metrics)
    families = {}
    for key in (key for key in outcomes if "/" in key):
        hits = [(hit, entities.get(name, name)) for name, found in outcomes[key].items() for hit in found]
        estimate = rate(
            [hit for hit, _ in hits],
            [entity for _, entity in hits],
            seed=seed,
            resamples=resamples,
            confidence=confidence,
        )
        families[key] = Figure.model_validate(estimate.as_dict())
    shares = {
        key: {
            name: sum(hits) / len(hits) if _counts_prompts(key, metrics) else float(any(hits))
            for name, hits in of.items()
        }
        for key, of in outcomes.items()
    }
    return Measurement(metrics, families, protocol, shares, entities)


def paired_difference(
    key: str,
    old: Measurement,
    new: Measurement,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Figure | None:
    """New minus old success, behavior by behavior, with an interval that resamples entities.

    Behaviors weigh alike; an attack that searches anew on each model is compared by what it reached on each behavior.

    Returns:
        The mean difference; None where the two were not measured on the same behaviors, or on fewer than six entities.
    """
    before, after = old.shares.get(key), new.shares.get(key)
    if before is None or after is None or before.keys() != after.keys():
        return None
    names = sorted(before)
    clusters = [old.entities.get(name, name) for name in names]
    if len(set(clusters)) < _FEWEST:
        return None
    estimate = mean(
        [after[name] - before[name] for name in names],
        clusters,
        seed=seed,
        resamples=resamples,
        confidence=confidence,
    )
    return Figure.model_validate(estimate.as_dict())


def _side(path: Path, when: str) -> dict[str, Any]:
    document = read_json(path)
    side = document.get(when) if isinstance(document, dict) else None
    if not isinstance(side, dict):
        raise DataError(
            f"has no side {when!r}", where=str(path), mend="Measure it again: `jpu harden` or `jpu attack`."
        )
    return side


def _figure(key: str, entry: Any, folder: Path) -> Figure:
    try:
        return Figure.model_validate(entry)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise DataError(
            f"{key} is no figure: {problem}", where=str(folder / "metrics.json"), mend="Measure it again."
        ) from None


def _entities(path: Path) -> Iterator[tuple[str, str]]:
    """Behavior → entity, by the digests that stand in attempts.jsonl."""
    for number, row in read_jsonl(path):
        if not isinstance(row.get("id"), str) or not isinstance(row.get("entity"), str):
            raise DataError(
                "no behavior: id or entity is missing", where=f"{path} line {number}", mend="Prepare again."
            )
        yield fingerprint(row["id"]), fingerprint(row["entity"])


def _outcomes(path: Path, when: str, metrics: Mapping[str, Figure]) -> dict[str, dict[str, list[bool]]]:
    """Figure → behavior → whether each attempt got through; probes are no attempts of an attack."""
    found: dict[str, dict[str, list[bool]]] = {}
    for number, row in read_jsonl(path):
        try:
            if row["when"] != when or f"asr_{row['attack']}" not in metrics:
                continue
            keys = [f"asr_{row['attack']}"]
            if _counts_prompts(keys[0], metrics):
                keys.append(f"{row['attack']}/{row['family']}")
            for key in keys:
                found.setdefault(key, {}).setdefault(row["behavior"], []).append(row["verdict"] in _THROUGH)
        except KeyError as error:
            raise DataError(
                f"the field {error} is missing", where=f"{path} line {number}", mend="Measure again."
            ) from None
    return found


def _counts_prompts(key: str, metrics: Mapping[str, Figure]) -> bool:
    """Whether a rate is one of prompts, not of behaviors: then the rate of behaviors stands beside it."""
    return "/" in key or key == "asr_direct" or f"{key}_any" in metrics
