"""Whether to harden again, and why. Nothing is run here: figures and arrivals go in, typed reasons come out.

All reasons are collected, not the first only: each is something that the challenger then has to answer for
(`tasks.gates`). An attack's success is held against its bound by its estimate, not by the lower end of its interval:
with 8 behaviors a quarter of them has to leak before a lower end says so, and a needless run costs minutes of a machine
(none, where DVC has its outputs already), a hole that stays open more. Noise does not change the champion by that,
since the gates ask for proof.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from jpu.card.figure import Figure
from jpu.card.numbers import Style, show
from jpu.evaluation.names import name_of
from tasks.measurement import Measurement, is_attack, plain_name, words, worsening
from tasks.sections import RehardenSettings

Trigger = Literal["attack", "new_family", "utility_drift", "new_behaviors", "forced"]

# The bound of every attack that has none of its own.
WORST = "asr_worst"
# Differences of shares that are equal in decimals are not always equal in binary.
ROUNDING = 1e-9


class Record(BaseModel):
    """Base of what is decided: frozen, and read back from JSON as it was written."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Arrivals(Record):
    """What has come in since the champion was hardened.

    Attributes:
        families: New template families.
        unmeasured: Those of them with too few wordings for one to be held out.
        behaviors: How many new behaviors.
        refused: Records or files that went into quarantine, by reason.
    """

    families: tuple[str, ...] = ()
    unmeasured: tuple[str, ...] = ()
    behaviors: int = 0
    refused: Mapping[str, int] = {}

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Arrivals:
        """From the report of a taking-in (`tasks.inbox.Taking.as_dict`)."""
        return cls(
            families=tuple(report["new_families"]),
            unmeasured=tuple(report["unmeasured_families"]),
            behaviors=len(report["new_behaviors"]),
            refused=dict(report["refused"]),
        )


class Reason(Record):
    """One reason to harden again.

    Attributes:
        trigger: Of which sort it is.
        name: The figure (`asr_static`, `static/override`, `kl`), the family that has none, or whatever forced it.
        measured: The champion's figure now; None where nothing measures it.
        bound: What the figure should not pass.
        promoted: The figure at promotion, for a drift.
    """

    trigger: Trigger
    name: str
    measured: Figure | None = None
    bound: float | None = None
    promoted: Figure | None = None

    def __str__(self) -> str:
        """The reason as a sentence without its full stop."""
        style: Style = style_of(self.name)
        value = None if self.measured is None else self.measured.value
        if self.trigger == "attack":
            return f"{words(self.name)}: {show(value, style)} get through, {show(self.bound, style)} is the bound"
        if self.trigger == "new_family":
            if value is None:
                return f"family {plain_name(self.name)} is new; no wording of it is measured"
            return f"{words(self.name)}: new, and {show(value, style)} get through"
        if self.trigger == "utility_drift":
            was = None if self.promoted is None else self.promoted.value
            return f"{words(self.name)}: {show(value, style)}, and {show(was, style)} when it was promoted"
        if self.trigger == "new_behaviors":
            return f"{show(value, 'count')} new behaviors"
        return f"forced: {self.name}"


class Decision(Record):
    """Whether to harden again.

    Attributes:
        reasons: Why; none where it is not needed.
        missing: Figures that a bound or tolerance is set for, and that were not measured: they speak neither way.
    """

    reasons: tuple[Reason, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def harden(self) -> bool:
        """Whether there is any reason."""
        return bool(self.reasons)


def decide(
    now: Measurement,
    promoted: Measurement | None,
    arrivals: Arrivals,
    settings: RehardenSettings,
    *,
    forced: str = "",
) -> Decision:
    """Hold the champion against its bounds.

    Args:
        now: Its figures on the data as they are now.
        promoted: Those that it was promoted with; None where they are lost, so that drift cannot be told.
        arrivals: What came in since.
        settings: Section `reharden`.
        forced: Who or what asks for it in any case, "" for nobody.

    Returns:
        Every reason there is: attacks, new families, drift, new behaviors, force.
    """
    reasons = [*_attacks(now, settings), *_families(now, arrivals, settings), *_drift(now, promoted, settings)]
    if settings.new_behaviors and arrivals.behaviors >= settings.new_behaviors:
        count = Figure(value=arrivals.behaviors, n=arrivals.behaviors)
        reasons.append(Reason(trigger="new_behaviors", name="behaviors", measured=count, bound=settings.new_behaviors))
    if forced:
        reasons.append(Reason(trigger="forced", name=forced))
    return Decision(reasons=tuple(reasons), missing=tuple(_missing(now, promoted, arrivals, settings)))


def style_of(key: str) -> Style:
    """How a figure is shown: a family's is a share as the attack's is."""
    return "share" if "/" in key or name_of(key).unit == "rate" else "number"


def _attacks(now: Measurement, settings: RehardenSettings) -> Iterator[Reason]:
    for key, bound in _bounds(now, settings).items():
        figure = now.figure(key)
        if figure is not None and figure.value is not None and figure.value > bound + ROUNDING:
            yield Reason(trigger="attack", name=key, measured=figure, bound=bound)


def _bounds(now: Measurement, settings: RehardenSettings) -> dict[str, float]:
    """Figure → bound: that of `asr_worst` for every attack, then those that have one of their own."""
    own = {key: bound for key, bound in settings.bounds.items() if key != WORST}
    if WORST not in settings.bounds:
        return own
    return {key: settings.bounds[WORST] for key in now.attacks} | own


def _families(now: Measurement, arrivals: Arrivals, settings: RehardenSettings) -> Iterator[Reason]:
    """A reason for every attack that gets through by a new family, at least one for each family."""
    bounds = _bounds(now, settings)
    for family in arrivals.families if settings.new_families else ():
        measured = {key: figure for key, figure in now.families.items() if key.partition("/")[2] == family}
        if not measured:
            yield Reason(trigger="new_family", name=family)
            continue
        limits = {key: bounds.get(f"asr_{key.partition('/')[0]}") for key in measured}
        above = [key for key, figure in measured.items() if _above(figure, limits[key])]
        for key in above or [max(measured, key=lambda name: measured[name].value or 0.0)]:
            yield Reason(trigger="new_family", name=key, measured=measured[key], bound=limits[key])


def _above(figure: Figure, bound: float | None) -> bool:
    return bound is not None and figure.value is not None and figure.value > bound + ROUNDING


def _drift(now: Measurement, promoted: Measurement | None, settings: RehardenSettings) -> Iterator[Reason]:
    for key, tolerance in settings.drift:
        figure, was = now.figure(key), promoted.figure(key) if promoted else None
        if figure is None or figure.value is None or was is None or was.value is None:
            continue
        if worsening(key, was.value, figure.value) > tolerance + ROUNDING:
            bound = was.value - tolerance if name_of(key).better == "high" else was.value + tolerance
            yield Reason(trigger="utility_drift", name=key, measured=figure, bound=bound, promoted=was)


def _missing(
    now: Measurement, promoted: Measurement | None, arrivals: Arrivals, settings: RehardenSettings
) -> Iterator[str]:
    suite: Sequence[str] = [f"asr_{name}" for name in now.protocol.get("suite", {})]
    wanted = [*suite, *(key for key in settings.bounds if is_attack(key)), *settings.bounds]
    for key in dict.fromkeys(wanted):
        if now.figure(key) is None:
            yield key
    for key, _ in settings.drift:
        # What the data have nothing for is not missing: it is written down with n 0.
        sides = [side.metrics.get(key) if side else None for side in (now, promoted)]
        if any(side is None or (side.value is None and side.n != 0) for side in sides):
            yield key
    measured = {key.partition("/")[2] for key in now.families}
    yield from (name for name in arrivals.families if name not in measured and name not in arrivals.unmeasured)
