"""The worst attack against utility loss, every method a mark: what is on the line nobody beats on both at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jpu.card.markup import Child, Markup, tag
from jpu.comparison.records import GroupRecord, Kind, MethodRecord

WIDTH, HEIGHT = 640, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 18, 16, 48
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25)
KINDS: Mapping[Kind, str] = {
    "ours": "ours",
    "baseline": "baselines",
    "control": "controls",
    "ablation": "ablations",
    "original": "the subject as it is",
}


@dataclass(frozen=True)
class Point:
    """A method's place: utility loss, worst attack, each with its interval, and its number in the legend."""

    method: MethodRecord
    number: int
    x: float
    y: float
    across: tuple[float, float]
    up: tuple[float, float]


def points(group: GroupRecord) -> list[Point]:
    """The methods that both figures are known of, numbered in the order of the table."""
    found: list[Point] = []
    for method in group.methods:
        loss, worst = method.figures.get("utility_loss"), method.figures.get("asr_worst")
        if loss is None or worst is None or loss.value is None or worst.value is None:
            continue
        across = (loss.low if loss.low is not None else loss.value, loss.high if loss.high is not None else loss.value)
        up = (
            worst.low if worst.low is not None else worst.value,
            worst.high if worst.high is not None else worst.value,
        )
        found.append(Point(method, len(found) + 1, loss.value, worst.value, across, up))
    return found


def chart(group: GroupRecord) -> Markup:
    """The plot as a page has it, which gives it its colours; empty where there is nothing to plot."""
    parts = drawing(group)
    if not parts:
        return Markup("")
    return tag("svg", *parts, class_="pareto", role="img", viewBox=f"0 0 {WIDTH} {HEIGHT}")


def drawing(group: GroupRecord) -> list[Child]:
    """What is in the plot, `WIDTH` × `HEIGHT`; nothing where there is nothing to plot."""
    marks = points(group)
    if not marks:
        return []
    ours = [p for p in marks if p.method.kind == "ours"]
    x_end = _rounded(max([0.05, *(p.x for p in marks), *(p.across[1] for p in ours)]))
    y_end = _rounded(max([0.05, *(p.y for p in marks), *(p.up[1] for p in ours)]))

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            round(_LEFT + min(max(x, 0.0), x_end) / x_end * (WIDTH - _LEFT - _RIGHT), 2),
            round(HEIGHT - _BOTTOM - min(max(y, 0.0), y_end) / y_end * (HEIGHT - _TOP - _BOTTOM), 2),
        )

    parts: list[Child] = [tag("title", f"Worst attack against utility loss, {group.name}")]
    for tick in _ticks(x_end):
        x, y = place(tick, 0.0)
        parts.append(tag("line", x1=x, x2=x, y1=_TOP, y2=y, class_="grid"))
        parts.append(tag("text", _percent(tick), x=x, y=y + 16, text_anchor="middle", class_="tick"))
    for tick in _ticks(y_end):
        x, y = place(0.0, tick)
        parts.append(tag("line", x1=x, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", _percent(tick), x=x - 6, y=y + 4, text_anchor="end", class_="tick"))
    middle = (WIDTH + _LEFT) / 2
    parts.append(tag("text", "utility loss", x=middle, y=HEIGHT - 8, text_anchor="middle", class_="tick"))
    turn = f"rotate(-90 14 {HEIGHT / 2:g})"
    parts.append(tag("text", "worst attack", x=14, y=HEIGHT / 2, text_anchor="middle", class_="tick", transform=turn))
    line = [place(p.x, p.y) for name in group.frontier for p in marks if p.method.name == name]
    if len(line) > 1:
        parts.append(tag("path", d="M" + "L".join(f"{x:g} {y:g}" for x, y in line), class_="frontier"))
    whiskers = [line for p in ours for line in _whiskers(p, place)]
    parts += [tag("line", x1=a, x2=c, y1=b, y2=d, class_="whisker ours") for a, b, c, d in whiskers]
    labels = _labels(group, marks, whiskers, place)
    # Ours lie on top of the others.
    for p in sorted(marks, key=lambda p: p.method.kind == "ours"):
        parts.append(_mark(p, *place(p.x, p.y), labels.get(p.number), group))
    return parts


def _whiskers(point: Point, place: Callable[[float, float], tuple[float, float]]) -> list[tuple[float, ...]]:
    """The two intervals as lines, from left to right and from top to bottom."""
    across = [place(x, point.y) for x in point.across]
    up = [place(point.x, y) for y in reversed(point.up)]
    return [(*across[0], *across[1]), (*up[0], *up[1])]


def kinds(group: GroupRecord) -> Markup:
    """The marks and what they stand for."""
    items = []
    for kind, words in KINDS.items():
        if any(p.method.kind == kind for p in points(group)):
            sample = tag("svg", shape(kind, 8.0, 8.0), width=16, height=16, class_="pareto sample", aria_hidden="true")
            items.append(tag("li", sample, " ", words))
    return tag("ul", *items, class_="legend")


def _labels(
    group: GroupRecord,
    marks: Sequence[Point],
    lines: Sequence[tuple[float, ...]],
    place: Callable[[float, float], tuple[float, float]],
) -> dict[int, tuple[float, float]]:
    """Where the numbers stand: beside their marks, over no mark, line or other number as far as there is room.

    A dozen ablations lie in one place: those that are not on the frontier come last, and have a number where there is
    room. All tell when pointed at.
    """
    at = {p.number: place(p.x, p.y) for p in marks}
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in at.values()]
    taken += [(a - 1, b - 1, c + 1, d + 1) for a, b, c, d in lines]
    found: dict[int, tuple[float, float]] = {}

    def spare(p: Point) -> bool:
        return p.method.kind == "ablation" and p.method.name not in group.frontier

    for p in sorted(marks, key=spare):
        x, y = at[p.number]
        width = 6.5 * len(str(p.number))
        tried = [(x + dx if dx > 0 else x + dx - width, y + dy) for dy in (-5, 14, 4, -16, 24) for dx in (8, -8)]
        spots = [(a, b, (a, b - 9, a + width, b)) for a, b in tried if b > _TOP - 6 and _LEFT < a < WIDTH - width]
        free = [spot for spot in spots if not any(_overlap(spot[2], box) for box in taken)]
        if spare(p) and not free:
            continue
        a, b, box = (free or spots)[0]
        taken.append(box)
        found[p.number] = (round(a, 2), round(b, 2))
    return found


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _mark(point: Point, x: float, y: float, at: tuple[float, float] | None, group: GroupRecord) -> Markup:
    method = point.method
    told = f"{point.number} {method.name}: {named(method, group)}; {_percent(point.y)} at {_percent(point.x)}"
    label = None if at is None else tag("text", str(point.number), x=at[0], y=at[1], class_="label")
    class_ = None if method.complete else "short"
    return tag("g", tag("title", told), shape(method.kind, x, y), label, class_=class_)


def named(method: MethodRecord, group: GroupRecord) -> str:
    """A method in words, with how many runs it has where it lacks some."""
    return method.words if method.complete else f"{method.words} ({len(method.runs)} of {len(group.runs)} runs)"


def shape(kind: Kind, x: float, y: float) -> Markup:
    """The mark of a kind of method."""
    if kind == "ours":
        return tag("path", d="M0 -8L8 0L0 8L-8 0Z", transform=f"translate({x:g} {y:g})", class_="dot ours")
    if kind == "control":
        return tag("rect", x=x - 4.5, y=y - 4.5, width=9, height=9, class_="dot control")
    return tag("circle", cx=x, cy=y, r=4.5, class_=f"dot {kind}")


def _rounded(value: float) -> float:
    step = next((s for s in _STEPS if value / s <= 6), _STEPS[-1])
    return min(1.0, step * -(-value // step))


def _ticks(end: float) -> list[float]:
    step = next((s for s in _STEPS if end / s <= 6), _STEPS[-1])
    return [round(i * step, 6) for i in range(int(end / step + 1e-9) + 1)]


def _percent(value: float) -> str:
    return f"{100 * value:.3g}\u00a0%"
