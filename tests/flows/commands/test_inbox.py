"""`jpu inbox`: what it says, and what it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from flows.commands.inbox import inbox
from tasks.repository import data_hash
from tests.tasks.conftest import dump, small_rows

ROOT = Path(__file__).resolve().parents[3]
TEXTS = tuple(f"Night radio number {n}, where callers ask {{query}} and are told" for n in range(3))


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small data, pinned, and an inbox with a family, a bad record and a template that is not whole."""
    folder = tmp_path / "repository"
    (folder / "data" / "sandbox").mkdir(parents=True)
    for name, records in small_rows().items():
        (folder / "data" / "sandbox" / f"{name}.jsonl").write_text(dump(records))
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    (folder / ".gitignore").write_text("/data\n/.jpu\n/in\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("JPU_INBOX", "in")
    monkeypatch.setenv("COLUMNS", "200")
    subprocess.run(["git", "init", "-q", "-b", "main"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "add", "-q", "data"], check=True)
    (folder / "in" / "templates").mkdir(parents=True)
    rows: list[dict[str, Any]] = [{"family": "radio", "text": text} for text in (*TEXTS, "nothing to fill in")]
    path = folder / "in" / "templates" / "radio.jsonl"
    path.write_text(dump(rows))
    (folder / "in" / "templates" / "later.jsonl.part").write_text("{")
    os.utime(path, (0, 0))
    return folder


def run(*options: str) -> str:
    app = typer.Typer()
    app.command()(inbox)
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, done.output
    return done.output


def test_look_then_take(repository: Path) -> None:
    before = data_hash()
    looked = run("--dry-run")
    assert "Nothing was taken in" in looked and data_hash() == before
    said = run()
    for output in (looked, said):
        assert "partly" in output and "waits" in output and "line 4: no {query} placeholder" in output
        assert not any(text in output for text in (*TEXTS, "nothing to fill in", "Night radio"))
    assert data_hash() != before and data_hash() in said
    names = sorted(path.name.partition("-")[0] for path in Path("in").rglob("*.json*"))
    assert names == ["later.jsonl.part", "radio", "radio"]
    assert "later.jsonl.part" in run()


def test_texts_are_shown_when_they_are_asked_for(repository: Path) -> None:
    said = run("--dry-run", "--reveal")
    assert all(text in said for text in (*TEXTS, "nothing to fill in"))


def test_an_empty_inbox(repository: Path) -> None:
    Path("other").mkdir()
    assert "Nothing waits in other" in run("--source", "other")


def test_no_such_inbox(repository: Path) -> None:
    app = typer.Typer()
    app.command()(inbox)
    done = CliRunner().invoke(app, ["--source", "s3://user:hidden@bucket/x"])
    assert done.exit_code == 2 and "hidden" not in done.output
