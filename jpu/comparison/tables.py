"""The comparison as text: Markdown for people, CSV for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from jpu.card.figure import Figure
from jpu.card.markdown import table, text
from jpu.card.numbers import MISSING, Style, lower, show
from jpu.comparison.aims import Aim, aims
from jpu.comparison.answers import ALPHA, AXES, FEWEST, by_group, verdict
from jpu.comparison.records import GroupRecord, MethodRecord, MetricRecord, Summary
from jpu.comparison.statistics import Difference

GROUPS = {
    "attacks": "Attacks",
    "utility": "Utility",
    "after": "After-attacks",
    "cost": "Cost",
}
FOREST = "The questions, group by group"
CORRECTION = "Holm"
_EARLY = {"kl": "the KL budget", "time": "the CPU seconds"}
_CSV = ["group", "method", "kind", "metric", "value", "low", "high", "runs", "limited"]
_CSV += ["difference", "difference_low", "difference_high", "p", "p_holm", "above", "below", "p_sign"]


def markdown(summary: Summary) -> str:
    """Every table of every group."""
    parts = ["# Methods compared", text(headline(summary))]
    for group in summary.groups:
        parts.append(f"## {text(group.name)}")
        parts += [text(line) for line in remarks(group)]
        for name, title in GROUPS.items():
            metrics = [m for m in group.metrics if m.group == name]
            if metrics:
                parts += [f"### {title}", figures_table(group, metrics)]
        compared = [m for m in group.metrics if m.better and m.group != "cost"]
        if any(method.differences for method in group.methods):
            parts += [f"### Difference to {text(summary.reference)}", text(differences_note(summary))]
            parts.append(differences_table(group, compared))
        if group.answers:
            parts += ["### Questions", text(answers_note()), answers_table(group)]
        if aims(group, summary.reference):
            parts += [
                f"### What {text(summary.reference)} has to show, by its means",
                aims_table(group, summary.reference),
            ]
        parts += ["### How far the methods lie apart", spread_table(group)]
    repeated = forest_table(summary)
    if repeated:
        parts += [f"## {FOREST}", repeated]
    if summary.trials:
        parts += ["## What was tried on the validation split", trials_table(summary)]
    return "\n\n".join(parts) + "\n"


def headline(summary: Summary) -> str:
    """How much of what is wanted is there."""
    there = summary.wanted - summary.missing
    missing = f" {summary.missing} are missing, and jpu compare makes them." if summary.missing else ""
    return f"{there} of {summary.wanted} runs.{missing} Intervals cover {summary.confidence:.0%}."


def remarks(group: GroupRecord) -> list[str]:
    """What has to be said of a group before its tables."""
    said = [f"Runs: {', '.join(group.runs) or 'none'}. A mean is over those that a method has."]
    if len(group.runs) < FEWEST:
        said.append(
            f"Fewer than {FEWEST} runs of each method: intervals and marks say little of how its trainings differ, and "
            "another one may differ by more."
        )
    short = [m.name for m in group.methods if not m.complete]
    if short:
        said.append(
            f"Not all of them: {', '.join(short)}. These are in the tables, with differences on the runs that both "
            "have, and neither on the frontier nor held against the aims."
        )
    if group.mixed:
        named = "; ".join(f"{method} ({', '.join(subjects)})" for method, subjects in group.mixed.items())
        said.append(
            f"On subjects that were taught on another machine, with different weights: {named}. Differences on them "
            "are not paired, so their intervals are wider."
        )
    early = [words for why, by in _EARLY.items() if (words := _ended(group, why, by))]
    if early:
        said.append(f"Trainings that ended before their last step: {'; '.join(early)}.")
    said.append(f"On the frontier of worst attack and utility loss: {', '.join(group.frontier) or 'none'}.")
    return said


def _ended(group: GroupRecord, why: str, by: str) -> str:
    """Which trainings were ended by that, after how many steps; empty if none was."""
    methods = []
    for method in group.methods:
        found = [early for early in method.early if early.why == why]
        if found:
            after = ""
            if counted := [early.steps for early in found if early.steps is not None]:
                least, most = min(counted), max(counted)
                span = f"{least} to {most}" if least < most else f"{least}"
                after = f", after {span} of {found[0].of} steps"
            methods.append(f"{method.name} ({len(found)} of {len(method.runs)} runs{after})")
    return f"by {by} {', '.join(methods)}" if methods else ""


def differences_note(summary: Summary) -> str:
    """How the differences are to be read."""
    return (
        f"Method − {summary.reference}, on the runs that both have, paired, with the wider interval of bootstrap and "
        f"t-test. ** p < {ALPHA} after {CORRECTION}'s correction over the methods of a column; "
        f"* p < {ALPHA} before it only."
    )


def figures_table(group: GroupRecord, metrics: Sequence[MetricRecord]) -> str:
    """Methods down, figures across."""
    heads = ["method", "runs", *(text(m.words) for m in metrics)]
    rows = [
        [text(method.name), str(len(method.runs)), *(text(figure(method, metric)) for metric in metrics)]
        for method in group.methods
    ]
    return table(heads, rows)


def figure(method: MethodRecord, metric: MetricRecord) -> str:
    """A mean with its interval; "≥" where a run did not reach what is counted."""
    shown = method.figures.get(metric.key)
    if shown is None or shown.value is None:
        return MISSING
    style: Style = "number" if metric.style == "number" else metric.style
    value = show(shown.value, style)
    if method.limited.get(metric.key):
        value = f"≥{value}"
    if shown.low is None or shown.high is None or shown.low == shown.high:
        return value
    return f"{value} ({show(shown.low, lower(style))}–{show(shown.high, style)})"


def differences_table(group: GroupRecord, metrics: Sequence[MetricRecord]) -> str:
    """Methods down, differences across."""
    rows = [
        [text(method.name), *(text(difference(method.differences.get(m.key), m)) for m in metrics)]
        for method in group.methods
        if method.differences
    ]
    return table(["method", *(text(m.words) for m in metrics)], rows)


def difference(found: Difference | None, metric: MetricRecord) -> str:
    """A difference with its interval and mark."""
    if found is None:
        return MISSING
    style: Style = "points" if metric.style == "share" else "signed"
    mark = " **" if found.adjusted < ALPHA else " *" if found.p < ALPHA else ""
    if found.low is None or found.high is None:
        return f"{show(found.value, style)}{mark}"
    return f"{show(found.value, style)} ({show(found.low, lower(style))} to {show(found.high, style)}){mark}"


def answers_note() -> str:
    """How the answers are to be read."""
    return (
        "The first method − the second, on the runs that both have, paired, with the wider interval of bootstrap and "
        f"t-test. The answer is said of figures with p < {ALPHA} after {CORRECTION}'s correction over those of the "
        "question (**); “not shown” is no proof of equality: the intervals say what is still possible."
    )


def answered(group: GroupRecord) -> list[MetricRecord]:
    """The figures that questions are answered by."""
    return [m for m in group.metrics if any(m.key in answer.differences for answer in group.answers)]


def answers_table(group: GroupRecord) -> str:
    """Questions down, differences across."""
    metrics = answered(group)
    names = {m.key: m.words for m in metrics}
    rows = [
        [
            text(answer.words),
            text(f"{answer.method} − {answer.against}"),
            str(answer.runs),
            text(verdict(answer, names)),
            *(text(difference(answer.differences.get(m.key), m)) for m in metrics),
        ]
        for answer in group.answers
    ]
    return table(["question", "methods", "runs", "answer", *names.values()], rows)


def forest_table(summary: Summary) -> str:
    """Each question that several groups answer, a line for each group and one for all; empty if there is none."""
    known = {m.key: m for group in summary.groups for m in group.metrics}
    names = {key: m.words for key, m in known.items()}
    rows = []
    for words, found in by_group(summary):
        for group, answer in found:
            asked = [difference(answer.differences.get(key), known[key]) if key in known else MISSING for key in AXES]
            told = verdict(answer, names)
            rows.append([text(words), text(group), str(answer.runs), text(told), *map(text, asked)])
    return table(["question", "group", "runs", "answer", "worst attack", "utility loss"], rows) if rows else ""


def aims_table(group: GroupRecord, reference: str) -> str:
    """Aims down."""
    rows = []
    for aim in aims(group, reference):
        style: Style = "share" if aim.share else "number"
        cells = (show(aim.ours, style), show(aim.theirs, style), text(aim.rival) or MISSING, held(aim))
        rows.append([text(aim.words), *cells])
    return table(["aim", text(reference), "rival's", "rival", ""], rows)


def held(aim: Aim) -> str:
    """Whether an aim is reached, in a word."""
    if aim.held is None:
        return "cannot be said" if aim.rival else "nobody to compare with"
    return "reached" if aim.held else "missed"


def spread_table(group: GroupRecord) -> str:
    """Figures down; the defended models only."""
    rows = []
    for metric in group.metrics:
        found = group.spread.get(metric.key)
        if found is not None:
            style: Style = metric.style
            rows.append(
                [
                    text(metric.words),
                    show(found.low, style),
                    show(found.high, style),
                    show(found.between, style),
                    show(found.within, style),
                    show(found.told_apart),
                ]
            )
    heads = ["figure", "lowest mean", "highest mean", "sd between methods", "sd within a method", "pairs told apart"]
    return table(heads, rows)


def trials_table(summary: Summary) -> str:
    """Every setting that was tried."""
    rows = [
        [
            text(t.subject),
            text(t.method),
            str(t.trial),
            text(", ".join(f"{k} {v}" for k, v in t.changes.items()) or "as it is"),
            show(t.worst),
            show(t.utility),
            "chosen" if t.chosen else "",
        ]
        for t in summary.trials
    ]
    return table(["subject", "method", "trial", "setting", "worst attack", "utility loss", ""], rows)


def as_csv(summary: Summary) -> str:
    """One line for each figure of each method."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_CSV)
    for group in summary.groups:
        for method in group.methods:
            for key, found in method.figures.items():
                writer.writerow([group.name, method.name, method.kind, key, *_numbers(found), *_compared(method, key)])
    return out.getvalue()


def _numbers(found: Figure) -> list[object]:
    return [found.value, found.low, found.high, found.n]


def _compared(method: MethodRecord, key: str) -> list[object]:
    d = method.differences.get(key)
    limited = method.limited.get(key, "")
    if d is None:
        return [limited, *([""] * 8)]
    return [limited, d.value, d.low, d.high, d.p, d.adjusted, d.above, d.below, d.sign]
