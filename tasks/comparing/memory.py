"""The most memory that this process holds while something runs."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_MIB = 1024.0
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_EVERY = 0.05


class PeakMemory:
    """A context; `mib` is the peak of the resident memory inside it.

    On Linux the kernel's high-water mark is set back at the start (`5` to clear_refs). Elsewhere memory is looked at
    twenty times a second, and shorter peaks are missed.
    """

    def __init__(self) -> None:
        self.mib = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        try:
            _CLEAR.write_text("5")
        except OSError:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            return
        with suppress(OSError, StopIteration):
            line = next(x for x in _STATUS.read_text(encoding="utf-8").splitlines() if x.startswith("VmHWM"))
            self.mib = int(line.split()[1]) / _MIB

    def _watch(self) -> None:
        import psutil

        process = psutil.Process()
        while not self._stop.wait(_EVERY):
            self.mib = max(self.mib, process.memory_info().rss / _MIB / _MIB)
