"""Means over runs with intervals, and paired differences with tests.

A run is one subject and one seed of the defence; runs are drawn, and entities within them. Subjects that were taught
the same world share its entities, so an entity is drawn once for all of them: the two-way bootstrap of crossed factors
("pigeonhole"; Owen, 2007, arXiv 0707.4239). All methods are given the same draws, so differences are paired. A number
that is not counted by entity (KL, steps, seconds) has Student's interval over its runs, and the paired t-test.

Five runs are too few to be drawn from: five differences of one sign never change it, however they are drawn, and chance
has one sign once in sixteen times. Student's test over runs, on the other hand, knows nothing of entities that all runs
share. So a share has both, and of two runs or more the wider of the intervals and the larger p are taken.

Tests of several methods against one are corrected by Holm (1979, Scand. J. Statist. 6).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jpu.comparison.metrics import Floats, Metric, number_of
from jpu.comparison.rows import Row
from jpu.evaluation.metrics import Estimate, wilson


@dataclass(frozen=True)
class Difference:
    """A method against the reference, on the runs that both have.

    Attributes:
        value: Mean of method − reference.
        low: Lower end of its interval; None for a number of one run, which has none.
        high: Upper end.
        n: Runs.
        p: Two-sided: the larger one of bootstrap and paired t-test, or of the t-test for a number.
        adjusted: p after Holm's correction (`corrected`); p itself until it is made.
        above: Runs in which the method's figure is the higher one.
        below: … the lower one.
        sign: Two-sided p of the sign test on the runs: with five it cannot be below 0.06.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    p: float
    adjusted: float
    above: int
    below: int
    sign: float


@dataclass(frozen=True)
class Samples:
    """A figure of a method: its value in each run, and resampled values of it.

    Attributes:
        runs: Names of the runs.
        values: (runs,).
        drawn: (resamples, runs): each run's value with its entities drawn anew.
        entities: Fewest entities behind a run; 0 for a number that is not counted by entity.
    """

    runs: tuple[str, ...]
    values: Floats
    drawn: Floats
    entities: int

    def on(self, runs: Sequence[str]) -> Samples:
        """Some of the runs."""
        at = [self.runs.index(run) for run in runs]
        return Samples(tuple(runs), self.values[at], self.drawn[:, at], self.entities)


class Bootstrap:
    """Draws that are the same for every method.

    Args:
        resamples: Number of them.
        confidence: Coverage of the intervals.
        seed: Of the draws.
    """

    def __init__(self, resamples: int = 2000, confidence: float = 0.95, seed: int = 0) -> None:
        self.resamples, self.confidence, self.seed = resamples, confidence, seed
        self._entities: dict[tuple[str, ...], Floats] = {}
        self._runs: dict[tuple[str, ...], Floats] = {}

    def samples(self, metric: Metric, rows: Mapping[str, Row]) -> Samples | None:
        """A figure of one method.

        Args:
            metric: Which.
            rows: Name of a run → its row.

        Returns:
            Its values in the runs that have it; None where none has.
        """
        runs, values, drawn, entities = [], [], [], []
        for run, row in rows.items():
            if metric.of is None:
                found = point(metric, row)
                if found is None:
                    continue
                value, again = found, np.full(self.resamples, found)
            else:
                found = point(metric, row)
                if found is None:
                    continue
                known = {name: o for name, o in row.outcomes.items() if o.rate is not None and metric.made_of(name)}
                value, again = found, metric.of({name: self._drawn(row, name) for name in known})
                entities.append(min(sum(n > 0 for n in outcome.n) for outcome in known.values()))
            runs.append(run)
            values.append(value)
            drawn.append(again)
        if not runs:
            return None
        return Samples(tuple(runs), np.asarray(values, dtype=np.float64), np.stack(drawn, 1), min(entities, default=0))

    def estimate(self, samples: Samples, limit: float | None = None) -> Estimate:
        """Mean over the runs.

        Args:
            samples: A figure of a method, in each run.
            limit: What a number cannot be above (`Metric.limit`); none is below 0. Student's interval ends at both.

        Shares that are all 0 or all 1 have no spread, and the bootstrap would claim certainty: then the interval is
        Wilson's, with the number of entities as its n.
        """
        value = float(samples.values.mean())
        half = student(samples.values, self.confidence)[0]
        if not samples.entities:
            high = value + half if limit is None else min(value + half, limit)
            return Estimate(value, max(value - half, 0.0), high, len(samples.runs))
        low, high = self._ends(self._means(samples))
        if low == high and value in (0.0, 1.0):
            low, high = wilson(value, samples.entities, confidence=self.confidence)
        low, high = min(low, value, max(value - half, 0.0)), max(high, value, min(value + half, 1.0))
        return Estimate(value, low, high, len(samples.runs))

    def difference(self, method: Samples, reference: Samples) -> Difference | None:
        """Method − reference on the runs that both have; None where there are none."""
        runs = [run for run in reference.runs if run in method.runs]
        if not runs:
            return None
        ours, theirs = method.on(runs), reference.on(runs)
        each = ours.values - theirs.values
        value = float(each.mean())
        # A rounding error of a difference is none.
        tiny = 1e-12
        above, below = int((each > tiny).sum()), int((each < -tiny).sum())
        half, p = student(each, self.confidence)
        low: float | None = value - half
        high: float | None = value + half
        if ours.entities:
            means = self._means(Samples(tuple(runs), each, ours.drawn - theirs.drawn, ours.entities))
            ends = self._ends(means)
            low = min(ends[0], max(value - half, -1.0), value)
            high = max(ends[1], min(value + half, 1.0), value)
            tail = min(int((means <= tiny).sum()), int((means >= -tiny).sum()))
            drawn = min(1.0, 2.0 * (tail + 1) / (self.resamples + 1))
            # One run, and runs that differ by the same, have no t.
            p = max(drawn, p) if half else drawn
        elif len(runs) == 1:
            low = high = None
        return Difference(value, low, high, len(runs), p, p, above, below, sign_test(above, below))

    def _drawn(self, row: Row, name: str) -> Floats:
        """A share with the entities drawn anew, (resamples,); the share itself where a draw has nothing of it."""
        outcome = row.outcomes[name]
        k, n = np.asarray(outcome.k, dtype=np.float64), np.asarray(outcome.n, dtype=np.float64)
        weights = self._weights(row.entities[outcome.of])
        drawn = np.full(self.resamples, k.sum() / n.sum())
        many = weights @ n
        np.divide(weights @ k, many, out=drawn, where=many > 0)
        return drawn

    def _weights(self, entities: tuple[str, ...]) -> Floats:
        """How often each entity is drawn, (resamples, entities)."""
        if entities not in self._entities:
            self._entities[entities] = self._multinomial(entities)
        return self._entities[entities]

    def _means(self, samples: Samples) -> Floats:
        """Means over runs that are drawn anew, (resamples,)."""
        if samples.runs not in self._runs:
            self._runs[samples.runs] = self._multinomial(samples.runs)
        means: Floats = (self._runs[samples.runs] * samples.drawn).sum(1) / len(samples.runs)
        return means

    def _multinomial(self, names: tuple[str, ...]) -> Floats:
        # The stream hangs on the names, so that two worlds are drawn independently, and one always alike.
        digest = hashlib.sha256("\0".join(names).encode()).digest()
        rng = np.random.default_rng([self.seed, int.from_bytes(digest[:8], "big")])
        count = len(names)
        return rng.multinomial(count, np.full(count, 1.0 / count), size=self.resamples).astype(np.float64)

    def _ends(self, means: Floats) -> tuple[float, float]:
        tail = (1.0 - self.confidence) / 2
        low, high = np.quantile(means, [tail, 1.0 - tail])
        return float(low), float(high)


def point(metric: Metric, row: Row) -> float | None:
    """A figure of one run; None where it, or a part of it, was not measured or not reached."""
    if metric.of is None:
        return number_of(row, metric)
    rates = {name: np.asarray([o.rate]) for name, o in row.outcomes.items() if o.rate is not None}
    try:
        return float(metric.of(rates)[0])
    except (KeyError, ValueError):
        return None


def student(values: Floats, confidence: float) -> tuple[float, float]:
    """Half the width of Student's interval of a mean, and the two-sided p of its being 0.

    One value says nothing of others: no width, and p 1. Values without any spread have no t; then p is the sign test's.
    """
    n = len(values)
    if n < 2:
        return 0.0, 1.0
    error = float(values.std(ddof=1)) / math.sqrt(n)
    if error < 1e-12:
        return 0.0, sign_test(int((values > 1e-12).sum()), int((values < -1e-12).sum()))
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, n - 1) < confidence else (low, middle)
    return high * error, 1.0 - within(abs(float(values.mean())) / error, n - 1)


def within(t: float, freedom: int) -> float:
    """P(|T| < t) of Student's distribution with a whole number of degrees of freedom.

    Abramowitz and Stegun, 1964, 26.7.3 and 26.7.4: finite sums, so no library is needed.
    """
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2 == 1
    # odd: cos + 2/3 cos³ + (2·4)/(3·5) cos⁵ + …; even: 1 + 1/2 cos² + (1·3)/(2·4) cos⁴ + …
    term = math.cos(angle) if odd else 1.0
    total, step = (0.0, 3) if odd and freedom == 1 else (term, 3 if odd else 2)
    while step < freedom:
        term *= (step - 1) / step * math.cos(angle) ** 2
        total += term
        step += 2
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total


def sign_test(above: int, below: int) -> float:
    """Two-sided p of the exact sign test; ties are left out by whoever counts. 1 without a pair."""
    n = above + below
    if n == 0:
        return 1.0
    least = min(above, below)
    tail: float = sum(math.comb(n, i) for i in range(least + 1)) / 2.0**n
    return min(1.0, 2.0 * tail)


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down: adjusted p of each, in the order that was given."""
    order = sorted(values, key=lambda name: values[name])
    adjusted: dict[str, float] = {}
    so_far = 0.0
    for i, name in enumerate(order):
        so_far = max(so_far, min(1.0, (len(order) - i) * values[name]))
        adjusted[name] = so_far
    return {name: adjusted[name] for name in values}


def corrected(found: Mapping[str, Difference | None]) -> dict[str, Difference]:
    """The differences that there are, with Holm's correction over them."""
    known = {name: difference for name, difference in found.items() if difference is not None}
    adjusted = holm({name: difference.p for name, difference in known.items()})
    return {name: replace(difference, adjusted=adjusted[name]) for name, difference in known.items()}


@dataclass(frozen=True)
class Spread:
    """How far a figure tells methods apart: how hard the sandbox is.

    Attributes:
        low: Least mean of a method.
        high: Highest.
        between: Standard deviation of the methods' means.
        within: Root mean square of a method's standard deviation over runs; None with one run.
        told_apart: Share of the pairs of methods whose paired difference has a p below 1 − confidence, uncorrected.
    """

    low: float
    high: float
    between: float
    within: float | None
    told_apart: float


def spread(found: Mapping[str, Samples], bootstrap: Bootstrap) -> Spread | None:
    """Of one figure over all methods; None for fewer than two."""
    if len(found) < 2:
        return None
    means = np.asarray([s.values.mean() for s in found.values()])
    several = [s.values.var(ddof=1) for s in found.values() if len(s.values) > 1]
    names = list(found)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    differences = [bootstrap.difference(found[a], found[b]) for a, b in pairs]
    apart = [d.p < 1 - bootstrap.confidence for d in differences if d is not None]
    return Spread(
        low=float(means.min()),
        high=float(means.max()),
        between=float(means.std(ddof=1)),
        within=math.sqrt(float(np.mean(several))) if several else None,
        told_apart=sum(apart) / len(apart) if apart else 0.0,
    )


def frontier(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Those that no other one beats on one of two figures without being worse on the other; lower is better."""

    def dominated(name: str) -> bool:
        x, y = points[name]
        return any(a <= x and b <= y and (a < x or b < y) for other, (a, b) in points.items() if other != name)

    return sorted((name for name in points if not dominated(name)), key=lambda name: points[name])
