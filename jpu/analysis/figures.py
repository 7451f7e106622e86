"""Figures of the analyses: panels in the card's style, for a page and as files of their own. Decides nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from jpu.analysis.causal import Effect, counted
from jpu.analysis.families import ALL, Convergence
from jpu.analysis.overlap import LayerOverlap, Overlap
from jpu.card.charts import HEIGHT, WIDTH, Dot, Line, dots, legend, lines
from jpu.card.markup import Markup, join, tag
from jpu.card.page.parts import note

# What is drawn, its mark and its words, in the order of the legend.
CONDITIONS = {
    "jailbreak": ("one", "jailbreaks that succeed, erased model"),
    "jailbreak_before": ("two", "the same jailbreaks, original"),
    "benign_wrapped": ("three", "benign question in the same template, erased model"),
    "benign": ("four", "benign question, erased model"),
}
GROUPS = {
    "jailbreak": ("one", "jailbreaks"),
    "benign_wrapped": ("three", "benign question in the same template"),
    "benign": ("four", "benign question"),
}
SELECTORS = {
    "igi": "path (IGI)",
    "gradient": "gradient × value",
    "activation": "activation",
    "snip": "SNIP",
    "random": "random",
}
_BEFORE, _AFTER = ("two", "before hardening"), ("one", "after hardening")
_COLUMNS, _GAP, _HEAD = 3, 24, 40


@dataclass(frozen=True)
class Panel:
    """A chart and what it shows."""

    caption: str
    chart: Markup


@dataclass(frozen=True)
class Sheet:
    """Charts that are looked at together.

    Attributes:
        name: Of its file.
        title: What they show.
        note: How they are read.
        marks: (mark, label) of their lines.
        panels: The charts.
    """

    name: str
    title: str
    note: str
    marks: tuple[tuple[str, str], ...]
    panels: tuple[Panel, ...]


def overlap_sheet(defence: str, layers: Sequence[LayerOverlap], reference: str) -> Sheet:
    """Overlap by layer, a panel for each q; `reference` is "sensitive" or "changed"."""
    every: list[list[Overlap]] = [getattr(layer, reference) for layer in layers]
    shares = sorted({one.share for layer in every for one in layer})
    panels = []
    for share in shares:
        drawn = []
        for condition, (mark, label) in CONDITIONS.items():
            found = [
                (float(layer.layer), one.overlap)
                for layer, overlaps in zip(layers, every, strict=True)
                for one in overlaps
                if one.condition == condition and one.share == share
            ]
            band = tuple((x, i.low, i.high) for x, i in found if i.low is not None and i.high is not None)
            drawn.append(Line(label, mark, tuple((x, i.value) for x, i in found), band if mark == "one" else ()))
        chance = tuple((float(layer.layer), share) for layer in layers)
        drawn.append(Line("chance", "chance", chance))
        caption = f"top {100 * share:g} % of a layer's weights"
        panels.append(Panel(caption, lines(caption, drawn, across="layer", bounds=(0.0, 1.0))))
    weights = {
        "sensitive": ("what bare questions need", "the weights that bare questions need under the original model"),
        "changed": ("what the erasure moved", "the weights that the erasure moved most"),
    }[reference]
    return Sheet(
        f"overlap_{defence}_{reference}",
        f"Share of {weights[0]} that jailbreaks use too ({defence})",
        f"How many of {weights[1]} are also among the layer's top weights by sensitivity on other prompts. Band: 95 %.",
        (*CONDITIONS.values(), ("chance", "chance")),
        tuple(panels),
    )


def convergence_sheet(rows: Sequence[Convergence]) -> Sheet:
    """Mean over families, before and after: with direct harm, its excess over benign questions, with safety."""
    panels = [
        _both(rows, "direct", "jailbreak and direct harm, Jaccard", chance=True),
        _both(rows, "control", "benign, wrapped and bare, Jaccard", chance=True),
        _both(rows, "excess", "excess of the first over the second"),
        _both(rows, "reliability", "jailbreak, halves of its behaviors, Jaccard", chance=True),
        _both(rows, "safety", "jailbreak and safety, Jaccard", chance=True),
        _both(rows, "refused", "jailbreak refused, and safety, Jaccard", chance=True),
        _both(rows, "shuffled", "single prompts, other behaviors, Jaccard", chance=True),
        _both(rows, "paired", "single prompts, same behavior, Jaccard", chance=True),
        _both(rows, "direct_cosine", "jailbreak and direct harm, cosine"),
        _both(rows, "control_cosine", "benign, wrapped and bare, cosine"),
        _both(rows, "safety_cosine", "jailbreak and safety, cosine"),
    ]
    return Sheet(
        "convergence",
        "Where paths meet, mean over template families",
        "Paths of the same size in each layer. Both prompts share an answer, so only the excess over benign questions, "
        "which share theirs as well, speaks of harm. Bands: 95 %.",
        (_BEFORE, _AFTER, ("chance", "chance")),
        tuple(panel for panel in panels if panel.chart),
    )


def family_sheet(rows: Sequence[Convergence]) -> Sheet:
    """Excess of every family, before and after."""
    families = dict.fromkeys(row.family for row in rows if row.family != ALL)
    return Sheet(
        "families",
        "Excess over benign questions of the Jaccard with direct harm, by family",
        "As in the figure above, for every family of wordings by itself.",
        (_BEFORE, _AFTER),
        tuple(_both(rows, "excess", family.replace("_", " "), family) for family in families),
    )


def causal_sheet(effects: Sequence[Effect]) -> Sheet:
    """How far answers fall when units are taken out, a panel for each k and filling."""
    kinds = dict.fromkeys((e.kind, e.k, e.fill) for e in effects if e.selector != "none")
    panels = []
    for kind, k, fill in kinds:
        of = {(e.selector, e.group): e.drop for e in effects if (e.kind, e.k, e.fill) == (kind, k, fill)}
        rows = [
            (label, [Dot(mark, d.value, d.low, d.high) for g, (mark, _) in GROUPS.items() if (d := of.get((name, g)))])
            for name, label in SELECTORS.items()
        ]
        filled = "set to zero" if fill == "zero" else "set to their mean"
        caption = f"{counted(k, kind)} a layer {filled}"
        panels.append(
            Panel(caption, dots(caption, rows, across="fall of the answer's probability", bounds=(-0.2, 1.0)))
        )
    return Sheet(
        "causal",
        "How far answers fall when units are taken out",
        "Fall of the mean probability of the answer, on questions that the units were not chosen on. A path that is a "
        "cause takes leaks away and leaves benign answers. Whiskers: 95 %.",
        tuple(GROUPS.values()),
        tuple(panels),
    )


def on_page(sheet: Sheet) -> Markup:
    """A sheet as part of a page."""
    shown = [tag("figure", tag("figcaption", tag("b", p.caption)), p.chart) for p in sheet.panels]
    return join(tag("h3", sheet.title), note(sheet.note), legend(*sheet.marks), tag("div", *shown, class_="multiples"))


def alone(sheet: Sheet) -> str:
    """A sheet as an SVG file that needs nothing else."""
    style = files("jpu.card").joinpath("style.css").read_text(encoding="utf-8")
    parts = [tag("rect", width="100%", height="100%", fill="var(--sheet)")]
    parts.append(tag("text", sheet.title, x=_GAP, y=24, fill="var(--ink)", font_size=16, font_weight=600))
    x, y = float(_GAP), 34.0
    # Four stand in a square, and others in threes.
    columns = 2 if len(sheet.panels) == 4 else _COLUMNS
    width = columns * (WIDTH + _GAP) + _GAP
    for mark, label in sheet.marks:
        room = 44 + 6.6 * len(label)
        if x + room > width:
            x, y = float(_GAP), y + 20
        (sample,) = re.findall(r"<svg.*?</svg>", legend((mark, label)))
        parts.append(_placed(Markup(sample), x, y, 28, 16))
        parts.append(tag("text", label, x=x + 34, y=y + 12, fill="var(--muted)", font_size=12))
        x += room
    y += _HEAD
    for start in range(0, len(sheet.panels), columns):
        row = sheet.panels[start : start + columns]
        tall = max(_height(panel.chart) for panel in row)
        for number, panel in enumerate(row):
            left = _GAP + number * (WIDTH + _GAP)
            parts.append(tag("text", panel.caption, x=left, y=y, fill="var(--ink)", font_size=13, font_weight=600))
            parts.append(_placed(panel.chart, left, y + 6, WIDTH, _height(panel.chart)))
        y += tall + _GAP + 16
    drawn = tag(
        "svg",
        tag("title", sheet.title),
        # The sheet is ours and holds nothing that could end it.
        tag("style", Markup(style)),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {y:g}",
        width=width,
        height=f"{y:g}",
        font_family="system-ui, sans-serif",
    )
    return drawn + "\n"


def _both(rows: Sequence[Convergence], measure: str, caption: str, family: str = ALL, *, chance: bool = False) -> Panel:
    drawn = []
    for when, (mark, label) in (("before", _BEFORE), ("after", _AFTER)):
        found = [(float(r.layer), r.figures[measure]) for r in rows if (r.when, r.family) == (when, family)]
        band = tuple((x, i.low, i.high) for x, i in found if i.low is not None and i.high is not None)
        drawn.append(Line(label, mark, tuple((x, i.value) for x, i in found), band))
    if chance:
        levels = {float(row.layer): row.chance for row in rows if row.when == "before"}
        drawn.append(Line("chance", "chance", tuple(sorted(levels.items()))))
    signed = measure.startswith("excess") or measure.endswith("cosine")
    bounds = (-1.0 if signed else 0.0, 1.0)
    return Panel(
        caption,
        lines(caption, drawn, across="layer", style="number", bounds=bounds, rule=0.0 if signed else None),
    )


def _placed(svg: Markup, x: float, y: float, width: float, height: float) -> Markup:
    return Markup(re.sub(r"^<svg", f'<svg x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"', _sizeless(svg)))


def _sizeless(svg: str) -> str:
    """Without a size of its own."""
    head, rest = svg.split(">", 1)
    return re.sub(r' (?:width|height)="[^"]*"', "", head) + ">" + rest


def _height(chart: Markup) -> float:
    found = re.search(r'viewBox="0 0 \d+ (\d+)"', chart)
    return float(found[1]) if found else HEIGHT
