"""The flow's own decisions, without a server: what it writes to params.yaml, where it runs, that it runs alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flows import harden
from jpu.errors import InfrastructureError, SettingsError


def test_choosing_changes_one_word(repository: Path) -> None:
    before = Path("params.yaml").read_text()
    harden.choose("other", 7)
    assert Path("params.yaml").read_text() == before.replace("profile: tiny", "profile: other").replace(
        "seed: 0", "seed: 7"
    )
    harden.choose(None, None)
    harden.choose("tiny", 0)
    assert Path("params.yaml").read_text() == before


@pytest.mark.parametrize(("profile", "seed"), [("no-such", None), (None, -1)])
def test_a_wrong_choice_writes_nothing(profile: str | None, seed: int | None, repository: Path) -> None:
    before = Path("params.yaml").read_text()
    with pytest.raises(SettingsError, match="Nothing was written"):
        harden.choose(profile, seed)
    assert Path("params.yaml").read_text() == before


def test_one_run_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = rf"under way here \(process {os.getpid()}\)"
    with harden.alone(), pytest.raises(InfrastructureError, match=words), harden.alone():
        pass
    with harden.alone():
        pass


def test_it_runs_where_dvc_yaml_is(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = repository / "a" / "b"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert harden.repository() == repository
