"""One stage through the real DVC: executed, restored, unchanged, failed, and what is said of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.runner import repro, stage_environment
from jpu.errors import InfrastructureError, SettingsError, StageError
from tasks.locks import clear_stale_locks
from tasks.pipeline import read_plan
from tasks.repository import data_hash, hash_path, read_lock


def bring(stage: str, **options: bool) -> tuple[str, str, list[str]]:
    said: list[str] = []
    outcome = repro(stage, say=said.append, grace=2, **options)
    return outcome.what, outcome.why, said


def test_what_happens_to_a_stage(repository: Path) -> None:
    plan = read_plan()
    assert [stage.name for stage in plan.stages] == ["prepare", "mine@1", "mine@2", "evaluate"]
    assert plan.stage("mine@2").upstream == ("mine@1", "prepare")
    assert plan.changes["prepare"] == ("never ran before",)
    assert [s.name for s in plan.select(["mine", "evaluate"])] == ["mine@1", "mine@2", "evaluate"]
    with pytest.raises(SettingsError, match="no stage 'mien'"):
        plan.select(["mien"])

    assert bring("prepare") == ("executed", "never ran before", ["prepare starts"])
    assert bring("prepare") == ("unchanged", "nothing changed", [])
    assert bring("mine@1")[:2] == ("executed", "never ran before")
    assert hash_path("data") == data_hash() == read_lock()["prepare"].deps["data"]
    assert hash_path("artifacts/prepared") == read_lock()["prepare"].outs["artifacts/prepared"]

    # A changed setting, seen before and after; and why a stage behind it may run.
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("tau: 0.5", "tau: 0.6"))
    bring("mine@2")
    plan = read_plan()
    assert plan.changes["mine@1"] == ("parameter profiles.tiny.mining.tau: 0.5 → 0.6",)
    assert plan.changes["evaluate"] == ("never ran before",)
    assert plan.waiting() == {"mine@2": "mine@1"}
    assert bring("mine@1")[:2] == ("executed", "parameter profiles.tiny.mining.tau: 0.5 → 0.6")

    # Back to the old one: DVC has it.
    params.write_text(params.read_text().replace("tau: 0.6", "tau: 0.5"))
    assert bring("mine@1")[:2] == ("restored", "parameter profiles.tiny.mining.tau: 0.6 → 0.5")
    shutil.rmtree("artifacts/rounds/1")
    assert read_plan().changes["mine@1"] == ("output artifacts/rounds/1/adapter is missing",)
    assert bring("mine@1") == ("restored", "outputs were not in place", [])
    assert bring("mine@1", force=True)[:2] == ("executed", "forced")


def test_failures(repository: Path) -> None:
    Path("prepare.trip").write_text("data")
    with pytest.raises(StageError, match="stage prepare: the stage ended with code 3") as failed:
        bring("prepare")
    assert not failed.value.retryable
    Path("prepare.trip").write_text("retry")
    with pytest.raises(InfrastructureError) as failed_again:
        bring("prepare")
    assert failed_again.value.retryable
    with pytest.raises(StageError, match="no-such-stage"):
        bring("no-such-stage")
    assert not json.loads(Path(".dvc/tmp/rwlock").read_text()).get("write")


def test_a_broken_pipeline_is_a_settings_error(repository: Path) -> None:
    text = Path("dvc.yaml").read_text()
    Path("dvc.yaml").write_text(text.replace("${rounds}", "${round}"))
    with pytest.raises(SettingsError, match=r"dvc\.yaml.*round"):
        read_plan()
    Path("dvc.yaml").write_text(text)
    Path("params.yaml").write_text("profile: [")
    with pytest.raises(SettingsError):
        read_plan()


def test_interrupted_stage_leaves_no_lock(repository: Path) -> None:
    Path("prepare.trip").write_text("sleep")

    def stop(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repro("prepare", say=stop, grace=5)
    assert clear_stale_locks() == []
    Path("prepare.trip").unlink()
    assert bring("prepare")[0] == "executed"


def test_stale_locks_are_cleared(repository: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    out = str(Path("artifacts/prepared").absolute())
    lock = Path(".dvc/tmp/rwlock")
    mine = {"pid": os.getpid(), "cmd": "dvc repro"}
    lock.write_text(json.dumps({"write": {out: {"pid": ended.pid, "cmd": "dvc repro"}}, "read": {out: [mine]}}))
    # This process runs, but it is no DVC: its number was given out again.
    assert clear_stale_locks() == sorted([ended.pid, os.getpid()])
    lock.write_text('{"write": {"half')
    assert clear_stale_locks() == []
    assert not lock.exists()


def test_the_environment_of_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "another run's")
    monkeypatch.setenv("SHELL", "/usr/sbin/nologin")
    environment = stage_environment({"JPU_TRACKER": "here"})
    assert "MLFLOW_RUN_ID" not in environment
    assert environment["SHELL"] == "/bin/sh"
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert environment["JPU_TRACKER"] == "here"
    for name in ("DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY"):
        assert environment[name] == "true"
    assert environment["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
