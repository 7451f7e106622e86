"""One server under the supervisor's eyes: its process, and what became of it so far."""

from __future__ import annotations

import time
from collections import deque

from flows.own_servers import PATIENCE
from flows.process import Guarded
from flows.stack.record import Entry, State
from flows.stack.server import Server
from jpu.errors import InfrastructureError

RESTARTS = 5
WINDOW = 600.0


class Kept:
    """A server and its process, started again when it dies: ever later, and `RESTARTS` times in `WINDOW` s at most."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.state: State = "down"
        self.restarts = 0
        self._process: Guarded | None = None
        self._since = 0.0
        self._again_at = 0.0
        self._deaths: deque[float] = deque(maxlen=RESTARTS + 1)

    @property
    def entry(self) -> Entry:
        """How it is, for the record."""
        pid = self._process.pid if self._process else 0
        return Entry(self.server.title, self.server.address, self.state, self._since, self.restarts, pid)

    def start(self) -> None:
        """Start its process. Raises what the server's `prepare` raises."""
        server = self.server
        server.prepare()
        self._since = time.time()
        log = server.installation.log(server.name)
        self._process = Guarded(server.command(), env=server.environment(), grace=server.grace, log=log)
        self.state = "starting"

    def stop(self) -> None:
        """End its process and all that it started."""
        if self._process is not None:
            self._process.stop()
            self._process = None
        self.server.leftovers()
        self.state = "down"

    def serves(self) -> bool:
        """Whether it has come up since it was started.

        Raises:
            InfrastructureError: It ended, or takes too long.
        """
        if (code := self._exit_code()) is not None:
            raise self._error(f"ended at its start (exit code {code}){self._last_words()}")
        if self.server.healthy(self._since):
            self.state = "up"
            return True
        if time.time() > self._since + PATIENCE:
            raise self._error(f"does not answer after {PATIENCE:.0f} s{self._last_words()}")
        return False

    def look(self, may_start: bool = True) -> str:
        """Notice that it died, start it again, notice that it is back; what there is to say of it, or "".

        Args:
            may_start: Whether what it needs is there.

        Raises:
            InfrastructureError: It died too often.
        """
        title, code = self.server.title, self._exit_code()
        if code is not None:
            return f"{title} ended (exit code {code}); {self._put_off()}"
        if self.state == "down" and may_start and time.monotonic() >= self._again_at:
            self.restarts += 1
            self.start()
        elif self.state == "starting":
            if self.server.healthy(self._since):
                self.state = "up"
                return f"{title} is up again."
            if time.time() > self._since + PATIENCE:
                return f"{title} does not answer; {self._put_off()}"
        return ""

    def _put_off(self) -> str:
        """Clear away what is left of it, and decide when it is started again."""
        self.stop()
        now = time.monotonic()
        self._deaths.append(now)
        recent = sum(now - death < WINDOW for death in self._deaths)
        if recent > RESTARTS:
            raise self._error(f"ended {recent} times in {WINDOW / 60:.0f} minutes{self._last_words()}")
        delay = 2.0 ** (recent - 1)
        self._again_at = now + delay
        return f"it is started again in {delay:.0f} s ({recent} of at most {RESTARTS} in {WINDOW / 60:.0f} minutes)."

    def _exit_code(self) -> int | None:
        return self._process.poll() if self._process else None

    def _error(self, what: str) -> InfrastructureError:
        log = self.server.installation.log(self.server.name)
        return InfrastructureError(f"{self.server.title} {what}", where=self.server.address, mend=f"See {log}.")

    def _last_words(self) -> str:
        """The end of its log, without secrets."""
        log = self.server.installation.log(self.server.name)
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        said = [line.strip() for line in lines if line.strip()]
        return f": {self.server.installation.credentials.redacted(said[-1])[:200]}" if said else ""
