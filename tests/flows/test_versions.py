"""The commands about versions, as they are called and shown on a terminal of 80 columns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from flows.commands import versions as commands
from tests.hardened import TEMPLATE, Place, copied


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Version 1 is the champion; version 2, the challenger, is in a checkout, which is the current folder."""
    monkeypatch.setenv("COLUMNS", "80")
    place = copied(tmp_path / "base", monkeypatch)
    monkeypatch.chdir(place.checkout)
    return place


@pytest.fixture
def jpu() -> Callable[..., Result]:
    app = typer.Typer(pretty_exceptions_enable=False)
    for command in (commands.lineage, commands.verify, commands.diff, commands.promote, commands.rollback):
        app.command()(command)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def edit(place: Place) -> None:
    """Work on the settings that no version has."""
    settings = place.checkout / "params.yaml"
    settings.write_text(settings.read_text().replace('"seed": 3', '"seed": 4'))


def narrow(text: str) -> bool:
    return all(len(line) <= 80 for line in text.splitlines())


def test_from_challenger_to_champion_and_back(place: Place, jpu: Callable[..., Result]) -> None:
    unrecorded = jpu("verify", "challenger")
    assert unrecorded.exit_code == 3 and "`jpu promote` does" in unrecorded.output

    promoted = jpu("promote")
    assert promoted.exit_code == 0 and "Champion: version 2, before that 1." in promoted.output
    assert "is the champion already" in jpu("promote", "2").output

    verified = jpu("verify")
    assert verified.exit_code == 0 and narrow(verified.output)
    lines = verified.output.splitlines()
    assert lines[-1].endswith("links, all of them hold.") and sum(line.startswith("✓ ") for line in lines) > 30

    tree = jpu("lineage")
    assert tree.exit_code == 0 and narrow(tree.output)
    assert "round 1, kept from version 1" in tree.output and "hold" in tree.output
    assert f"#/experiments/1/runs/{place.version('2').maker('unlearn@2')}" in tree.output

    difference = jpu("diff", "1")
    assert difference.exit_code == 0 and narrow(difference.output)
    assert "jailbreak added" in difference.output and "code: the same" in difference.output
    assert str(TEMPLATE["text"]) not in difference.output

    back = jpu("rollback", "1")
    assert back.exit_code == 0 and "Champion: version 1, before that 2." in back.output
    assert "Put in place: dvc.lock, data.dvc, params.yaml, dvc.yaml, champion.dvc." in back.output
    assert place.champion() == 1
    assert "Artifacts: as they were." in jpu("rollback", "1").output


def test_json(place: Place, jpu: Callable[..., Result]) -> None:
    assert json.loads(jpu("lineage", "--json").output)["version"] == "jpu-micro/1"
    assert json.loads(jpu("diff", "1", "2", "--json").output)["params"]["last_round"] == ["1", "2"]
    verdict = jpu("verify", "1", "--json")
    assert verdict.exit_code == 0
    good = json.loads(verdict.output)
    assert good["holds"] and good["broken"] is None and good["passed"][0]["link"] == "git tag"
    place.git("tag", "-d", "jpu/micro/v1")
    verdict = jpu("verify", "1", "--json")
    assert verdict.exit_code == 3
    assert json.loads(verdict.output)["broken"]["link"] == "git tag"


def test_a_broken_link_is_one_line(place: Place, jpu: Callable[..., Result]) -> None:
    place.client.delete_run(place.version("1").maker("unlearn@1"))
    verdict = jpu("verify")
    assert verdict.exit_code == 3
    broken = [line for line in verdict.output.splitlines() if line.startswith("✗ ")]
    assert len(broken) == 1 and broken[0].startswith("✗ run of unlearn@1: expected run ")
    assert "the first broken link" in verdict.output


def test_errors_end_with_their_codes(place: Place, jpu: Callable[..., Result]) -> None:
    edit(place)
    refused = jpu("rollback", "1")
    assert refused.exit_code == 3 and "jpu rollback --force" in refused.output
    assert place.champion() == 1
    place.remote.rename(place.root / "elsewhere")
    away = jpu("verify")
    assert away.exit_code == 8 and "remote store" in away.output


def test_restored_work_is_named(place: Place, jpu: Callable[..., Result]) -> None:
    edit(place)
    done = jpu("rollback", "1", "--force")
    assert done.exit_code == 0 and ".jpu/replaced/1" in done.output.replace("\n", "")
