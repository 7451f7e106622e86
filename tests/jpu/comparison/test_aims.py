from __future__ import annotations

import pytest

from jpu.card.figure import Figure
from jpu.comparison.aims import aims
from jpu.comparison.records import GroupRecord, Kind, MethodRecord
from jpu.comparison.tables import held as words_of


def method(name: str, kind: Kind, worst: float, loss: float, steps: float = 4.0, prefill: float = 0.5) -> MethodRecord:
    values = {"asr_worst": worst, "utility_loss": loss, "relearning_restricted": steps, "asr_prefill": prefill}
    return MethodRecord(
        name=name,
        words=name,
        kind=kind,
        runs=("s0",),
        complete=True,
        figures={key: Figure(value=value, n=1) for key, value in values.items()},
        by_run={},
        limited={},
        differences={},
        curves={},
    )


def group(*methods: MethodRecord) -> GroupRecord:
    return GroupRecord(name="g", runs=("s0",), metrics=(), methods=methods, spread={}, frontier=(), mixed={})


OURS = method("jpu", "ours", worst=0.1, loss=0.05, steps=8.0, prefill=0.1)


def held(*rivals: MethodRecord) -> list[bool | None]:
    return [aim.held for aim in aims(group(OURS, *rivals), "jpu")]


def test_all_are_reached() -> None:
    # As useful to a hundredth, twice as unsafe; as safe, twice as costly.
    useful = method("a", "baseline", worst=0.2, loss=0.06, steps=4.0, prefill=0.2)
    safe = method("b", "baseline", worst=0.1, loss=0.1, steps=32.0, prefill=0.2)
    found = aims(group(OURS, useful, safe), "jpu")
    assert [aim.held for aim in found] == [True, True, True, True, True, None]
    assert [aim.rival for aim in found] == ["", "a", "b", "a", "a", ""]
    assert found[3].theirs == 4.0 and found[1].theirs == 0.2


@pytest.mark.parametrize(
    ("rival", "missed"),
    [
        # Better on both: then it is also as safe at less than twice the loss, and as useful.
        (method("x", "baseline", worst=0.05, loss=0.05, prefill=0.9), {0, 1, 2}),
        (method("x", "baseline", worst=0.19, loss=0.05, prefill=0.9), {1}),
        (method("x", "baseline", worst=0.1, loss=0.09, prefill=0.9), {2}),
        (method("x", "baseline", worst=0.3, loss=0.05, steps=4.1, prefill=0.9), {3}),
        (method("x", "baseline", worst=0.9, loss=0.9, prefill=0.19), {4}),
    ],
)
def test_one_is_missed(rival: MethodRecord, missed: set[int]) -> None:
    assert {i for i, outcome in enumerate(held(rival)) if outcome is False} == missed


def test_equal_on_both_is_no_better() -> None:
    assert held(method("x", "baseline", worst=0.1, loss=0.05))[0] is True


def test_controls_and_ablations_are_no_rivals() -> None:
    assert aims(group(OURS, method("x", "control", 0.0, 0.0)), "jpu") == []
    assert aims(group(method("x", "baseline", 0.0, 0.0)), "jpu") == []


def test_who_lacks_runs_is_not_held_against() -> None:
    short, other = method("x", "baseline", 0.0, 0.0), method("y", "baseline", 0.3, 0.05)
    found = aims(group(OURS, short.model_copy(update={"complete": False}), other), "jpu")
    assert found[0].held is True and found[1].rival == "y"
    assert aims(group(OURS.model_copy(update={"complete": False}), other), "jpu") == []


def test_what_was_not_relearnt_is_above_what_was_counted() -> None:
    rival = method("x", "baseline", worst=0.5, loss=0.05, steps=20.0)
    assert held(rival)[3] is False
    some = OURS.model_copy(update={"limited": {"relearning_restricted": 1}})
    assert aims(group(some, rival), "jpu")[3].held is None
    # Twice as many are reached whatever its own true mean is, and not if the rival's is unknown.
    slow = method("x", "baseline", worst=0.5, loss=0.05, steps=4.0)
    assert aims(group(some, slow), "jpu")[3].held is True
    unknown = slow.model_copy(update={"limited": {"relearning_restricted": 1}})
    assert aims(group(OURS, unknown), "jpu")[3].held is None
    # Nor may another rival's true mean be above what the best one's is.
    assert aims(group(OURS, slow, unknown.model_copy(update={"name": "y"})), "jpu")[3].held is None
    words = [words_of(aim) for aim in aims(group(OURS, unknown), "jpu")]
    assert words[3] == "cannot be said" and words[5] == "nobody to compare with" and words[0] == "reached"


def test_no_steps_are_not_twice_no_steps() -> None:
    none = method("jpu", "ours", worst=0.1, loss=0.05, steps=0.0)
    rival = method("x", "baseline", worst=0.5, loss=0.05, steps=0.0)
    assert aims(group(none, rival), "jpu")[3].held is False
