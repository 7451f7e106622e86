"""Rows as records: means, paired differences to the reference, the frontier, and how far methods lie apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from jpu.card.figure import Figure
from jpu.comparison.answers import FIGURES, Question, answers
from jpu.comparison.metrics import UTILITY, WORST, Metric, metrics_of
from jpu.comparison.records import AnswerRecord, EarlyRecord, GroupRecord, Kind, MethodRecord, MetricRecord
from jpu.comparison.rows import Row
from jpu.comparison.statistics import Bootstrap, Difference, Samples, corrected, frontier, spread


def summarise_group(
    name: str,
    rows: Mapping[str, Mapping[str, Row]],
    methods: Mapping[str, tuple[str, Kind]],
    reference: str,
    bootstrap: Bootstrap,
    questions: Sequence[Question] = (),
) -> GroupRecord:
    """One group of subjects.

    Args:
        name: Its name.
        rows: Method → run → row; a run is "subject" or "subject seed N".
        methods: Name → words and kind, in the order of the table.
        reference: The method that the others are compared with; it need not be there.
        bootstrap: Draws.
        questions: Which are answered where both methods have a run.
    """
    every = [row for found in rows.values() for row in found.values()]
    runs = tuple(sorted({run for found in rows.values() for run in found}))
    complete = {method for method, found in rows.items() if _complete(found, methods[method][1], runs)}
    metrics = metrics_of(every)
    samples = _samples(metrics, {method: rows[method] for method in methods if method in rows}, bootstrap)
    differences = {m.key: _differences(samples[m.key], reference, bootstrap) for m in metrics if m.better}
    defended = {key: {m: s for m, s in of.items() if methods[m][1] != "original"} for key, of in samples.items()}
    spreads = {m.key: spread(defended[m.key], bootstrap) for m in metrics if m.group in ("attacks", "utility", "after")}
    points = {
        method: (float(samples[UTILITY.key][method].values.mean()), float(s.values.mean()))
        for method, s in samples.get(WORST.key, {}).items()
        if method in samples.get(UTILITY.key, {}) and method in complete
    }
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
        spread={key: found for key, found in spreads.items() if found is not None},
        frontier=tuple(frontier(points)),
        mixed=_mixed(rows),
        answers=tuple(answers(questions, metrics, samples, bootstrap)),
    )


def _complete(found: Mapping[str, Row], kind: Kind, runs: Sequence[str]) -> bool:
    """Whether a method has all that it is to have; the subject as it is has one run, whatever seeds there are."""
    if kind == "original":
        return {run.partition(" seed ")[0] for run in found} == {run.partition(" seed ")[0] for run in runs}
    return len(found) == len(runs)


def pooled_answers(
    groups: Sequence[Mapping[str, Mapping[str, Row]]], questions: Sequence[Question], bootstrap: Bootstrap
) -> tuple[AnswerRecord, ...]:
    """Answers over the runs of all groups, each run alike, to the questions that more than one group answers.

    Args:
        groups: Method → run → row, for each group; no run is in two of them.
        questions: What may be asked.
        bootstrap: Draws.
    """

    def asked(question: Question) -> bool:
        both = [of.get(question.method, {}).keys() & of.get(question.against, {}).keys() for of in groups]
        return sum(map(bool, both)) > 1

    several = [question for question in questions if asked(question)]
    named = {name for question in several for name in (question.method, question.against)}
    rows = {method: {run: row for of in groups for run, row in of.get(method, {}).items()} for method in named}
    metrics = [m for m in metrics_of([row for of in rows.values() for row in of.values()]) if m.key in FIGURES]
    return tuple(answers(several, metrics, _samples(metrics, rows, bootstrap), bootstrap))


def _samples(
    metrics: Sequence[Metric], rows: Mapping[str, Mapping[str, Row]], bootstrap: Bootstrap
) -> dict[str, dict[str, Samples]]:
    """Key of a figure → method → its samples, where there are any."""
    drawn = {m.key: {method: bootstrap.samples(m, of) for method, of in rows.items()} for m in metrics}
    return {key: {method: found for method, found in of.items() if found is not None} for key, of in drawn.items()}


def _mixed(rows: Mapping[str, Mapping[str, Row]]) -> dict[str, tuple[str, ...]]:
    """Method → subjects whose weights are not those that most methods have; of two as common, the first are taken."""
    counts: dict[str, Counter[str]] = {}
    for found in rows.values():
        for row in found.values():
            counts.setdefault(row.subject, Counter())[row.weights] += 1
    usual = {subject: of.most_common(1)[0][0] for subject, of in counts.items()}
    other = {m: sorted({r.subject for r in of.values() if r.weights != usual[r.subject]}) for m, of in rows.items()}
    return {method: tuple(subjects) for method, subjects in other.items() if subjects}


def _differences(samples: Mapping[str, Samples], reference: str, bootstrap: Bootstrap) -> dict[str, Difference]:
    """Method → its difference to the reference, with Holm's correction over the methods."""
    if reference not in samples:
        return {}
    return corrected(
        {
            method: bootstrap.difference(ours, samples[reference])
            for method, ours in samples.items()
            if method != reference
        }
    )


def _method(
    name: str,
    words: str,
    kind: Kind,
    rows: Mapping[str, Row],
    complete: bool,
    metrics: Sequence[Metric],
    samples: Mapping[str, Mapping[str, Samples]],
    differences: Mapping[str, Mapping[str, Difference]],
    bootstrap: Bootstrap,
) -> MethodRecord:
    figures: dict[str, Figure] = {}
    by_run: dict[str, tuple[float | None, ...]] = {}
    limited: dict[str, int] = {}
    for metric in metrics:
        found = samples[metric.key].get(name)
        if found is None:
            continue
        estimate = bootstrap.estimate(found, metric.limit)
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
        early=tuple(early for run, row in rows.items() if (early := _early(run, row)) is not None),
    )


def _early(run: str, row: Row) -> EarlyRecord | None:
    """How a run's training ended, if before its last step."""
    made, of = row.figures.get("steps"), row.settings.get("unlearning", {}).get("steps")
    if made is None or of is None or made >= of:
        return None
    if row.figures.get("out_of_time"):
        return EarlyRecord(run=run, why="time", steps=None, of=of)
    return EarlyRecord(run=run, why="kl", steps=int(made), of=of)


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
