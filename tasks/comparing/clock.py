"""How far a comparison has come, and how long the rest takes, by what such runs took before.

A rival takes a minute, JPU four, on a subject three times as large ten: to count runs alone would promise an hour of
work in a minute. What rows say of other machines is right in proportion, and once a run is done no more of it is used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from statistics import fmean
from typing import NamedTuple

from jpu.comparison.rows import Row
from tasks.progress import duration


class Work(NamedTuple):
    """A job, by what has to be known of it to say how long it takes.

    Attributes:
        kind: A subject to be made, a trial or a final run.
        method: Name of the method; empty for a subject.
        group: Group of its subject.
    """

    kind: str
    method: str
    group: str


class Clock:
    """Counts what is done of what is known to be done.

    Args:
        rows: Runs that were made before.
        groups: Name of a subject → its group.
        now: Seconds by some clock.
    """

    def __init__(
        self, rows: Iterable[Row], groups: Mapping[str, str], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._now = now
        self._took: dict[tuple[str, ...], list[float]] = {}
        for row in rows:
            seconds = row.cost.train_seconds + row.cost.evaluate_seconds
            made = Work(row.kind, row.method, groups.get(row.subject, ""))
            for key in _keys(made):
                self._took.setdefault(key, []).append(seconds)
        self._began = now()
        self._done, self._spent = 0, 0.0
        self._total, self._ahead = 0, 0.0

    def expect(self, jobs: Iterable[Work]) -> None:
        """These are still to be done, and no others are known of."""
        ahead = [self._weight(job) for job in jobs]
        self._total, self._ahead = self._done + len(ahead), sum(ahead)

    def estimate(self, workers: int) -> str:
        """What is to be done before anything is, in words; empty where there is nothing.

        Args:
            workers: Runs at a time.
        """
        if not self._total:
            return ""
        took = f", {duration(self._ahead / workers)} if they take what such runs took before" if self._took else ""
        return f"{self._total} to be made, {workers} at a time{took}"

    def tick(self, job: Work) -> str:
        """One of them is done: how far it has come, in words."""
        weight = self._weight(job)
        self._done += 1
        self._spent += weight
        self._ahead = max(0.0, self._ahead - weight)
        left = (self._now() - self._began) / self._spent * self._ahead
        return f"[{self._done}/{self._total}, {duration(left)} left]"

    def _weight(self, job: Work) -> float:
        """Seconds that the runs took that are most like it; of a subject, as long as a run on it takes."""
        known = next((found for key in _keys(job) if (found := self._took.get(key))), [1.0])
        return max(fmean(known), 1e-3)


def _keys(job: Work) -> list[tuple[str, ...]]:
    """Runs that are like it, the likest first."""
    if job.kind == "subject":
        return [("group", job.group), ()]
    alike: list[tuple[str, ...]] = [(job.kind, job.method, job.group), (job.kind, job.method)]
    return [*alike, ("group", job.group), ()]
