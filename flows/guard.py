"""Run a command so that nothing of it outlives the one who asked for it.

Run: python flows/guard.py [--grace SECONDS] -- COMMAND [ARGUMENT ...]

DVC starts a stage as a child of its own, and killing DVC leaves the stage running with its lock. This process
stands between: it leads a process group of its own and ends all of it when its parent goes away (the pipe on
standard input breaks, which also happens on kill -9), on SIGTERM, SIGINT or SIGHUP, and when the command ends with
children still running. First SIGINT, on which DVC and the stages clean up; after `grace` seconds SIGTERM; then SIGKILL.

Standard library only, and started without site-packages: it costs some 20 ms. On Linux it also adopts what its
command leaves behind (child subreaper), and the command dies with it. A kill -9 of this very process is noticed by
flows/process.py, which then ends the group.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_STOPPED = 130


def main(arguments: list[str]) -> int:
    """Guard the command in `arguments`; its exit code, 128 + the signal's number, or 130 where it was stopped."""
    grace = 10.0
    if arguments[:1] == ["--grace"]:
        grace, arguments = float(arguments[1]), arguments[2:]
    command = arguments[1:] if arguments[:1] == ["--"] else arguments
    if not command:
        print("usage: guard.py [--grace SECONDS] -- COMMAND [ARGUMENT ...]", file=sys.stderr)
        return 2
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    _linux(_PR_SET_CHILD_SUBREAPER, 1)
    wake = _signals()
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_in_child)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    stopped = _wait(child, wake)
    _end_group(child, grace if stopped else 1.0)
    if stopped:
        return _STOPPED
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _wait(child: subprocess.Popen[bytes], wake: int) -> bool:
    """Wait for the command to end; True where it was told to stop, or its parent has gone, before that."""
    while child.poll() is None:
        ready, _, _ = select.select([0, wake], [], [])
        if wake in ready and set(os.read(wake, 64)) - {signal.SIGCHLD}:
            return True
        if 0 in ready and not os.read(0, 4096):
            return True
    return False


def _end_group(child: subprocess.Popen[bytes], grace: float) -> None:
    """End whatever is left of the group, ever less politely."""
    for number, patience in ((signal.SIGINT, grace), (signal.SIGTERM, min(grace, 3.0)), (signal.SIGKILL, 5.0)):
        if not _left(child):
            return
        _signal_group(number)
        end = time.monotonic() + patience
        while _left(child) and time.monotonic() < end:
            time.sleep(0.02)
            if number == signal.SIGKILL:
                # A child that left the group comes within reach once its parent is dead.
                _signal_group(number)


def _left(child: subprocess.Popen[bytes]) -> bool:
    """Whether descendants are left; reaps the adopted ones that have ended."""
    child.poll()
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return True
            if pid == child.pid:
                child.returncode = os.waitstatus_to_exitcode(status)
    return False


def _signal_group(number: int) -> None:
    """Send a signal to every process of the group but this one, and to adopted ones that left the group."""
    if sys.platform != "linux":
        os.killpg(0, number)
        return
    for pid in {*_group(), *_children()}:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _group() -> list[int]:
    """Members of this process group except this process."""
    me, members = os.getpid(), []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            fields = entry.read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[2]) == me and int(entry.parent.name) != me:
                members.append(int(entry.parent.name))
    return members


def _children() -> list[int]:
    with suppress(OSError):
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    return []


def _signals() -> int:
    """Have signals wake `select`; the file descriptor to watch."""
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return wake


def _in_child() -> None:
    # A shell's `&` hands on an ignored SIGINT, on which a stage would never clean up.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    _linux(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _linux(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
