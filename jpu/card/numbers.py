"""The one place where a number becomes text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jpu.card.figure import Unit

# Besides how a figure is shown: seconds; how a difference of two figures is, percentage points or a number with its
# sign; and percentages and points without their unit, for the lower end of an interval.
Style = Unit | Literal["seconds", "points", "signed", "bare", "bare_points"]

MISSING = "–"
_SPACE = "\u00a0"
_THIN = "\u202f"


def show(value: float | None, style: Style = "share") -> str:
    """A number as readers see it.

    A share that is not quite 0 or 1 is never rounded to it: a page that says 0.0 % means zero.
    """
    if value is None:
        return MISSING
    if style in ("share", "bare"):
        return _share(value) + ("" if style == "bare" else f"{_SPACE}%")
    if style == "count":
        return f"{value:,.0f}".replace(",", _THIN)
    if style == "seconds":
        return f"{value:,.1f}".replace(",", _THIN)
    if style in ("points", "bare_points"):
        return _signed(f"{100 * value:+.1f}") + ("" if style == "bare_points" else f"{_SPACE}pp")
    return _signed(f"{value:+.3g}") if style == "signed" else _number(value)


def lower(style: Style) -> Style:
    """How the lower end of an interval is shown, whose upper end has the unit of both."""
    if style == "share":
        return "bare"
    return "bare_points" if style == "points" else style


def exact(value: float) -> str:
    """A number in full, so that reading it again gives the same one."""
    return repr(value)


@dataclass(frozen=True)
class Number:
    """A number inside a sentence: its key in the card, its value, and how it is shown."""

    key: str
    value: float
    style: Style = "share"

    def __str__(self) -> str:
        return show(self.value, self.style)


# A sentence of words and numbers; what renders it decides what a number looks like.
Sentence = tuple[str | Number, ...]


def plain(sentence: Sentence) -> str:
    """The sentence as text."""
    return "".join(str(part) for part in sentence)


def _share(value: float) -> str:
    percent = 100 * value
    if 0 < percent < 0.05:
        return "<0.1"
    if 99.95 <= percent < 100:
        return ">99.9"
    return f"{percent:.1f}"


def _number(value: float) -> str:
    size = abs(value)
    if size >= 1000:
        return _minus(f"{value:,.0f}").replace(",", _THIN)
    if size >= 10:
        return _minus(f"{value:.1f}")
    if size >= 0.1:
        return _minus(f"{value:.3f}")
    if size == 0:
        return "0"
    if size < 1e-4:
        return "<0.0001" if value > 0 else "−<0.0001"
    return _minus(f"{value:.2g}")


def _signed(text: str) -> str:
    """No sign on what is zero as shown, and a minus that is as wide as the plus."""
    return text[1:] if float(text) == 0 else _minus(text)


def _minus(text: str) -> str:
    return text.replace("-", "−")
