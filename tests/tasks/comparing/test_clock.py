"""How long a comparison takes from now on: by hand."""

from __future__ import annotations

from jpu.comparison.rows import Cost, Row
from tasks.comparing.clock import Clock, Work


def row(method: str, subject: str, seconds: float, kind: str = "final") -> Row:
    cost = Cost(train_seconds=seconds * 0.75, evaluate_seconds=seconds * 0.25)
    return Row.model_construct(kind=kind, method=method, subject=subject, cost=cost)


ROWS = [row("jpu", "s0", 200), row("jpu", "s1", 280), row("npo", "s0", 60), row("jpu", "large0", 600)]
GROUPS = {"s0": "sandbox", "s1": "sandbox", "large0": "large"}


def test_what_is_left_is_told_by_what_such_runs_took() -> None:
    seconds = iter([0.0, 120.0, 420.0])
    clock = Clock(ROWS, GROUPS, lambda: next(seconds))
    jobs = [Work("final", "npo", "sandbox"), Work("final", "jpu", "sandbox"), Work("final", "jpu", "large")]
    clock.expect(jobs)
    # 60 + 240 + 600 seconds.
    assert clock.estimate(1) == "3 to be made, 1 at a time, 15:00 if they take what such runs took before"
    assert clock.estimate(2) == "3 to be made, 2 at a time, 7:30 if they take what such runs took before"
    # Here they take twice as long as they did there.
    assert clock.tick(jobs[0]) == "[1/3, 28:00 left]"
    # 420 seconds for 300 of theirs.
    assert clock.tick(jobs[1]) == "[2/3, 14:00 left]"


def test_a_run_of_another_kind_takes_as_long_as_the_likest_one() -> None:
    jobs = [
        (Work("final", "jpu", "sandbox"), "4:00"),
        # Its own method elsewhere, then other methods there, then all.
        (Work("final", "npo", "large"), "1:00"),
        (Work("final", "rmu", "sandbox"), "3:00"),
        (Work("final", "rmu", "hard"), "4:45"),
        (Work("subject", "", "large"), "10:00"),
    ]
    for job, took in jobs:
        clock = Clock(ROWS, GROUPS)
        clock.expect([job])
        assert f"time, {took} if" in clock.estimate(1)


def test_without_any_rows_runs_are_alike() -> None:
    seconds = iter([0.0, 10.0])
    clock = Clock([], {}, lambda: next(seconds))
    jobs = [Work("trial", "jpu", "sandbox"), Work("trial", "npo", "sandbox"), Work("subject", "", "sandbox")]
    clock.expect(jobs)
    assert clock.estimate(2) == "3 to be made, 2 at a time"
    assert clock.tick(jobs[0]) == "[1/3, 0:20 left]"


def test_what_turns_out_to_be_needed_later_is_added() -> None:
    seconds = iter([0.0, 10.0, 20.0, 30.0])
    clock = Clock([], {}, lambda: next(seconds))
    job = Work("trial", "jpu", "sandbox")
    clock.expect([])
    assert clock.estimate(1) == ""
    clock.expect([job])
    assert clock.tick(job) == "[1/1, 0:00 left]"
    clock.expect([job, job])
    assert clock.tick(job) == "[2/3, 0:10 left]"
    assert clock.tick(job) == "[3/3, 0:00 left]"
