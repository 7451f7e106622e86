"""What ties the repository together: dvc.yaml and the code it watches, the deployment, the folder called mlflow."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.events.schemas.automations import AutomationCore

from flows.data import GENERATOR, SANDBOX
from flows.own_servers import CLIENTS
from tasks.repository import data_hash, hash_path
from tasks.settings import load_settings
from tests.shipped import DATA, shipped_pipeline

ROOT = Path(__file__).resolve().parents[2]
STAGES = yaml.safe_load(shipped_pipeline())["stages"]
# Code that a stage imports and that does not decide what it writes.
PLUMBING = {
    "jpu/__init__.py",
    "jpu/checkpoint.py",
    "jpu/data/schemas.py",
    "jpu/errors.py",
    "jpu/files.py",
    "jpu/processes.py",
    "jpu/rows.py",
    "jpu/sharding.py",
    "jpu/retries.py",
    "tasks/__init__.py",
    "tasks/engine.py",
    "tasks/environment.py",
    "tasks/fanout.py",
    "tasks/fingerprint.py",
    "tasks/layout.py",
    "tasks/processes.py",
    "tasks/progress.py",
    "tasks/sections.py",
    "tasks/settings.py",
    "tasks/stage.py",
    "tasks/tracking.py",
}
# Reached by import only: attacks that the gates do not run, and adapters, of which a subject has none.
NO_PART = {"subject": ("jpu/attacks", "jpu/adversary", "jpu/mining", "jpu/paths", "jpu/spread.py", "jpu/unlearning")}


def definition(stage: str) -> dict[str, list[object]]:
    return dict(STAGES[stage].get("do", STAGES[stage]))


def reached(stage: str) -> set[str]:
    """Our modules that a stage imports, and those that they import, up to the plumbing."""
    found: set[str] = set()
    waiting = [f"tasks/{stage}.py"]
    while waiting:
        file = waiting.pop()
        if file not in found and file not in PLUMBING:
            found.add(file)
            waiting += imported(ROOT / file)
    return found


def imported(file: Path) -> Iterator[str]:
    """Our modules that a file imports, as paths; a package is its `__init__.py`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            path = Path(*name.split("."))
            if path.parts[0] in {"jpu", "tasks"}:
                candidates = (path.with_suffix(".py"), path / "__init__.py")
                yield from (p.as_posix() for p in candidates if (ROOT / p).is_file())


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_watches_the_code_of_every_stage(stage: str) -> None:
    watched = [str(dep) for dep in definition(stage)["deps"]]
    assert f"tasks/{stage}.py" in watched
    known = (*watched, *NO_PART.get(stage, ()))
    missing = [path for path in sorted(reached(stage)) if not any(path == k or path.startswith(f"{k}/") for k in known)]
    assert missing == []
    gone = [w for w in watched if w.startswith(("jpu", "tasks")) and not (ROOT / w).exists()]
    assert gone == []


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_watches_the_settings_of_every_stage(stage: str) -> None:
    watched = {str(param).replace("profiles.${profile}.", "").split(".")[0] for param in definition(stage)["params"]}
    sections = "seed|data|subject|mining|paths|unlearning|evaluation"
    files = [file for file in reached(stage) if file.startswith("tasks/")]
    used = {name for f in files for name in re.findall(rf"settings\.({sections})\b", (ROOT / f).read_text("utf-8"))}
    assert used and (used <= watched or "profiles" in watched)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_nothing_of_the_floor_above(stage: str) -> None:
    text = (ROOT / "tasks" / f"{stage}.py").read_text(encoding="utf-8")
    assert "prefect" not in text.lower().replace("prefect_", "")
    assert "from flows" not in text


def test_the_floors() -> None:
    """jpu knows no tracking, no orchestration and no data versioning; tasks know no orchestration."""
    forbidden = {"jpu": {"prefect", "mlflow", "dvc", "great_expectations", "pandas", "tasks", "flows"}}
    forbidden["tasks"] = {"prefect", "flows"}
    for floor, above in forbidden.items():
        for file in (ROOT / floor).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                assert not {name.split(".")[0] for name in names} & above, file


def test_a_fresh_clone_generates_what_data_dvc_pins(tmp_path: Path) -> None:
    command = [sys.executable, *GENERATOR, str(tmp_path / "data" / SANDBOX)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert hash_path(tmp_path / "data", ROOT) == DATA
    # A champion brings the data that it was hardened on.
    assert data_hash(ROOT) == DATA or (ROOT / "champion.dvc").exists()


DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_a_deployment_names_a_flow_and_its_parameters(deployment: dict[str, Any]) -> None:
    path, _, name = deployment["entrypoint"].partition(":")
    flow = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)
    assert set(deployment["parameters"]) == set(flow.parameters.properties)


def test_the_schedule_is_that_of_the_settings() -> None:
    (scheduled,) = [d for d in DEPLOYMENTS if d.get("schedules")]
    assert [s["cron"] for s in scheduled["schedules"]] == [load_settings(ROOT / "params.yaml").reharden.cron]


def test_deployments_live_through_a_server_that_is_away() -> None:
    assert all(d["work_pool"]["job_variables"]["env"] == CLIENTS for d in DEPLOYMENTS)


def test_the_automation_waits_longer_than_a_run_is_silent() -> None:
    (killed,) = yaml.safe_load((ROOT / "automations.yaml").read_text(encoding="utf-8"))["automations"]
    automation = AutomationCore.model_validate(killed)
    assert automation.trigger.within.total_seconds() > 3 * int(CLIENTS["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    flows = {importlib.import_module(f"flows.{name}").__dict__[name].name for name in ("harden", "reharden")}
    assert set(killed["trigger"]["match_related"]["prefect.resource.name"]) == flows
    assert [action.type for action in automation.actions] == ["change-flow-run-state"]


@pytest.mark.parametrize("how", ["-c", "-m", "pytest"])
def test_mlflow_is_the_library(how: str, tmp_path: Path) -> None:
    """The folder mlflow/ must never be found in its place, however Python is started here."""
    check = "import importlib.util; assert importlib.util.find_spec('mlflow').origin.endswith('__init__.py')"
    test = tmp_path / "test_it.py"
    test.write_text(f"def test_it():\n    {check}\n")
    arguments = {
        "-c": ["-c", check],
        "-m": ["-m", "timeit", "-n", "1", "-r", "1", check],
        "pytest": ["-m", "pytest", "-p", "no:cacheprovider", "-q", str(test)],
    }[how]
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list((ROOT / "mlflow").glob("*.py"))
