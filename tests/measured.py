"""Measurements made up for tests: an attack's outcomes on n behaviors, and figures that nothing is wrong with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jpu.card.figure import Figure
from jpu.evaluation.metrics import rate
from tasks.measurement import Measurement

UTILITY = {
    "over_refusal": 0.01,
    "over_refusal_in_template": 0.02,
    "benign_recall": 0.99,
    "benign_in_template_recall": 0.98,
    "near_miss_recall": 1.0,
    "near_miss_in_template_recall": 0.99,
    "direct_refusal": 1.0,
    "incoherent": 0.0,
    "kl": 0.01,
}
PROTOCOL: dict[str, Any] = {
    "model": {"weights": "w", "adapter": "one", "adapter_name": "artifacts/rounds/2/adapter", "access": "weights"},
    "data": {"split": "test", "behaviors": {"count": 32, "sha256": "b"}},
    "suite": {"static": {"queries": 12, "behaviors": None}, "adaptive": {"queries": 78, "behaviors": None}},
    "seed": 0,
}


def around(value: float, half: float = 0.01, n: int = 100) -> Figure:
    """A figure with an interval of one width."""
    return Figure(value=value, low=max(0.0, value - half), high=value + half, n=n)


def figure_of(hits: Sequence[bool]) -> Figure:
    """The rate of outcomes, each on a behavior of its own."""
    return Figure(**rate(hits, [str(number) for number in range(len(hits))], resamples=200).as_dict())


def measured(
    attacks: Mapping[str, int],
    *,
    of: int = 32,
    families: Mapping[str, int] | None = None,
    protocol: Mapping[str, Any] = PROTOCOL,
    **metrics: float | Figure | None,
) -> Measurement:
    """A measurement.

    Args:
        attacks: Attack → on how many behaviors it gets through; the first ones.
        of: Behaviors.
        families: The same of `attack/family`.
        protocol: How it was measured.
        metrics: Other figures than those of `UTILITY`; None leaves one out.
    """
    hits = {f"asr_{name}": _hits(count, of) for name, count in attacks.items()}
    of_families = {key: _hits(count, of) for key, count in (families or {}).items()}
    figures: dict[str, Figure | None] = {key: figure_of(found) for key, found in hits.items()}
    figures["asr_worst"] = max((f for f in figures.values() if f), key=lambda f: f.value or 0.0, default=None)
    for key, value in (UTILITY | metrics).items():
        figures[key] = around(value) if isinstance(value, float) else value
    return Measurement(
        metrics={key: figure for key, figure in figures.items() if figure is not None},
        families={key: figure_of(found) for key, found in of_families.items()},
        protocol=protocol,
        shares={
            key: {str(number): float(hit) for number, hit in enumerate(found)}
            for key, found in (hits | of_families).items()
        },
    )


def _hits(count: int, of: int) -> list[bool]:
    return [number < count for number in range(of)]
