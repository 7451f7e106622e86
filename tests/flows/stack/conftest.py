"""The real services, started once for all tests, in a folder in which root's PostgreSQL can live."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from flows.stack.environment import pipeline_variables
from flows.stack.installation import FOLDER, Installation
from flows.stack.record import Entry, read_record
from flows.stack.server import clean_environment

ROOT = Path(__file__).resolve().parents[3]
COMMAND = [sys.executable, "-c", "from flows.commands.services import app; app()"]
PATIENCE = 180.0


def wait_until(true: Callable[[], object], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


@dataclass
class Services:
    """`jpu services` in a folder of its own."""

    root: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.root / "screen.txt").open("ab") as screen:
            self.process = subprocess.Popen(COMMAND, cwd=self.root, env=environment(), stdout=screen, stderr=screen)
        wait_until(lambda: self.process.poll() is not None or "All are up" in self.screen())
        assert self.process.poll() is None, self.screen()

    def end(self, number: int = signal.SIGTERM) -> int:
        """End the supervisor; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def screen(self) -> str:
        return (self.root / "screen.txt").read_text()

    def clear_screen(self) -> None:
        (self.root / "screen.txt").write_text("")

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, *arguments]
        return subprocess.run(command, cwd=self.root, env=environment(), capture_output=True, text=True, check=False)

    @property
    def folder(self) -> Path:
        return self.root / FOLDER

    @property
    def installation(self) -> Installation:
        return Installation.read(self.folder)

    @property
    def client(self) -> dict[str, str]:
        """The environment of a client."""
        return environment() | pipeline_variables(self.installation)

    def entry(self, title: str) -> Entry:
        return next(entry for entry in read_record(self.folder) if entry.title == title)

    def processes(self) -> list[psutil.Process]:
        """All of them, PostgreSQL's detached ones too."""
        return psutil.Process(self.process.pid).children(recursive=True)


def environment() -> dict[str, str]:
    return clean_environment() | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}


@pytest.fixture(scope="package")
def open_folder() -> Iterator[Path]:
    """pytest's own folders are closed to all but their owner, and so to the user that root runs PostgreSQL as."""
    folder = Path(tempfile.mkdtemp(prefix="jpu-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="package")
def services(open_folder: Path) -> Iterator[Services]:
    """Up for as long as there are tests; ended as a person would, and looked after: nothing may be left."""
    running = Services(open_folder)
    try:
        running.start()
        yield running
        processes, sockets = running.processes(), list(Path("/tmp").glob("seaweedfs-*-grpc-*.sock"))
        ended = running.call("stop")
        assert ended.returncode == 0, ended.stderr
        assert running.process.wait(PATIENCE) == 0
        assert not [process for process in processes if process.is_running()]
        assert not [
            s for s in sockets if s.exists() and any(str(p) in s.name for p in running.installation.ports.values())
        ]
        assert running.call("stop").stdout == "No services run here.\n"
    finally:
        if running.process.poll() is None:
            running.end(signal.SIGKILL)
