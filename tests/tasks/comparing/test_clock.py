"""How long a comparison takes from now on: by hand."""

from __future__ import annotations

from jpu.comparison.rows import Cost, Row
from tasks.comparing.clock import Clock, Like


def row(method: str, subject: str, seconds: float, kind: str = "final") -> Row:
    cost = Cost(train_seconds=seconds * 0.75, evaluate_seconds=seconds * 0.25)
    return Row.model_construct(kind=kind, method=method, subject=subject, cost=cost)


ROWS = [row("jpu", "s0", 200), row("jpu", "s1", 280), row("npo", "s0", 60), row("jpu", "large0", 600)]
GROUPS = {"s0": "sandbox", "s1": "sandbox", "large0": "large"}


def test_what_is_left_is_told_by_what_such_runs_took() -> None:
    seconds = iter([0.0, 120.0, 420.0])
    clock = Clock(ROWS, GROUPS, lambda: next(seconds))
    jobs = [Like("final", "npo", "sandbox"), Like("final", "jpu", "sandbox"), Like("final", "jpu", "large")]
    clock.expect(jobs)
    # 60 + 240 + 600 seconds.
    assert clock.outlook(1) == "3 to be made, 1 at a time, 0:15:00 if they take what such runs took before"
    assert clock.outlook(2) == "3 to be made, 2 at a time, 0:07:30 if they take what such runs took before"
    # Here they take twice as long as they did there.
    assert clock.tick(jobs[0]) == "[1/3, 0:28:00 left]"
    # 420 seconds for 300 of theirs.
    assert clock.tick(jobs[1]) == "[2/3, 0:14:00 left]"


def test_a_run_of_another_kind_takes_as_long_as_the_likest_one() -> None:
    jobs = [
        (Like("final", "jpu", "sandbox"), "0:04:00"),
        # Its own method elsewhere, then other methods there, then all.
        (Like("final", "npo", "large"), "0:01:00"),
        (Like("final", "rmu", "sandbox"), "0:03:00"),
        (Like("final", "rmu", "hard"), "0:04:45"),
        (Like("subject", "", "large"), "0:10:00"),
    ]
    for job, took in jobs:
        clock = Clock(ROWS, GROUPS)
        clock.expect([job])
        assert f"time, {took} if" in clock.outlook(1)


def test_without_any_rows_runs_are_alike() -> None:
    seconds = iter([0.0, 10.0])
    clock = Clock([], {}, lambda: next(seconds))
    jobs = [Like("trial", "jpu", "sandbox"), Like("trial", "npo", "sandbox"), Like("subject", "", "sandbox")]
    clock.expect(jobs)
    assert clock.outlook(2) == "3 to be made, 2 at a time"
    assert clock.tick(jobs[0]) == "[1/3, 0:00:20 left]"


def test_what_turns_out_to_be_needed_later_is_added() -> None:
    seconds = iter([0.0, 10.0, 20.0, 30.0])
    clock = Clock([], {}, lambda: next(seconds))
    job = Like("trial", "jpu", "sandbox")
    clock.expect([])
    assert clock.outlook(1) == ""
    clock.expect([job])
    assert clock.tick(job) == "[1/1, 0:00:00 left]"
    clock.expect([job, job])
    assert clock.tick(job) == "[2/3, 0:00:10 left]"
    assert clock.tick(job) == "[3/3, 0:00:00 left]"
