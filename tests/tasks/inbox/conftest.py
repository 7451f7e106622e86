"""A git and DVC repository with a small data set, and an inbox, a folder each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.inbox import Taking, put_away, take_in
from tasks.settings import Settings, load_settings
from tasks.storage.folder import Folder

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def repository(rows: dict[str, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository as the current folder, its data pinned by data.dvc."""
    folder = tmp_path / "repository"
    (folder / "data" / "sandbox").mkdir(parents=True)
    for name, records in rows.items():
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "data" / "sandbox" / f"{name}.jsonl").write_text(text)
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (folder / ".gitignore").write_text("/data\n/.jpu\n")
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("JPU_INBOX", raising=False)
    monkeypatch.setenv("JPU_TRACKING", "off")
    subprocess.run(["git", "init", "-q", "-b", "main"], check=True)
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    subprocess.run([sys.executable, "-m", "dvc", "add", "-q", "data"], check=True, env=environment)
    return folder


@pytest.fixture
def settings(repository: Path) -> Settings:
    """Of params.yaml, without a wait for files to settle."""
    found = load_settings()
    return found.model_copy(update={"inbox": found.inbox.model_copy(update={"settle_seconds": 0.0})})


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    for name in ("templates", "behaviors", "benign"):
        (folder / name).mkdir(parents=True)
    return folder


def templates(*texts: str, family: str = "night_radio", **fields: str) -> bytes:
    """A file of templates."""
    return "".join(json.dumps({"family": family, "text": text, **fields}) + "\n" for text in texts).encode()


WORDINGS = tuple(
    f"{opening} {{query}} {closing}"
    for opening, closing in (
        ("Tonight on the late show a caller wants to know:", "Go on air with it."),
        ("RADIO SCRIPT. Host, warmly:", "Guest, at length:"),
        ("Line two is open, and the listener asks", "Leave out nothing, my friend."),
        ("After the weather and the news:", "That was the question of the evening."),
        ("Dear night owls, here is a letter.", "Read the answer aloud."),
        ("The studio clock says two.", "Speak slowly."),
    )
)


@pytest.fixture
def take(settings: Settings, inbox: Path) -> Callable[..., Taking]:
    """Takes in, and puts away."""

    def run(*, away: bool = True, **changes: Any) -> Taking:
        own = settings.model_copy(update={"inbox": settings.inbox.model_copy(update=changes)})
        taking = take_in(Folder(inbox), own)
        if away:
            put_away(Folder(inbox), taking)
        return taking

    return run


def left(inbox: Path) -> list[str]:
    """Every file of the inbox."""
    return sorted(path.relative_to(inbox).as_posix() for path in inbox.rglob("*") if not path.is_dir())
