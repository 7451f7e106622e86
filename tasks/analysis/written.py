"""What the stage leaves: tables for the plots, figures as files and on one page, and the figures that are watched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jpu.analysis.causal import Effect
from jpu.analysis.families import ALL, MEASURES, Convergence
from jpu.analysis.figures import Sheet, alone, causal_sheet, convergence_sheet, family_sheet, on_page, overlap_sheet
from jpu.analysis.overlap import Overlap
from jpu.analysis.resampling import Interval
from jpu.card.html import document
from jpu.card.markup import tag
from jpu.card.numbers import show
from jpu.card.page.parts import Row, note, section, table
from jpu.files import write_json, write_text
from tasks.analysis.erased import Erased
from tasks.tables import table as csv

OVERLAP = ("defence", "reference", "share", "condition", "less", "layer", "value", "low", "high")
CONVERGENCE = ("when", "family", "layer", "measure", "chance", "value", "low", "high")
# Figures of an erased model that are numbers of things, in words.
_COUNTS = {
    "mined": "prompts mined",
    "through": "jailbreaks that get through",
    "compared": "of them compared",
    "behaviors": "behaviors",
}
_ERASED = "What was erased"
_WORDS = (
    _COUNTS
    | {
        f"{kind}_{figure}_{when}": f"{words} {what}, {when}"
        for kind, what in (("bare", "restricted questions"), ("benign", "benign questions"))
        for figure, words in (("probability", "probability of the answers to"), ("told", "share told of"))
        for when in ("before", "after")
    }
    | {"kl": "KL to the original, nats a token"}
)
_ESTIMATES = ("probability", "told", "drop", "beyond")
_TAKEN_OUT = ("kind", "k", "fill", "selector", "group")
CAUSAL = (*_TAKEN_OUT, *(f"{e}{end}" for e in _ESTIMATES for end in ("", "_low", "_high", "_n")))


@dataclass(frozen=True)
class Found:
    """All that was found.

    Attributes:
        erased: A model for each defence that erases.
        convergence: Rows of the second analysis.
        effects: Rows of the causal check.
        counts: How many prompts each rests on.
    """

    erased: Sequence[Erased]
    convergence: Sequence[Convergence]
    effects: Sequence[Effect]
    counts: dict[str, float]


def write_found(folder: Path, found: Found) -> dict[str, Any]:
    """Write all of it into a folder; gives what metrics.json holds."""
    metrics = summary(found)
    write_json(folder / "metrics.json", metrics)
    write_text(folder / "overlap.csv", csv(_overlap_rows(found.erased), OVERLAP))
    write_text(folder / "convergence.csv", csv(_convergence_rows(found.convergence), CONVERGENCE))
    write_text(folder / "causal.csv", csv(_causal_rows(found.effects), CAUSAL))
    shown = sheets(found)
    for sheet in shown:
        write_text(folder / "figures" / f"{sheet.name}.svg", alone(sheet))
    write_text(folder / "analyses.html", page(found, shown))
    return metrics


def sheets(found: Found) -> list[Sheet]:
    """Every figure that there is something to draw of."""
    made = [
        overlap_sheet(one.defence, one.layers, reference)
        for one in found.erased
        for reference in ("sensitive", "changed")
        if one.layers
    ]
    if found.convergence:
        made += [convergence_sheet(found.convergence), family_sheet(found.convergence)]
    if found.effects:
        made.append(causal_sheet(found.effects))
    return made


def page(found: Found, shown: Sequence[Sheet]) -> str:
    """The figures on one page, with what they rest on."""
    rows = [
        Row(
            _WORDS.get(name, name),
            [show(one.figures.get(name), "count" if name in _COUNTS else "number") for one in found.erased],
        )
        for name in dict.fromkeys(name for one in found.erased for name in one.figures)
    ]
    erased = section(
        "erased",
        _ERASED,
        note("How the original model was changed: by questions that are asked bare, before and after the erasure."),
        table("Erased models", ["Figure", *(one.defence for one in found.erased)], rows) if rows else None,
    )
    figures = section("figures", "Figures", *(on_page(sheet) for sheet in shown))
    links = [tag("li", tag("a", words, href=f"#{to}")) for to, words in (("erased", _ERASED), ("figures", "Figures"))]
    return document(
        "The two analyses",
        tag(
            "header",
            tag("p", "Analyses", class_="kicker"),
            tag("h1", "The two analyses, and the causal check"),
            tag("nav", tag("ul", *links), aria_label="Contents"),
        ),
        tag("main", erased, figures),
        tag("footer", "What the figures mean, and their controls: docs/analyses.md."),
    )


def summary(found: Found) -> dict[str, Any]:
    """Figures that are watched: numbers only, by name; layers in thirds."""
    metrics: dict[str, Any] = {"counts": found.counts, "erased": {one.defence: one.figures for one in found.erased}}
    metrics["overlap"] = {
        one.defence: {
            f"{round(100 * o.share, 3):g}": _thirds(
                [next(x for x in layer.sensitive if _key(x) == _key(o)).overlap for layer in one.layers]
            )
            for o in one.layers[0].sensitive
            if o.condition == "jailbreak"
        }
        for one in found.erased
        if one.layers
    }
    metrics["convergence"] = {
        when: {
            measure: _thirds([r.figures[measure] for r in found.convergence if (r.when, r.family) == (when, ALL)])
            for measure in MEASURES
        }
        for when in dict.fromkeys(row.when for row in found.convergence)
    }
    metrics["causal"] = {
        f"{e.kind}_{e.selector}_{e.k}_{e.fill}_{e.group}": {n: getattr(e, n).value for n in ("drop", "beyond", "told")}
        for e in found.effects
    }
    return metrics


def _key(overlap: Overlap) -> tuple[str, float]:
    return overlap.condition, overlap.share


def _thirds(layers: Sequence[Interval]) -> dict[str, float]:
    """Means over the lower, middle and upper third of the layers; a model of two layers has no middle."""
    count = len(layers)
    cuts = [0, round(count / 3), count - round(count / 3), count]
    names = ("lower", "middle", "upper")
    return {
        name: sum(i.value for i in layers[a:b]) / (b - a)
        for name, a, b in zip(names, cuts, cuts[1:], strict=False)
        if b > a
    }


def _overlap_rows(erased: Sequence[Erased]) -> Iterator[dict[str, Any]]:
    for one in erased:
        for layer in one.layers:
            for reference in ("sensitive", "changed"):
                overlaps: list[Overlap] = getattr(layer, reference)
                for found in overlaps:
                    base = {
                        "defence": one.defence,
                        "reference": reference,
                        "share": found.share,
                        "condition": found.condition,
                        "layer": layer.layer,
                    }
                    yield {**base, **_interval(found.overlap)}
                    for less, excess in found.excess.items():
                        yield {**base, "less": less, **_interval(excess)}
            for share, value in layer.moved.items():
                base = {"defence": one.defence, "reference": "changed", "share": share, "condition": "sensitive"}
                yield {**base, "layer": layer.layer, "value": value}


def _convergence_rows(rows: Sequence[Convergence]) -> Iterator[dict[str, Any]]:
    for row in rows:
        for measure, figure in row.figures.items():
            base = {"when": row.when, "family": row.family, "layer": row.layer, "measure": measure}
            yield {**base, "chance": row.chance, **_interval(figure)}


def _causal_rows(effects: Sequence[Effect]) -> Iterator[dict[str, Any]]:
    for effect in effects:
        row: dict[str, Any] = {n: getattr(effect, n) for n in _TAKEN_OUT}
        for name in _ESTIMATES:
            estimate = getattr(effect, name)
            row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
            row[f"{name}_n"] = estimate.n
        yield row


def _interval(figure: Interval) -> dict[str, Any]:
    return {
        "value": figure.value,
        **({} if figure.low is None else {"low": figure.low}),
        **({} if figure.high is None else {"high": figure.high}),
    }
