"""Commands and servers that end with this process, whatever ends it (see flows/guard.py)."""

from __future__ import annotations

import codecs
import os
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

GUARD = Path(__file__).with_name("guard.py")
_BREAK = re.compile(r"[\r\n]+")


class Guarded:
    """A command in a process group of its own, ended with this process and at the end of the `with` block.

    Args:
        command: Program and arguments.
        env: The whole environment.
        grace: Seconds between SIGINT and SIGTERM when it is stopped.
        log: Where its output goes; None keeps it for `lines`.
        folder: Where it runs; None for here.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        grace: float = 10.0,
        log: Path | None = None,
        folder: Path | None = None,
    ) -> None:
        self.grace = grace
        # -I and -S: the guard needs no installed package, and starts in 20 ms.
        guard = [sys.executable, "-I", "-S", str(GUARD), "--grace", str(grace), "--", *command]
        output = log.open("ab") if log else None
        try:
            self._process = subprocess.Popen(
                guard,
                stdin=subprocess.PIPE,
                stdout=output or subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=folder,
                start_new_session=True,
            )
        finally:
            if output:
                output.close()

    @property
    def pid(self) -> int:
        """The guard's process id, which is also the group's."""
        return self._process.pid

    def lines(self) -> Iterator[str]:
        """The output line by line as it comes; a carriage return ends a line too (progress bars)."""
        stream = self._process.stdout
        if stream is None:
            return
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        rest = ""
        while chunk := self._read(stream.fileno()):
            *whole, rest = _BREAK.split(rest + decoder.decode(chunk))
            yield from (line for line in whole if line.strip())
        if rest.strip():
            yield rest

    def _read(self, descriptor: int) -> bytes:
        """What there is to read; b"" at the end, or when the guard was killed and its orphans keep the pipe open."""
        while not select.select([descriptor], [], [], 1.0)[0]:
            if self._process.poll() is not None:
                return b""
        return os.read(descriptor, 65536)

    def wait(self) -> int:
        """Wait for the end; the command's exit code."""
        return self._process.wait()

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """End the whole group: politely, and after the grace, or on a second Ctrl-C, at once."""
        try:
            if self._process.poll() is None and self._process.stdin:
                self._process.stdin.close()
                # The guard needs the grace, then 3 s for SIGTERM, then a moment for SIGKILL. What the group
                # still writes must be read, or it would block on a full pipe.
                drain = threading.Thread(target=self._drain, daemon=True)
                drain.start()
                self._process.wait(self.grace + 10)
        except subprocess.TimeoutExpired:
            pass
        finally:
            # A guard that ended by itself has ended its group; one that was killed, or hangs, has not.
            if (self._process.poll() or 0) < 0 or self._process.poll() is None:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream:
                    with suppress(OSError):
                        stream.close()

    def _drain(self) -> None:
        with suppress(OSError, ValueError):
            for _ in self.lines():
                pass

    def __enter__(self) -> Guarded:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop whatever still runs."""
        self.stop()
