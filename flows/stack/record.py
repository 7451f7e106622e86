"""Who runs the services of this folder, and how each of them is: written by the supervisor, read by the commands."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from jpu.errors import InfrastructureError, JpuError, SettingsError
from jpu.files import read_json, write_json
from tasks.environment import alive, identity

State = Literal["starting", "up", "down"]
# Each server has its grace, and the slowest three of them end one after another.
_PATIENCE = 90.0


@dataclass(frozen=True)
class Entry:
    """One server, as the supervisor sees it.

    Attributes:
        since: When its process was last started, seconds since the epoch.
        restarts: How often it was started again.
        pid: The guard's process id, which is also the process group's; 0 while it is down.
    """

    title: str
    address: str
    state: State
    since: float
    restarts: int
    pid: int


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder: one supervisor at a time. The kernel frees it with the process.

    Raises:
        SettingsError: Another one holds it.
    """
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(
                f"its services run already{_whose(folder)}",
                where=str(folder),
                mend="Use those (`jpu services status`), or end them first (`jpu services stop`).",
            ) from None
        yield
    finally:
        os.close(handle)


def write_record(folder: Path, entries: Sequence[Entry]) -> None:
    """Note the state of every server. Raises StorageError."""
    write_json(_file(folder), {"supervisor": identity(), "servers": [asdict(entry) for entry in entries]})


def drop_record(folder: Path) -> None:
    """Nothing runs any more."""
    _file(folder).unlink(missing_ok=True)


def read_record(folder: Path) -> list[Entry]:
    """The servers of a supervisor that runs; none where there is no such process."""
    noted = _noted(folder)
    return [Entry(**entry) for entry in noted["servers"]] if noted else []


def stop(folder: Path) -> bool:
    """End the services that run here, and wait until they have ended; False where none run.

    Raises:
        InfrastructureError: They do not end.
    """
    noted = _noted(folder)
    if noted is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(int(noted["supervisor"]["pid"]), signal.SIGTERM)
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        with suppress(SettingsError), alone(folder):
            return True
        time.sleep(0.1)
    raise InfrastructureError(
        "they do not end", where=str(folder), mend=f"kill -9 {noted['supervisor']['pid']} ends them all."
    )


def _file(folder: Path) -> Path:
    return folder / "running.json"


def _noted(folder: Path) -> dict[str, Any] | None:
    with suppress(JpuError, KeyError, TypeError):
        noted: dict[str, Any] = read_json(_file(folder))
        if alive(noted["supervisor"]):
            return noted
    return None


def _whose(folder: Path) -> str:
    noted = _noted(folder)
    return f" (process {noted['supervisor']['pid']})" if noted else ""
