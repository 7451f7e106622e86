from __future__ import annotations

from collections.abc import Callable

import pytest

from tasks.progress import Progress


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the clock."""
    now = [0.0]
    monkeypatch.setattr("tasks.progress.time.monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, seconds)


def test_time_left_at_the_pace_so_far(at: Callable[[float], None], capsys: pytest.CaptureFixture[str]) -> None:
    report = Progress("teaching")
    for step in range(101):
        at(10.0 + 2.0 * step)
        report(step, 100, f"loss {step / 100:.2f}")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "teaching: 0/100 loss 0.00"
    # At most one line in five seconds; the last step is always shown.
    assert lines[1] == "teaching: 3/100, 3:14 left loss 0.03"
    # From when it was made, at 0: the first report may come late.
    assert lines[-1] == "teaching: 100/100, took 3:30 loss 1.00"
    assert len(lines) == 1 + 33 + 1


def test_what_was_found_done_is_not_credited(at: Callable[[float], None], capsys: pytest.CaptureFixture[str]) -> None:
    report = Progress("rectifying")
    at(0.0)
    report(80, 100)
    at(10.0)
    report(90, 100)
    assert capsys.readouterr().out.splitlines() == ["rectifying: 80/100", "rectifying: 90/100, 0:10 left"]


def test_a_second_loop_begins_anew(at: Callable[[float], None], capsys: pytest.CaptureFixture[str]) -> None:
    report = Progress("rectifying")
    for seconds, step in ((0.0, 10), (50.0, 40), (51.0, 1), (61.0, 11)):
        at(seconds)
        report(step, 40)
    assert capsys.readouterr().out.splitlines()[2:] == ["rectifying: 1/40", "rectifying: 11/40, 0:29 left"]


def test_a_clock_that_stands_still_divides_by_nothing(
    at: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    at(5.0)
    report = Progress("x", every=0.0)
    for step in (1, 1, 2):
        report(step, 2)
    assert capsys.readouterr().out.splitlines() == ["x: 1/2", "x: 1/2, 0:00 left", "x: 2/2, took 0:00"]


def test_work_that_comes_in_one_batch_took_its_time(
    at: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    at(100.0)
    report = Progress("attacking, static", since=40.0)
    report(7, 8)
    report(8, 8)
    Progress("attacking, direct", since=97.0)(8, 8)
    assert capsys.readouterr().out.splitlines() == [
        "attacking, static: 7/8",
        "attacking, static: 8/8, took 1:00",
        "attacking, direct: 8/8, took 0:03",
    ]
