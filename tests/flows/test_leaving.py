"""The end of a command's process: told to by a signal, and with what nobody takes any more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import FrameType

import pytest

from flows import leaving


def test_a_signal_cleans_up_on_the_way_out() -> None:
    """SIGTERM becomes SystemExit, so that `with` blocks around servers and stages are left properly."""
    with pytest.raises(SystemExit) as ended, leaving.terminable():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_what_is_waited_for_after_it_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flow's handler waits for a server, and so does the flow that contains it: neither for longer than said."""
    monkeypatch.setattr(leaving, "PATIENCE", 0.1)
    monkeypatch.setattr(leaving, "_AGAIN", 1.0)
    seen = []

    def prefects(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        raise KeyError("terminated")

    began = time.monotonic()
    with pytest.raises(SystemExit) as ended, leaving.terminable():
        before = signal.signal(signal.SIGTERM, prefects)
        leaving.hurried()
        try:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(20)
            except KeyError:
                time.sleep(20)
        except SystemExit:
            time.sleep(20)
        finally:
            signal.signal(signal.SIGTERM, before)
    assert (seen, ended.value.code) == ([signal.SIGTERM], 143)
    assert time.monotonic() - began < 10


def test_the_end_is_not_hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaving, "PATIENCE", 0.1)
    with pytest.raises(SystemExit), leaving.terminable():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            leaving.unhurried()
            time.sleep(0.3)


def test_a_flow_of_somebody_elses_keeps_its_handler() -> None:
    """In a Prefect worker's process nothing is armed: SIGALRM would kill it."""
    before = signal.getsignal(signal.SIGTERM)
    leaving.hurried()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("given_up", "code"), [(False, 0), (False, 3), (True, 0), (True, 3)])
def test_what_nobody_takes_is_not_waited_for(given_up: bool, code: int) -> None:
    """Prefect registers its waiting where Python joins its threads, before any `atexit`."""
    script = f"""
import sys, threading, time
from flows import leaving
threading._register_atexit(lambda: time.sleep({30 if given_up else 0}))
def command():
    print("said", end="")
    if {given_up}:
        leaving.give_up()
    sys.exit({code})
leaving.leave(command)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "said", "")
