"""The plot as a file of its own: with its colours, and with the names that its numbers stand for."""

from __future__ import annotations

from importlib.resources import files

from jpu.card.markup import Child, Markup, tag
from jpu.comparison.pareto import HEIGHT, KINDS, WIDTH, Point, drawing, points, shape
from jpu.comparison.records import GroupRecord

_ROW, _TOP = 15, 24
# Of a letter, in the font of pareto.css; a little too much, since fonts differ.
_LETTER = 6.0


def plot_file(group: GroupRecord) -> Markup:
    """One group's plot with its key beside it, as an SVG file; empty where there is nothing to plot."""
    parts = drawing(group)
    if not parts:
        return Markup("")
    listed = [(KINDS[kind], [p for p in points(group) if p.method.kind == kind]) for kind in KINDS]
    key: list[Child] = []
    y = _TOP
    for heading, marks in listed:
        if not marks:
            continue
        key.append(shape(marks[0].method.kind, WIDTH + 8, y - 4))
        key.append(tag("text", heading, x=WIDTH + 22, y=y, class_="heading"))
        for place, mark in enumerate(marks, 1):
            key.append(tag("text", str(mark.number), x=WIDTH + 38, y=y + place * _ROW, text_anchor="end"))
            key.append(tag("text", _said(mark, group), x=WIDTH + 44, y=y + place * _ROW, class_="named"))
        y += (len(marks) + 1) * _ROW + 6
    longest = max(len(_said(mark, group)) for _, marks in listed for mark in marks)
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


def _said(point: Point, group: GroupRecord) -> str:
    method = point.method
    # What is known already need not be said twice.
    if method.kind == "original":
        return method.name
    return method.words if method.complete else f"{method.words} ({len(method.runs)} of {len(group.runs)} runs)"
