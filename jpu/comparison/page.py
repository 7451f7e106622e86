"""The comparison as one page in the style of the card: no script, no request."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from jpu.card.charts import Line, legend, lines
from jpu.card.figure import Figure
from jpu.card.html import document
from jpu.card.markup import Child, Markup, figure, number, tag
from jpu.card.numbers import Style, lower
from jpu.card.page.parts import Row, details, note, section, table
from jpu.comparison.aims import aims
from jpu.comparison.answers import ALPHA, FEWEST, verdict
from jpu.comparison.forest import ANCHOR, forest_plots
from jpu.comparison.pareto import KINDS, chart, kinds, points
from jpu.comparison.records import GroupRecord, MethodRecord, MetricRecord, Summary
from jpu.comparison.statistics import Difference
from jpu.comparison.tables import FOREST, GROUPS, answered, answers_note, differences_note, headline, held, remarks

_LESSONS = {
    "restricted": "fine-tuned on restricted pairs",
    "benign": "fine-tuned on benign pairs",
    "refusals": "fine-tuned on refusals removed",
}
_MARKS = ("after", "before", "three")


def render(summary: Summary) -> str:
    """The page; equal summaries give equal bytes."""
    parts: list[Child] = []
    links = []
    for group in summary.groups:
        anchor = f"group-{group.name}"
        parts.append(_group(summary, group, anchor))
        links.append(tag("li", tag("a", group.name, href=f"#{anchor}")))
    plots = forest_plots(summary)
    if plots:
        parts.append(plots)
        links.append(tag("li", tag("a", FOREST, href=f"#{ANCHOR}")))
    if summary.trials:
        parts.append(_trials(summary))
        links.append(tag("li", tag("a", "Trials", href="#trials")))
    style = files("jpu.comparison").joinpath("page.css").read_text(encoding="utf-8")
    return document(
        "Methods compared",
        tag("style", Markup(style)),
        tag(
            "header",
            tag("p", "Comparison of defences", class_="kicker"),
            tag("h1", "Methods compared"),
            tag("p", headline(summary)),
            tag("nav", tag("ul", *links), aria_label="Contents"),
        ),
        tag("main", *parts),
        tag(
            "footer", f"Measured on: {', '.join(summary.machines) or 'nothing yet'}. What it means: docs/comparison.md."
        ),
    )


def _group(summary: Summary, group: GroupRecord, anchor: str) -> Markup:
    parts: list[Child] = [note(line) for line in remarks(group)]
    drawn = chart(group)
    if drawn:
        parts += [
            tag("h3", "Worst attack against utility loss"),
            note(
                "Lower and further left is better. The dashed line joins what no other method beats on both at once. "
                "Faint marks lack some of the runs."
            ),
            kinds(group),
            drawn,
            _key(group),
        ]
    if group.answers:
        parts += [tag("h3", "Questions"), note(answers_note()), _answers(group)]
    parts += _relearning(summary, group)
    for name, title in GROUPS.items():
        metrics = [m for m in group.metrics if m.group == name]
        if metrics:
            parts += [tag("h3", title), _figures(group, metrics, f"{title}, {group.name}")]
    compared = [m for m in group.metrics if m.better and m.group != "cost"]
    if any(method.differences for method in group.methods):
        parts += [tag("h3", f"Difference to {summary.reference}"), note(differences_note(summary))]
        parts.append(_differences(group, compared))
    if aims(group, summary.reference):
        parts += [tag("h3", f"What {summary.reference} has to show, by its means"), _aims(group, summary.reference)]
    parts += [
        tag("h3", "How far the methods lie apart"),
        note("Of the defended models only: what a sandbox does not tell apart, it does not measure."),
        _spread(group),
        details("Every run", *(_runs(group, metric) for metric in group.metrics)),
    ]
    return section(anchor, group.name, *parts)


def _key(group: GroupRecord) -> Markup:
    """The numbers of the plot."""
    items = [
        tag("li", f"{p.number} ", tag("b", p.method.name), f": {p.method.words} ({KINDS[p.method.kind]})")
        for p in points(group)
    ]
    return tag("ul", *items, class_="key")


def _relearning(summary: Summary, group: GroupRecord) -> list[Child]:
    """How the template attack comes back: the reference, and the two that last longest."""
    shown = [m for m in group.methods if m.name == summary.reference and m.curves]
    others = [m for m in group.methods if m.kind in ("ours", "baseline") and m.curves and m not in shown]
    shown += sorted(others, key=_lasting, reverse=True)[: len(_MARKS) - len(shown)]
    if not shown:
        return []
    figures = []
    for lesson, words in _LESSONS.items():
        curves = [
            Line(m.name, mark, tuple((float(x), y) for x, y in m.curves[lesson]))
            for mark, m in zip(_MARKS, shown, strict=False)
            if lesson in m.curves
        ]
        if curves:
            plot = lines(words, curves, across="steps", bounds=(0.0, 1.0), rule=0.5)
            figures.append(tag("figure", tag("figcaption", tag("b", words)), plot))
    return [
        tag("h3", "Relearning"),
        note(
            f"Success of the template attack after so many steps: {summary.reference}, and the two others that take "
            "most of them on restricted pairs. A run is not trained on once it has passed the half."
        ),
        legend(*((mark, m.name) for mark, m in zip(_MARKS, shown, strict=False))),
        tag("div", *figures, class_="multiples"),
    ]


def _lasting(method: MethodRecord) -> float:
    found = method.figures.get("relearning_restricted")
    return 0.0 if found is None or found.value is None else found.value


def _figures(group: GroupRecord, metrics: Sequence[MetricRecord], caption: str) -> Markup:
    rows = []
    kind = ""
    for method in group.methods:
        cells: list[Child] = [number(f"{group.name}.{method.name}.runs", len(method.runs), "count")]
        for metric in metrics:
            key = f"{group.name}.{method.name}.{metric.key}"
            cell = figure(key, _bare(method, metric), metric.style)
            cells.append(Markup(f"≥ {cell}") if method.limited.get(metric.key) else cell)
        head = Markup(tag("span", method.name) + tag("span", method.words, class_="sub"))
        rows.append(Row(head, cells, KINDS[method.kind] if method.kind != kind else ""))
        kind = method.kind
    return table(caption, ["Method", "Runs", *(m.words for m in metrics)], rows)


def _bare(method: MethodRecord, metric: MetricRecord) -> Figure | None:
    found = method.figures.get(metric.key)
    # The runs stand in a column of their own; an interval of nothing says nothing.
    if found is None:
        return None
    flat = found.low == found.high
    return found.model_copy(update={"n": None} | ({"low": None, "high": None} if flat else {}))


def _differences(group: GroupRecord, metrics: Sequence[MetricRecord]) -> Markup:
    rows = []
    for method in group.methods:
        if method.differences:
            cells = [
                _difference(f"{group.name}.{method.name}.{m.key}", method.differences.get(m.key), m) for m in metrics
            ]
            rows.append(Row(method.name, cells))
    return table(f"Differences, {group.name}", ["Method", *(m.words for m in metrics)], rows)


def _difference(key: str, found: Difference | None, metric: MetricRecord) -> Markup:
    if found is None:
        return number(None, None)
    style: Style = "points" if metric.style == "share" else "signed"
    worse = (found.value > 0) == (metric.better == "low")
    mark = " **" if found.adjusted < ALPHA else " *" if found.p < ALPHA else ""
    shown = number(f"{key}.difference", found.value, style)
    interval: list[Child] = []
    if found.low is not None and found.high is not None:
        low = number(f"{key}.difference_low", found.low, lower(style))
        high = number(f"{key}.difference_high", found.high, style)
        interval = [" ", tag("span", "(", low, " to ", high, ")", class_="interval")]
    told = f"p {found.p:.3g}, {found.adjusted:.3g} corrected; higher in {found.above} runs, lower in {found.below}"
    class_ = ("worse" if worse else "better") if mark == " **" else None
    return tag("span", shown, mark, *interval, class_=class_, title=told)


def _answers(group: GroupRecord) -> Markup:
    metrics = answered(group)
    names = {m.key: m.words for m in metrics}
    rows = []
    for i, answer in enumerate(group.answers):
        plain = answer.runs < FEWEST or bool(answer.better) == bool(answer.worse)
        class_ = "same" if plain else "better" if answer.better else "worse"
        key = f"{group.name}.answers.{i}"
        cells: list[Child] = [
            tag("span", verdict(answer, names), class_=class_),
            number(f"{key}.runs", answer.runs, "count"),
            *(_difference(f"{key}.{m.key}", answer.differences.get(m.key), m) for m in metrics),
        ]
        head = Markup(tag("span", answer.words) + tag("span", f"{answer.method} − {answer.against}", class_="sub"))
        rows.append(Row(head, cells))
    heads = ["Question", "Answer", "Runs", *names.values()]
    return table(f"Questions, {group.name}", heads, rows, class_="questions", text=1)


def _aims(group: GroupRecord, reference: str) -> Markup:
    rows = []
    for i, aim in enumerate(aims(group, reference)):
        style: Style = "share" if aim.share else "number"
        key = f"{group.name}.aims.{i}"
        class_ = {True: "better", False: "worse", None: "same"}[aim.held]
        cells: list[Child] = [
            number(f"{key}.ours", aim.ours, style),
            number(f"{key}.theirs", aim.theirs, style),
            aim.rival,
            tag("span", held(aim), class_=class_),
        ]
        rows.append(Row(aim.words, cells))
    return table(f"Aims, {group.name}", ["Aim", reference, "Rival's", "Rival", ""], rows)


def _spread(group: GroupRecord) -> Markup:
    rows = []
    for metric in group.metrics:
        found = group.spread.get(metric.key)
        if found is None:
            continue
        key = f"{group.name}.spread.{metric.key}"
        style: Style = metric.style
        cells = [
            number(f"{key}.low", found.low, style),
            number(f"{key}.high", found.high, style),
            number(f"{key}.between", found.between, style),
            number(f"{key}.within", found.within, style),
            number(f"{key}.told_apart", found.told_apart),
        ]
        rows.append(Row(metric.words, cells))
    heads = ["Figure", "Lowest mean", "Highest mean", "SD between methods", "SD within a method", "Pairs told apart"]
    return table(f"Spread, {group.name}", heads, rows)


def _runs(group: GroupRecord, metric: MetricRecord) -> Markup:
    rows = []
    for method in group.methods:
        known = dict(zip(method.runs, method.by_run.get(metric.key, ()), strict=False))
        cells = [
            number(f"{group.name}.{method.name}.{metric.key}.{name}", known.get(name), metric.style)
            for name in group.runs
        ]
        rows.append(Row(method.name, cells))
    return table(f"{metric.words}, each run, {group.name}", ["Method", *group.runs], rows)


def _trials(summary: Summary) -> Markup:
    rows = []
    for t in summary.trials:
        key = f"trials.{t.subject}.{t.method}.{t.trial}"
        setting = ", ".join(f"{name} {value}" for name, value in t.changes.items()) or "as it is"
        cells: list[Child] = [
            t.subject,
            setting,
            number(f"{key}.worst", t.worst),
            number(f"{key}.utility", t.utility),
            "chosen" if t.chosen else "",
        ]
        rows.append(Row(f"{t.method} {t.trial}", cells))
    return section(
        "trials",
        "What was tried on the validation split",
        table("Trials", ["Trial", "Subject", "Setting", "Worst attack", "Utility loss", ""], rows, text=2),
    )
