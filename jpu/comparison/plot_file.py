"""The plot as a file of its own: with its colours, and with the names that its numbers stand for."""

from __future__ import annotations

from importlib.resources import files

from jpu.card.markup import Markup, tag
from jpu.comparison.pareto import HEIGHT, KINDS, WIDTH, Point, drawing, named, points, shape
from jpu.comparison.records import GroupRecord

_ROW, _TOP = 15, 24
# Of a letter, in the font of pareto.css; a little too much, since fonts differ.
_LETTER = 6.0


def plot_file(group: GroupRecord) -> Markup:
    """One group's plot with its key beside it, as an SVG file; empty where there is nothing to plot."""
    parts = drawing(group)
    if not parts:
        return Markup("")
    key, y = [], _TOP
    for kind, heading in KINDS.items():
        marks = [point for point in points(group) if point.method.kind == kind]
        if marks:
            key += [shape(kind, WIDTH + 8, y - 4), tag("text", heading, x=WIDTH + 22, y=y, class_="heading")]
            for place, point in enumerate(marks, 1):
                key += _entry(point, group, y + place * _ROW)
            y += (len(marks) + 1) * _ROW + 6
    longest = max(len(named(point.method, group)) for point in points(group))
    width, height = round(WIDTH + 56 + longest * _LETTER), max(HEIGHT, y)
    style = files("jpu.comparison").joinpath("pareto.css").read_text(encoding="utf-8")
    return tag(
        "svg",
        tag("style", Markup(style)),
        tag("rect", x=0, y=0, width=width, height=height, class_="sheet"),
        *parts,
        *key,
        xmlns="http://www.w3.org/2000/svg",
        role="img",
        viewBox=f"0 0 {width} {height}",
    )


def _entry(point: Point, group: GroupRecord, y: int) -> list[Markup]:
    words = named(point.method, group)
    return [
        tag("text", str(point.number), x=WIDTH + 38, y=y, text_anchor="end"),
        tag("text", words, x=WIDTH + 44, y=y, class_="named"),
    ]
