"""How the process of a command ends: when it is told to, and where a Prefect server has ended before it.

A service manager tells all processes at once, the server too. Prefect's client would then go on for minutes to tell it
how the task ended, and after that the flow; and what its services hold keeps Python from leaving, for eleven seconds an
event. What they hold then is lost in any case.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# Longest, in seconds, that a flow may take to end once it was told to: its stages have 15 to clean up.
PATIENCE = 25.0
_AGAIN = 2.0

_told: int | None = None
_armed = False
_given_up = False


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP raise SystemExit, so that servers and stages are ended on the way out.

    After `PATIENCE` it is raised again and again, through whatever is waited for, until `unhurried`.
    """
    global _armed
    # An ignored SIGHUP is nohup's doing, and stays ignored.
    ending = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, _stop) for number in (*ending, signal.SIGALRM)}
    _armed = True
    try:
        yield
    finally:
        _armed = False
        unhurried()
        for number, handler in before.items():
            signal.signal(number, handler)


def hurried() -> None:
    """Have `terminable` see SIGTERM inside a flow, where Prefect has a handler of its own, which is called as ever."""
    prefects = signal.getsignal(signal.SIGTERM)
    if not _armed or not callable(prefects) or prefects is _stop:
        return

    def told(number: int, frame: FrameType | None) -> None:
        _start(number)
        prefects(number, frame)

    signal.signal(signal.SIGTERM, told)


def unhurried() -> None:
    """Let what comes now take the time that it needs."""
    signal.setitimer(signal.ITIMER_REAL, 0.0)


def give_up() -> None:
    """Do not wait at the exit of this process for what Prefect still holds."""
    global _given_up
    _given_up = True


def leave(command: Callable[[], object]) -> None:
    """Call `command` and end as it does; at once after `give_up`, with all that was printed written out."""
    try:
        command()
    except SystemExit as end:
        if not _given_up or not isinstance(end.code, int):
            raise
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(end.code)


def _stop(number: int, frame: FrameType | None) -> None:
    if number != signal.SIGALRM:
        _start(number)
    raise SystemExit(128 + (_told or signal.SIGTERM))


def _start(number: int) -> None:
    global _told
    _told = number
    signal.setitimer(signal.ITIMER_REAL, PATIENCE, _AGAIN)
