"""Starts the servers in order, watches them, starts again what dies, and ends them together.

A server runs under flows/guard.py: nothing of it outlives this process, whatever ends that. Notices a server that
dies, and not one that lives and no longer answers: `jpu services status` shows those.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType

from flows.stack.installation import Installation
from flows.stack.kept import Kept
from flows.stack.orchestration import Orchestration
from flows.stack.ports import check_free
from flows.stack.postgres import Postgres
from flows.stack.record import alone, drop_record, write_record
from flows.stack.s3 import S3
from flows.stack.server import Server
from flows.stack.tracking import Tracking
from flows.stack.worker import Worker

# Those of one wave start at the same time; each wave needs the one before it.
WAVES: tuple[tuple[type[Server], ...], ...] = ((Postgres, S3), (Tracking, Orchestration), (Worker,))
_TICK = 0.2


class Supervisor:
    """Runs the servers of an installation for as long as nobody ends it.

    Args:
        installation: Whose servers they are.
        say: Called with every line for people.
    """

    def __init__(self, installation: Installation, say: Callable[[str], None]) -> None:
        self._installation = installation
        self._say = say
        self._waves = [[Kept(kind(installation)) for kind in wave] for wave in WAVES]
        self._servers = [kept for wave in self._waves for kept in wave]
        self._told_to_end = threading.Event()

    def run(self) -> None:
        """Start all, watch them until SIGINT, SIGTERM or SIGHUP, end all.

        Raises:
            SettingsError: They run already, a port is taken, or a program is not installed.
            InfrastructureError: A server does not start, or dies too often.
        """
        folder = self._installation.folder
        with alone(folder), self._signals():
            check_free(self._installation.ports, folder / "ports.json")
            self._keep_old_logs()
            try:
                self._start()
                self._watch()
            finally:
                self._stop()

    def _start(self) -> None:
        begun = time.monotonic()
        for wave in self._waves:
            for kept in wave:
                kept.start()
            self._record()
            for kept in wave:
                while not self._told_to_end.is_set() and not kept.serves():
                    self._told_to_end.wait(_TICK)
                if self._told_to_end.is_set():
                    return
                kept.server.provision()
                self._record()
                self._say(f"{kept.server.title:<11} {kept.server.address:<32} {time.monotonic() - begun:5.1f} s")
        self._say(f"All are up. State and logs: {self._installation.folder}. Ctrl-C ends them.")

    def _watch(self) -> None:
        while not self._told_to_end.wait(_TICK):
            all_up = True
            for wave in self._waves:
                needs_are_up = all_up
                for kept in wave:
                    before = kept.entry
                    news = kept.look(needs_are_up)
                    # Who reads the news may look at the record at once.
                    if kept.entry != before:
                        self._record()
                    if news:
                        self._say(news)
                    all_up = all_up and kept.state == "up"

    def _stop(self) -> None:
        begun = time.monotonic()
        for wave in reversed(self._waves):
            with ThreadPoolExecutor(len(wave)) as pool:
                list(pool.map(Kept.stop, wave))
        drop_record(self._installation.folder)
        self._say(f"All have ended ({time.monotonic() - begun:.1f} s).")

    def _record(self) -> None:
        write_record(self._installation.folder, [kept.entry for kept in self._servers])

    def _keep_old_logs(self) -> None:
        """Each log of the last time stays, as NAME.log.1."""
        for kept in self._servers:
            log = self._installation.log(kept.server.name)
            if log.exists():
                log.replace(log.with_suffix(".log.1"))

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def end(number: int, frame: FrameType | None) -> None:
            self._told_to_end.set()

        # An ignored SIGHUP is nohup's doing, and stays ignored; an ignored SIGINT a shell's `&`.
        numbers = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, end) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
