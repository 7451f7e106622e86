"""`jpu services` in a folder of its own, for tests: PostgreSQL, S3, MLflow, Prefect and a worker, all of them real."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from flows.stack.environment import pipeline_variables
from flows.stack.installation import FOLDER, Installation
from flows.stack.record import Entry, read_record
from flows.stack.server import clean_environment

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-c", "from flows.commands.services import app; app()"]
PATIENCE = 400.0


def wait_until(true: Callable[[], object], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


@dataclass
class Services:
    """`jpu services` in a folder.

    Attributes:
        root: The folder; the worker runs in it, too.
        code: Where `flows`, `tasks` and `jpu` are imported from.
    """

    root: Path
    code: Path = ROOT
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.folder.parent.mkdir(exist_ok=True)
        with self._screen.open("ab") as screen:
            self.process = subprocess.Popen(
                COMMAND, cwd=self.root, env=environment(self.code), stdout=screen, stderr=screen
            )
        wait_until(lambda: self.process.poll() is not None or "All are up" in self.screen())
        assert self.process.poll() is None, self.screen()

    def end(self, number: int = signal.SIGTERM) -> int:
        """End the supervisor; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def screen(self) -> str:
        return self._screen.read_text()

    def clear_screen(self) -> None:
        self._screen.write_text("")

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = environment(self.code)
        return subprocess.run(
            [*COMMAND, *arguments], cwd=self.root, env=env, capture_output=True, text=True, check=False
        )

    @property
    def _screen(self) -> Path:
        return self.folder.parent / "screen.txt"

    @property
    def folder(self) -> Path:
        return self.root / FOLDER

    @property
    def installation(self) -> Installation:
        return Installation.read(self.folder)

    @property
    def client(self) -> dict[str, str]:
        """The environment of a client."""
        return environment(self.code) | pipeline_variables(self.installation)

    def entry(self, title: str) -> Entry:
        return next(entry for entry in read_record(self.folder) if entry.title == title)

    def processes(self) -> list[psutil.Process]:
        """All of them, PostgreSQL's detached ones too."""
        return psutil.Process(self.process.pid).children(recursive=True)


def environment(code: Path = ROOT) -> dict[str, str]:
    """No server, no key, nothing of the user's."""
    return clean_environment() | {"PYTHONPATH": str(code), "COLUMNS": "200"}


@contextmanager
def open_folder() -> Iterator[Path]:
    """pytest's own folders are closed to all but their owner, and so to the user that root runs PostgreSQL as."""
    folder = Path(tempfile.mkdtemp(prefix="jpu-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def sockets_in_tmp(processes: list[psutil.Process]) -> set[Path]:
    """Those of `processes`: a port of theirs may well be that of a socket that others left."""
    found = {connection.laddr for process in processes for connection in process.net_connections("unix")}
    return {Path(address) for address in found if address.startswith("/tmp/seaweedfs-")}


@contextmanager
def running_services(root: Path, code: Path = ROOT) -> Iterator[Services]:
    """Up for the body; ended as a person would, and looked after: nothing may be left."""
    services = Services(root, code)
    try:
        services.start()
        yield services
        processes = services.processes()
        sockets = sockets_in_tmp(processes)
        assert sockets
        ended = services.call("stop")
        assert ended.returncode == 0, ended.stderr
        assert services.process.wait(PATIENCE) == 0
        assert not [process for process in processes if process.is_running()]
        assert not [socket for socket in sockets if socket.exists()]
        assert services.call("stop").stdout == "No services run here.\n"
    finally:
        if services.process and services.process.poll() is None:
            services.end(signal.SIGKILL)
