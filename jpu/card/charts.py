"""Charts as inline SVG: intervals on a strip, and lines on a small grid. No script, no fonts, colours from the page.

Marks differ in shape and dash as well as in colour: before is a ring on a dashed line, after a diamond on a solid one.
What a chart shows stands beside it in a table, so charts hold no figures of their own but those on their axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jpu.card.figure import Figure
from jpu.card.markup import Child, Markup, Plot, join, tag
from jpu.card.numbers import Style, show

WIDTH, HEIGHT = 300, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 26
_DIAMOND = "M0 -6L6 0L0 6L-6 0Z"


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        label: What it shows, for the legend and for screen readers.
        mark: Class that gives colour and dash: before, after, chance, one, two, three, four.
        points: (x, y).
        band: (x, low, high) of its interval.
    """

    label: str
    mark: str
    points: tuple[tuple[float, float], ...]
    band: tuple[tuple[float, float, float], ...] = ()


def strip(title: str, before: Figure | None, after: Figure | None, *, only: str = "") -> Plot:
    """Two estimates with their intervals on a line from 0 to 100 %. Grows with its cell, marks keep their size.

    Args:
        title: What it shows, for screen readers.
        before: Drawn as a ring, above.
        after: Drawn as a diamond, below.
        only: "before" for a card without hardening: one mark, in the middle.
    """
    if before is None and after is None:
        return Plot("")
    grid = [tag("line", x1=f"{x}%", x2=f"{x}%", y1=0, y2=36, class_="grid") for x in (0, 25, 50, 75, 100)]
    heights = {"before": 18.0 if only else 11.0, "after": 25.0}
    marks = [_interval(name, figure, heights[name]) for name, figure in (("before", before), ("after", after))]
    return Plot(tag("svg", tag("title", title), *grid, *marks, class_="strip", role="img", height=36))


def strip_axis() -> Plot:
    """The axis over a column of strips."""
    anchors = {0: "start", 50: "middle", 100: "end"}
    ticks = [
        tag("text", _tick(x / 100, "share"), x=f"{x}%", y=12, text_anchor=anchor, class_="tick")
        for x, anchor in anchors.items()
    ]
    return Plot(tag("svg", *ticks, class_="strip", height=16, aria_hidden="true"))


def lines(
    title: str,
    drawn: Sequence[Line],
    *,
    across: str,
    style: Style = "share",
    bounds: tuple[float, float] | None = None,
    rule: float | None = None,
) -> Markup:
    """A line chart of the size of a hand; several stand side by side.

    Args:
        title: What it shows.
        drawn: Lines. Those without points are left out.
        across: Name of the x axis.
        style: How the ticks of the y axis are written.
        bounds: Ends of the y axis; those of the data by default.
        rule: Height of a dotted line that is to be read against.
    """
    shown = [line for line in drawn if line.points]
    if not shown:
        return Markup("")
    xs = [x for line in shown for x, _ in line.points]
    ys = [y for line in shown for _, y in line.points] + [e for line in shown for _, *ends in line.band for e in ends]
    x_low, x_high = min(xs), max(xs)
    y_low, y_high = bounds or _widened(min(ys), max(ys))

    def place(x: float, y: float) -> tuple[float, float]:
        across_ = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        up = (min(max(y, y_low), y_high) - y_low) / (y_high - y_low)
        return (
            round(_LEFT + across_ * (WIDTH - _LEFT - _RIGHT), 2),
            round(HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM), 2),
        )

    parts: list[Child] = [tag("title", title), tag("desc", "; ".join(line.label for line in shown))]
    for tick in _ticks(y_low, y_high):
        _, y = place(x_low, tick)
        parts.append(tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", _tick(tick, style), x=_LEFT - 6, y=y + 4, text_anchor="end", class_="tick"))
    for x, anchor in ((x_low, "start"), (x_high, "end")) if x_high > x_low else ((x_low, "middle"),):
        middle = place(x, y_low)[0]
        parts.append(tag("text", show(x, "count"), x=middle, y=HEIGHT - 8, text_anchor=anchor, class_="tick"))
    parts.append(tag("text", across, x=(WIDTH + _LEFT) / 2, y=HEIGHT - 8, text_anchor="middle", class_="tick"))
    if rule is not None:
        y = place(x_low, rule)[1]
        parts.append(tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="rule"))
    for line in shown:
        spots = [place(x, y) for x, y in line.points]
        if line.band:
            edge = [place(x, high) for x, _, high in line.band]
            edge += [place(x, low) for x, low, _ in reversed(line.band)]
            parts.append(tag("path", d=f"{_path(edge)}Z", class_=f"band {line.mark}"))
        parts.append(tag("path", d=_path(spots), class_=f"line {line.mark}"))
        # On a long curve the marks would run into one another.
        parts += [_mark(line.mark, x, y) for x, y in (spots if len(spots) <= 24 else spots[-1:])]
    return tag("svg", *parts, class_="chart", role="img", viewBox=f"0 0 {WIDTH} {HEIGHT}")


@dataclass(frozen=True)
class Dot:
    """An estimate in a row of `dots`: its mark, its value, and the ends of its interval."""

    mark: str
    value: float
    low: float
    high: float


def dots(
    title: str,
    rows: Sequence[tuple[str, Sequence[Dot]]],
    *,
    across: str,
    bounds: tuple[float, float],
    style: Style = "share",
) -> Markup:
    """Estimates with their intervals, a row for each name; the marks of a row stand below one another.

    Args:
        title: What it shows.
        rows: Name and estimates.
        across: Name of the axis, which is one of shares.
        bounds: Ends of the axis.
        style: How its ticks are written: "points" for differences of shares.
    """
    low, high = bounds
    left, step = 96, 11
    heights = [step * len(marks) + 10 for _, marks in rows]
    height = _TOP + sum(heights) + _BOTTOM

    def place(value: float) -> float:
        return round(left + (min(max(value, low), high) - low) / (high - low) * (WIDTH - left - _RIGHT), 2)

    parts: list[Child] = [tag("title", title)]
    for tick in _ticks(low, high):
        x = place(tick)
        parts.append(tag("line", x1=x, x2=x, y1=_TOP, y2=height - _BOTTOM, class_="rule" if tick == 0 else "grid"))
        parts.append(tag("text", _tick(tick, style), x=x, y=height - 14, text_anchor="middle", class_="tick"))
    parts.append(tag("text", across, x=(left + WIDTH) / 2, y=height - 2, text_anchor="middle", class_="tick"))
    y = float(_TOP)
    for (name, marks), tall in zip(rows, heights, strict=True):
        parts.append(tag("text", name, x=left - 8, y=y + tall / 2 + 4, text_anchor="end", class_="tick"))
        for number, dot in enumerate(marks):
            at = y + 10 + step * number
            parts.append(tag("line", x1=place(dot.low), x2=place(dot.high), y1=at, y2=at, class_=f"line {dot.mark}"))
            parts.append(_mark(dot.mark, place(dot.value), at))
        y += tall
    return tag("svg", *parts, class_="chart", role="img", viewBox=f"0 0 {WIDTH} {height}")


def legend(*entries: tuple[str, str]) -> Markup:
    """Marks and what they stand for: (mark, label)."""
    items = []
    for mark, label in entries:
        sample = (tag("line", x1=0, x2=28, y1=8, y2=8, class_=f"line {mark}"), _mark(mark, 14, 8))
        items.append(tag("li", tag("svg", *sample, width=28, height=16, aria_hidden="true"), " ", label))
    return tag("ul", *items, class_="legend")


def _interval(name: str, figure: Figure | None, y: float) -> Markup:
    if figure is None or figure.value is None:
        return Markup("")
    parts: list[Child] = []
    if figure.low is not None and figure.high is not None:
        low, high = _percent(figure.low), _percent(figure.high)
        parts.append(tag("line", x1=low, x2=high, y1=y, y2=y, class_=f"whisker {name}"))
        parts += [tag("line", x1=x, x2=x, y1=y - 4, y2=y + 4, class_=f"whisker {name}") for x in (low, high)]
    # A nested SVG stands at a percentage and keeps the mark's own size and shape.
    parts.append(tag("svg", _mark(name, 0, 0), x=_percent(figure.value), y=y, class_="spot"))
    return join(*parts)


def _mark(name: str, x: float, y: float) -> Markup:
    if name in ("after", "one"):
        return tag("path", d=_DIAMOND, transform=f"translate({x:g} {y:g}) scale(.8)", class_=f"mark {name}")
    if name == "two":
        return tag("rect", x=round(x - 3.5, 2), y=round(y - 3.5, 2), width=7, height=7, class_=f"mark {name}")
    if name == "chance":
        return Markup("")
    return tag("circle", cx=x, cy=y, r=4, class_=f"mark {name}")


def _percent(share: float) -> str:
    return f"{round(100 * min(max(share, 0.0), 1.0), 3):g}%"


def _path(spots: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in spots)


def _widened(low: float, high: float) -> tuple[float, float]:
    """Ends of an axis: 0 where the data come near it, and never a span of nothing."""
    if 0 <= low < 0.5 * high:
        low = 0.0
    room = 0.05 * (high - low) or max(abs(high), 1.0) * 0.1
    return (low if low == 0.0 else low - room), high + room


def _ticks(low: float, high: float) -> list[float]:
    """Two to five round numbers inside the ends."""
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1.0, 2.0, 2.5, 5.0, 10.0) if f * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _tick(value: float, style: Style) -> str:
    """Round numbers need no decimals to say what they are."""
    if style == "points":
        return f"{100 * value:+g}".replace("-", "−") if value else "0"
    return (f"{100 * value:g}\u00a0%" if style == "share" else f"{value:g}").replace("-", "−")
