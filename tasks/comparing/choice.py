"""Which of a method's trials is taken to the test split."""

from __future__ import annotations

from collections.abc import Sequence

from jpu.comparison.metrics import UTILITY, WORST
from jpu.comparison.rows import Row
from jpu.comparison.statistics import point


def choose(trials: Sequence[Row], utility_weight: float) -> Row:
    """The trial with the least worst ASR + weight × utility loss, both on the validation split; the first of equals.

    One rule for all: a method that collapses and one that does nothing both score about 1.
    """
    return min(sorted(trials, key=lambda row: row.trial), key=lambda row: regret(row, utility_weight))


def regret(row: Row, utility_weight: float) -> float:
    """What a trial is judged by; a figure that could not be measured counts as the worst."""
    worst, utility = point(WORST, row), point(UTILITY, row)
    return (1.0 if worst is None else worst) + utility_weight * (1.0 if utility is None else utility)
