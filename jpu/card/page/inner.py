"""What the rounds did inside the model: the paths that they found, and how they trained."""

from __future__ import annotations

from jpu.card.charts import Line, legend, lines
from jpu.card.markup import Child, Markup, number, tag
from jpu.card.measured import PathRound, Series, TrainingRound
from jpu.card.model import Card
from jpu.card.page.parts import Row, details, facts, note, section, table

_MARKS = ("one", "two", "three")
# Rows of a table of training steps; the chart has them all.
ROWS = 9


def paths(card: Card) -> Markup | None:
    """Overlap of the jailbreak path with others, by layer."""
    if not card.paths:
        return None
    compared = _compared(card)
    parts: list[Child] = []
    for found in card.paths:
        parts.append(tag("h3", f"Round {found.round}"))
        if not found.layers:
            parts.append(note("Converged: no path was looked for."))
            continue
        errors = (
            ("Completeness error", "completeness_error", found.completeness_error),
            ("With half the steps", "completeness_error_half", found.completeness_error_half),
            ("With twice the steps", "completeness_error_twice", found.completeness_error_twice),
        )
        known = [
            (words, number(f"paths.{found.round}.{name}", e, "share")) for words, name, e in errors if e is not None
        ]
        if known:
            parts.append(facts(known))
        charts = [_overlap(found, "jaccard", compared), _overlap(found, "cosine", compared)]
        parts.append(tag("div", *charts, class_="multiples"))
        parts.append(details("The layers in figures", _layers(found, compared)))
    return section(
        "paths",
        "Paths in the model",
        note("How much of the jailbreak path other paths share, layer by layer: units, and the weight on them."),
        legend(*((mark, name) for name, mark in compared.items()), ("chance", "what chance would share")),
        *parts,
    )


def training(card: Card) -> Markup | None:
    """Curves of each round."""
    if not card.training:
        return None
    parts: list[Child] = []
    for trained in card.training:
        key = f"training.{trained.round}"
        parts.append(tag("h3", f"Round {trained.round}"))
        if trained.converged:
            parts.append(note("Converged: too few jailbreaks got through to train on; the round passed its input on."))
        counts = [(n, getattr(trained, n)) for n in ("steps", "rollbacks", "trained_parameters")]
        shown = [(n, v) for n, v in counts if v is not None]
        parts.append(facts([(n.replace("_", " ").capitalize(), number(f"{key}.{n}", v, "count")) for n, v in shown]))
        drawn = [s for s in trained.series if s.points]
        if drawn:
            parts.append(tag("div", *(_training_chart(s) for s in drawn), class_="multiples"))
            parts.append(details("Some of the steps in figures", _steps(trained)))
    return section("training", "Training", *parts)


def _compared(card: Card) -> dict[str, str]:
    """The paths that the jailbreak path is held against, and the mark of each."""
    names = dict.fromkeys(o.path for found in card.paths for layer in found.layers for o in layer.overlaps)
    return {name: _MARKS[index % len(_MARKS)] for index, name in enumerate(names)}


def _overlap(found: PathRound, measure: str, compared: dict[str, str]) -> Markup:
    drawn = []
    for name, mark in compared.items():
        points = [
            (layer.layer, getattr(o, measure)) for layer in found.layers for o in layer.overlaps if o.path == name
        ]
        drawn.append(Line(name, mark, tuple((float(x), y) for x, y in points if y is not None)))
    if measure == "jaccard":
        chance = [(float(layer.layer), layer.chance) for layer in found.layers if layer.chance is not None]
        drawn.append(Line("chance", "chance", tuple(chance)))
    words = "Jaccard of the units" if measure == "jaccard" else "Cosine of the scores"
    chart = lines(f"Round {found.round}: {words} by layer", drawn, across="layer", style="number")
    return tag("figure", tag("figcaption", tag("b", words)), chart)


def _layers(found: PathRound, compared: dict[str, str]) -> Markup:
    rows = []
    for layer in found.layers:
        key = f"paths.{found.round}.layers.{layer.layer}"
        known = {o.path: o for o in layer.overlaps}
        cells = [
            number(f"{key}.neurons", layer.neurons, "count"),
            number(f"{key}.heads", layer.heads, "count"),
            number(f"{key}.chance", layer.chance, "number"),
        ]
        for name in compared:
            overlap = known.get(name)
            for measure in ("jaccard", "cosine"):
                value = None if overlap is None else getattr(overlap, measure)
                cells.append(number(f"{key}.overlaps.{name}.{measure}", value, "number"))
        rows.append(Row(number(None, layer.layer, "count"), cells))
    heads = [
        "Layer",
        "Neurons",
        "Heads",
        "Chance",
        *(f"{name}, {m}" for name in compared for m in ("Jaccard", "cosine")),
    ]
    return table(f"Round {found.round}", heads, rows)


def _training_chart(series: Series) -> Markup:
    points = tuple((float(x), y) for x, y in series.points)
    chart = lines(f"{series.name} against steps", [Line(series.name, "after", points)], across="steps", style="number")
    return tag("figure", tag("figcaption", tag("b", series.name)), chart)


def _steps(trained: TrainingRound) -> Markup:
    known = [(s.name, dict(s.points)) for s in trained.series if s.points]
    every = sorted({step for _, points in known for step in points})
    rows = []
    for step in thinned(every):
        key = f"training.{trained.round}.series"
        cells = [number(f"{key}.{name}.points.{step}", points.get(step), "number") for name, points in known]
        rows.append(Row(number(None, step, "count"), cells))
    return table(f"Round {trained.round}", ["Step", *(name for name, _ in known)], rows)


def thinned(steps: list[int]) -> list[int]:
    """At most `ROWS` of the steps, evenly spaced, the first and the last among them."""
    if len(steps) <= ROWS:
        return steps
    return [steps[round(i * (len(steps) - 1) / (ROWS - 1))] for i in range(ROWS)]
