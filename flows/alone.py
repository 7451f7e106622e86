"""One run a working tree at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jpu.errors import InfrastructureError

LOCK = Path(".jpu/harden.lock")


@contextmanager
def alone(lock: Path = LOCK) -> Iterator[None]:
    """Hold a lock file of the working tree; the kernel frees it with the process.

    Raises:
        InfrastructureError: Another run holds it.
    """
    lock.parent.mkdir(exist_ok=True)
    with lock.open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise InfrastructureError(
                f"another run is under way here (process {handle.read().strip() or 'unknown'})",
                where=str(lock),
                mend="Wait for it to end, or end it.",
            ) from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield
