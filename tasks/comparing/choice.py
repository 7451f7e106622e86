"""Which of a method's trials is taken to the test split."""

from __future__ import annotations

from collections.abc import Sequence

from jpu.comparison.metrics import UTILITY, WORST
from jpu.comparison.rows import Row
from jpu.comparison.statistics import point


def choose(trials: Sequence[Row], utility_weight: float) -> int:
    """The trial with the least worst ASR + weight × utility loss, both on the validation split; the first of equals.

    One rule for all: a method that collapses and one that does nothing both score about 1.

    Args:
        trials: In the order of the method's settings. The number that a row was made under may be another one: a row is
            found by its settings, wherever they stand now.
        utility_weight: Of the utility loss.

    Returns:
        Its place among them.
    """
    return min(range(len(trials)), key=lambda i: regret(trials[i], utility_weight))


def regret(row: Row, utility_weight: float) -> float:
    """What a trial is judged by; a figure that could not be measured counts as the worst."""
    worst, utility = point(WORST, row), point(UTILITY, row)
    return (1.0 if worst is None else worst) + utility_weight * (1.0 if utility is None else utility)
