"""The end of a command's process, with what nobody takes any more."""

from __future__ import annotations

import subprocess
import sys

import pytest


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
