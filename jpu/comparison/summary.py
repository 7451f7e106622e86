"""All rows as one record: means, paired differences to the reference, the frontier, and how far methods lie apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from jpu.card.figure import Figure
from jpu.comparison.metrics import UTILITY, WORST, Metric, metrics_of
from jpu.comparison.rows import Row
from jpu.comparison.statistics import Bootstrap, Samples, frontier, holm, spread

VERSION: Literal[1] = 1
Kind = Literal["original", "ours", "baseline", "control", "ablation"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MetricRecord(_Record):
    """A figure: its words, on which side it is better, how it is shown, the table that it is in, and its limit."""

    key: str
    words: str
    better: Literal["low", "high", ""]
    style: Literal["share", "number", "count", "seconds"]
    group: Literal["attacks", "utility", "after", "cost"]
    limit: float | None


class DifferenceRecord(_Record):
    """As `jpu.comparison.statistics.Difference`."""

    value: float
    low: float
    high: float
    n: int
    p: float
    adjusted: float
    above: int
    below: int
    sign: float


class SpreadRecord(_Record):
    """As `jpu.comparison.statistics.Spread`."""

    low: float
    high: float
    between: float
    within: float | None
    told_apart: float


class MethodRecord(_Record):
    """One method on one group of subjects.

    Attributes:
        name: Its name.
        words: What it is.
        kind: What it stands in the table for.
        runs: Its runs.
        complete: Whether it has every run of the group; a mean over fewer may be of easier subjects.
        figures: Key → mean with its interval.
        by_run: Key → one value for each run; None where it was not measured.
        limited: Key → runs in which the limit stands for what was not reached.
        differences: Key → method − reference.
        curves: Lesson → (step, mean success of the template attack).
    """

    name: str
    words: str
    kind: Kind
    runs: tuple[str, ...]
    complete: bool
    figures: dict[str, Figure]
    by_run: dict[str, tuple[float | None, ...]]
    limited: dict[str, int]
    differences: dict[str, DifferenceRecord]
    curves: dict[str, tuple[tuple[int, float], ...]]


class GroupRecord(_Record):
    """Subjects that are averaged over.

    Attributes:
        name: Their name.
        runs: Runs that any method has: subject and seed.
        metrics: The figures.
        methods: In the order of the file.
        spread: Key → how far it tells defended models apart.
        frontier: Methods that no other one beats at once on the worst attack and on utility, of the complete ones.
        mixed: Subjects whose rows are of different weights, trained on different machines.
    """

    name: str
    runs: tuple[str, ...]
    metrics: tuple[MetricRecord, ...]
    methods: tuple[MethodRecord, ...]
    spread: dict[str, SpreadRecord]
    frontier: tuple[str, ...]
    mixed: tuple[str, ...]


class TrialRecord(_Record):
    """One setting that was tried on a validation split."""

    subject: str
    method: str
    trial: int
    changes: dict[str, Any]
    worst: float | None
    utility: float | None
    chosen: bool


class Summary(_Record):
    """Everything that is reported.

    Attributes:
        reference: The method that the others are compared with.
        confidence: Coverage of the intervals.
        resamples: Draws of the bootstrap.
        groups: Groups of subjects.
        trials: Every setting that was tried.
        wanted: Runs that the file asks for, as far as they are known.
        missing: Runs of those that are not there.
        machines: Processors that runs were made on.
    """

    version: Literal[1] = VERSION
    reference: str
    confidence: float
    resamples: int
    groups: tuple[GroupRecord, ...]
    trials: tuple[TrialRecord, ...]
    wanted: int
    missing: int
    machines: tuple[str, ...]


def summarise_group(
    name: str,
    rows: Mapping[str, Mapping[str, Row]],
    methods: Mapping[str, tuple[str, Kind]],
    reference: str,
    bootstrap: Bootstrap,
) -> GroupRecord:
    """One group of subjects.

    Args:
        name: Its name.
        rows: Method → run → row; a run is "subject" or "subject seed N".
        methods: Name → words and kind, in the order of the table.
        reference: The method that the others are compared with; it need not be there.
        bootstrap: Draws.
    """
    every = [row for found in rows.values() for row in found.values()]
    runs = tuple(sorted({run for found in rows.values() for run in found}))
    complete = {method for method, found in rows.items() if len(found) == len(runs)}
    metrics = metrics_of(every)
    samples: dict[str, dict[str, Samples]] = {}
    for metric in metrics:
        found = {method: bootstrap.samples(metric, rows[method]) for method in methods if method in rows}
        samples[metric.key] = {method: s for method, s in found.items() if s is not None}
    differences = {m.key: _differences(samples[m.key], reference, bootstrap) for m in metrics if m.better}
    defended = {key: {m: s for m, s in of.items() if methods[m][1] != "original"} for key, of in samples.items()}
    spreads = {m.key: spread(defended[m.key], bootstrap) for m in metrics if m.group in ("attacks", "utility", "after")}
    points = {
        method: (float(samples[UTILITY.key][method].values.mean()), float(s.values.mean()))
        for method, s in samples.get(WORST.key, {}).items()
        if method in samples.get(UTILITY.key, {}) and method in complete
    }
    weights: dict[str, set[str]] = {}
    for row in every:
        weights.setdefault(row.subject, set()).add(row.weights)
    return GroupRecord(
        name=name,
        runs=runs,
        metrics=tuple(
            MetricRecord(key=m.key, words=m.words, better=m.better, style=m.style, group=m.group, limit=m.limit)
            for m in metrics
        ),
        methods=tuple(
            _method(
                method, *methods[method], rows[method], method in complete, metrics, samples, differences, bootstrap
            )
            for method in methods
            if rows.get(method)
        ),
        spread={key: SpreadRecord(**asdict(found)) for key, found in spreads.items() if found is not None},
        frontier=tuple(frontier(points)),
        mixed=tuple(sorted(subject for subject, found in weights.items() if len(found) > 1)),
    )


def _differences(samples: Mapping[str, Samples], reference: str, bootstrap: Bootstrap) -> dict[str, DifferenceRecord]:
    """Method → its difference to the reference, with Holm's correction over the methods."""
    if reference not in samples:
        return {}
    found = {
        method: bootstrap.difference(ours, samples[reference])
        for method, ours in samples.items()
        if method != reference
    }
    known = {method: d for method, d in found.items() if d is not None}
    adjusted = holm({method: d.p for method, d in known.items()})
    return {method: DifferenceRecord(**asdict(d) | {"adjusted": adjusted[method]}) for method, d in known.items()}


def _method(
    name: str,
    words: str,
    kind: Kind,
    rows: Mapping[str, Row],
    complete: bool,
    metrics: Sequence[Metric],
    samples: Mapping[str, Mapping[str, Samples]],
    differences: Mapping[str, Mapping[str, DifferenceRecord]],
    bootstrap: Bootstrap,
) -> MethodRecord:
    figures: dict[str, Figure] = {}
    by_run: dict[str, tuple[float | None, ...]] = {}
    limited: dict[str, int] = {}
    for metric in metrics:
        found = samples[metric.key].get(name)
        if found is None:
            continue
        estimate = bootstrap.estimate(found)
        figures[metric.key] = Figure(value=estimate.value, low=estimate.low, high=estimate.high, n=estimate.n)
        known = dict(zip(found.runs, found.values.tolist(), strict=True))
        by_run[metric.key] = tuple(known.get(run) for run in rows)
        if metric.limit is not None:
            limited[metric.key] = sum(row.figures.get(metric.key, 0.0) is None for row in rows.values())
    return MethodRecord(
        name=name,
        words=words,
        kind=kind,
        runs=tuple(rows),
        complete=complete,
        figures=figures,
        by_run=by_run,
        limited=limited,
        differences={key: of[name] for key, of in differences.items() if name in of},
        curves=_curves(list(rows.values())),
    )


def _curves(rows: Sequence[Row]) -> dict[str, tuple[tuple[int, float], ...]]:
    """Mean success after so many steps of each lesson; a run that has fallen stays where it fell."""
    steps: dict[str, set[int]] = {}
    known: list[dict[str, dict[int, float]]] = []
    for row in rows:
        found: dict[str, dict[int, float]] = {}
        for key, value in row.figures.items():
            if key.startswith("curve_") and value is not None:
                lesson, number = key.removeprefix("curve_").rsplit("_", 1)
                found.setdefault(lesson, {})[int(number)] = value
                steps.setdefault(lesson, set()).add(int(number))
        known.append(found)
    curves = {}
    for lesson in sorted(steps):
        points = []
        for step in sorted(steps[lesson]):
            at = [_last(found[lesson], step) for found in known if lesson in found]
            points.append((step, sum(at) / len(at)))
        curves[lesson] = tuple(points)
    return curves


def _last(curve: Mapping[int, float], step: int) -> float:
    return curve[max((s for s in curve if s <= step), default=min(curve))]
