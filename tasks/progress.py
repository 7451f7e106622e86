"""Progress of long work as plain lines: they read well in a terminal, in a log and in a flow's page alike."""

from __future__ import annotations

import time


class Progress:
    """Prints done, total, time left and a word on how it goes, at most every few seconds.

    Args:
        title: What is being done.
        every: Least seconds between two lines.
        since: When the work began, on the monotonic clock; None: now. The first report may be of much that was done
            at once, so it does not tell.
    """

    def __init__(self, title: str, every: float = 5.0, *, since: float | None = None) -> None:
        self.title = title
        self.every = every
        self._began = time.monotonic() if since is None else since
        self._start: float | None = None
        self._from = 0
        self._last = 0.0

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Report; pace is taken from the first call on, so a resumed loop is not credited with what it found done."""
        now = time.monotonic()
        if self._start is None or done < self._from:
            if self._start is not None:
                self._began = now
            self._start, self._from, self._last = now, done, now
            took = f", took {duration(now - self._began)}" if done >= total else ""
            print(f"{self.title}: {done}/{total}{took} {note}".rstrip(), flush=True)
            return
        if now - self._last < self.every and done < total:
            return
        self._last = now
        speed = (done - self._from) / max(1e-9, now - self._start)
        left = (total - done) / speed if speed else 0.0
        when = f"{duration(left)} left" if done < total else f"took {duration(now - self._began)}"
        print(f"{self.title}: {done}/{total}, {when} {note}".rstrip(), flush=True)


def duration(seconds: float) -> str:
    """Seconds as a clock shows them: 9:05, or 1:02:09 from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
