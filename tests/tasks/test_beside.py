"""A stage beside the main job: it is not there before it is switched on, and is a stage like any other afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.pipeline import read_plan
from tasks.settings import switch_on
from tests.shipped import shipped_params, shipped_pipeline


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The pipeline of this repository, with nothing run."""
    (tmp_path / "dvc.yaml").write_text(shipped_pipeline(), encoding="utf-8")
    (tmp_path / "params.yaml").write_text(shipped_params(), encoding="utf-8")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("repository")
def test_the_analyses_join_the_pipeline_when_they_are_switched_on() -> None:
    before = [stage.name for stage in read_plan().stages]
    assert before[-1] == "evaluate" and not any(name.startswith("analyze") for name in before)
    switch_on("analyze")
    plan = read_plan()
    (analyze,) = plan.select(["analyze"])
    assert [stage.name for stage in plan.stages] == [*before, "analyze@last"]
    # It reads what the last round leaves, and the evaluation does not wait for it.
    assert set(analyze.upstream) == {"prepare", "subject", "unlearn@2"}
    assert "analyze@last" not in plan.stage("evaluate").upstream
