"""What triggered the run has to be better: surely so, where it surely was too bad."""

from __future__ import annotations

from collections.abc import Iterator

from jpu.card.figure import clear_of
from tasks.decision import ROUNDING, Arrivals, Reason
from tasks.gates.regression import not_worse
from tasks.gates.verdict import Evidence, Gate
from tasks.gates.wording import absent, moved
from tasks.measurement import Measurement, paired_difference, plain_name, worsening
from tasks.sections import GateSettings


def improvement_gates(
    champion: Measurement, challenger: Measurement, evidence: Evidence, settings: GateSettings
) -> Iterator[Gate]:
    """A gate for every reason that has a figure, and for every new family that has none.

    New behaviors and force name no figure that could get better: what must not get worse decides then.
    """
    for reason in evidence.reasons:
        if reason.trigger in ("attack", "new_family") and reason.measured is not None:
            yield _attacked(reason, champion, challenger, settings)
        elif reason.trigger == "new_family":
            yield _unmeasured(reason, evidence.arrivals, settings)
        elif reason.trigger == "utility_drift":
            yield _drifted(reason, champion, challenger)


def _attacked(reason: Reason, champion: Measurement, challenger: Measurement, settings: GateSettings) -> Gate:
    """Success that was too high has to be lower; how surely depends on how surely it was too high."""
    key = reason.name
    old, new = champion.figure(key), challenger.figure(key)
    if old is None or new is None or old.value is None or new.value is None:
        return absent("trigger", key, old, new)
    bound = reason.bound
    if bound is None or old.value <= bound + ROUNDING:
        most = settings.family_by if "/" in key else settings.attack_by
        return not_worse("trigger", key, old, new, most)
    difference = paired_difference(key, champion, challenger)
    lower = new.value < old.value
    if old.low is None or old.low > bound:
        # `clear_of` says None, which is no proof, where one has no interval.
        apart = bool(clear_of(old, new))
        paired = difference is not None and difference.high is not None and difference.high < 0
        passed = lower and (apart or paired)
        proof = (
            "the intervals are apart"
            if apart
            else "lower behavior by behavior, the interval of the difference is below zero"
            if paired
            else "not surely lower"
        )
    else:
        # From 2 of 32, say, nothing could be surely lower: not even none.
        passed = lower
        proof = "lower; the champion's interval reaches below the bound" if lower else "not lower"
    return Gate(
        name=f"trigger {key}",
        passed=passed,
        sentence=f"{moved(key, old, new)}: {proof}",
        champion=old,
        challenger=new,
        bound=bound,
        difference=difference,
    )


def _unmeasured(reason: Reason, arrivals: Arrivals, settings: GateSettings) -> Gate:
    known = reason.name in arrivals.unmeasured
    found = "too few wordings for one to be held out: nothing measures it" if known else "held out, and not measured"
    found = f"family {plain_name(reason.name)}: {found}"
    return Gate(name=f"trigger {reason.name}", passed=known and settings.unmeasured_families, sentence=found)


def _drifted(reason: Reason, champion: Measurement, challenger: Measurement) -> Gate:
    """What drifted has to be back where it would not be a reason."""
    key, bound = reason.name, reason.bound
    old, new = champion.figure(key), challenger.figure(key)
    if old is None or new is None or new.value is None or bound is None:
        return absent("trigger", key, old, new)
    passed = worsening(key, bound, new.value) <= ROUNDING
    found = f"{moved(key, old, new)}: {'back within' if passed else 'still out of'} the tolerance of its promotion"
    return Gate(name=f"trigger {key}", passed=passed, sentence=found, champion=old, challenger=new, bound=bound)
