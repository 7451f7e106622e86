"""A server that keeps dying is given up, ever more patiently, and the reason is said."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from flows.stack import kept
from flows.stack.installation import Installation
from flows.stack.kept import Kept
from flows.stack.server import Server
from jpu.errors import InfrastructureError


class Mortal(Server):
    """Says its password, and dies."""

    name, title, address = "mortal", "Mortal", "nowhere"
    serves = True

    def command(self) -> list[str]:
        return [sys.executable, "-c", "import os; print('using', os.environ['SECRET'])"]

    def environment(self) -> dict[str, str]:
        return super().environment() | {"SECRET": self.installation.credentials.prefect.password}

    def healthy(self, since: float) -> bool:
        return self.serves


@pytest.fixture
def mortal(tmp_path: Path) -> Mortal:
    return Mortal(Installation.make(tmp_path / "services"))


def until_news(server: Kept) -> str:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if news := server.look():
            return news
        time.sleep(0.02)
    raise AssertionError("nothing happened")


def test_it_is_started_again_ever_later_and_then_given_up(mortal: Mortal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "RESTARTS", 2)
    mortal.serves = False
    server = Kept(mortal)
    server.start()
    assert "started again in 1 s (1 of at most 2 in 10 minutes)" in until_news(server)
    assert server.entry.state == "down"
    assert "started again in 2 s (2 of at most 2 in 10 minutes)" in until_news(server)
    with pytest.raises(InfrastructureError, match="ended 3 times in 10 minutes: using …") as error:
        until_news(server)
    assert server.restarts == 2
    assert mortal.installation.credentials.prefect.password not in str(error.value)


def test_deaths_of_long_ago_are_forgotten(mortal: Mortal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "RESTARTS", 1)
    monkeypatch.setattr(kept, "WINDOW", 0.5)
    mortal.serves = False
    server = Kept(mortal)
    server.start()
    for _ in range(3):
        assert "started again in 1 s (1 of at most 1" in until_news(server)
    server.stop()


def test_one_that_ends_at_its_start_is_an_error_with_its_last_words(mortal: Mortal) -> None:
    mortal.serves = False
    server = Kept(mortal)
    server.start()
    with pytest.raises(InfrastructureError, match=r"ended at its start \(exit code 0\): using …"):
        while not server.serves():
            time.sleep(0.02)
    server.stop()
