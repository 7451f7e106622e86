"""`jpu compare`: what is refused, and what a store that is away costs. What it runs is in tests/tasks/comparing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from flows.commands.compare import compare
from tasks.comparing.results import RESULTS
from tests.micro_compare import write_experiments


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an experiment file, another one, and a row that neither asks for."""
    write_experiments(tmp_path)
    (tmp_path / "experiments" / "other.yaml").write_bytes((tmp_path / "experiments" / "compare.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def said(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(compare)
    done: Any = CliRunner().invoke(app, list(arguments))
    return done.exit_code, " ".join(done.output.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--prune", "--experiments", "experiments/other.yaml"),
        ("--prune", "--method", "jpu"),
        ("--prune", "--subject", "micro"),
        ("--report", "--experiments", "experiments/other.yaml"),
        ("--report", "--method", "jpu"),
    ],
)
def test_what_is_for_the_whole_file_is_refused_for_another_or_a_part(rows: Path, arguments: tuple[str, ...]) -> None:
    code, words = said(*arguments)
    assert code == 2
    assert f"{arguments[0]} is for the whole of experiments/compare.yaml alone" in words
    assert "without --experiments, --method and --subject" in words
    assert not (rows / RESULTS).exists()


def test_the_file_itself_may_be_named_in_full(rows: Path) -> None:
    code, words = said("--prune", "--experiments", str(rows / "experiments" / "compare.yaml"))
    assert (code, words) == (0, "0 rows removed that experiments/compare.yaml does not ask for.")
