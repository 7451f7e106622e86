"""How a gate says what it found."""

from __future__ import annotations

from collections.abc import Sequence

from jpu.card.figure import Figure
from jpu.card.numbers import show
from tasks.decision import style_of
from tasks.gates.verdict import Gate
from tasks.measurement import words

_SHOWN = 4


def moved(key: str, old: Figure, new: Figure) -> str:
    """A figure of both, and what it is called."""
    style = style_of(key)
    return f"{words(key)}: {show(old.value, style)} → {show(new.value, style)}"


def listed(names: Sequence[str]) -> str:
    """The first few of many names."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def absent(kind: str, key: str, old: Figure | None, new: Figure | None) -> Gate:
    """The gate for a figure that is missing on one side: closed."""
    whose = "either" if old is None and new is None else "the champion" if old is None else "the challenger"
    found = f"{words(key)}: no figure of {whose}"
    return Gate(name=f"{kind} {key}", passed=False, sentence=found, champion=old, challenger=new)
