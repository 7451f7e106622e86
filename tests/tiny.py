"""A tiny real pipeline in a repository of its own: stages of a few lines under the real flow, DVC and tracking.

It has the names and paths that the flow knows (evaluate, artifacts/…); its stages take no time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PARAMS = """\
# A comment that must survive.
profile: tiny
seed: 0
rounds: {'1': {prev: '0'}, '2': {prev: '1'}}
last_round: '2'
profiles:
  tiny: {mining: {tau: 0.5, rate: 1e-3}}
  other: {mining: {tau: 0.7, rate: 1e-3}}
"""

DVC = """\
stages:
  prepare:
    cmd: python stages.py prepare
    deps: [data, stages.py]
    params: [seed]
    outs: [artifacts/prepared, artifacts/subject, artifacts/rounds/0/adapter]
  mine:
    foreach: ${rounds}
    do:
      cmd: python stages.py mine --round ${key}
      deps: [artifacts/prepared, "artifacts/rounds/${item.prev}/adapter"]
      params: [seed, profile, "profiles.${profile}.mining"]
      outs: ["artifacts/rounds/${key}/adapter"]
  evaluate:
    cmd: python stages.py evaluate
    deps: ["artifacts/rounds/${last_round}/adapter"]
    outs: [artifacts/evaluation/attempts.txt]
    metrics: [{artifacts/evaluation/metrics.json: {cache: false}}]
"""

STAGES = """\
import argparse, json, os, sys, time
from pathlib import Path

from tasks.tracking import stage_run

parser = argparse.ArgumentParser()
parser.add_argument("stage")
parser.add_argument("--round", type=int)
options = parser.parse_args()
stage, round = options.stage, options.round


def folder(path, text):
    Path(path).mkdir(parents=True, exist_ok=True)
    Path(path, "file.txt").write_text(text)


with Path("ran.log").open("a") as log:
    log.write(f"{stage} {round or ''}\\n")
trip = Path(f"{stage}.trip")
with stage_run(stage, round) as run:
    print(f"{stage} starts")
    if trip.exists():
        what = trip.read_text().strip()
        if what == "sleep":
            Path("sleeping.pid").write_text(str(os.getpid()))
            time.sleep(600)
        trip.unlink()
        if what == "retry, then bug":
            trip.write_text("bug")
        if what.startswith("retry"):
            sys.exit(8)
        if what == "bug":
            raise ValueError("the code of 'Zuvor' is hidden")
        if what == "data":
            sys.exit(3)
    if stage == "prepare":
        run.inputs("data")
        folder("artifacts/prepared", Path("data/file.txt").read_text())
        folder("artifacts/subject", "weights")
        folder("artifacts/rounds/0/adapter", "0")
    if stage == "mine":
        run.inputs("artifacts/prepared", f"artifacts/rounds/{round - 1}/adapter")
        run.params({"mining": {"tau": 0.5}})
        for step in range(3):
            run.metrics({"loss": {"value": 1 / (step + 1)}}, step=step)
        folder(f"artifacts/rounds/{round}/adapter", f"{round}")
    if stage == "evaluate":
        Path("artifacts/evaluation").mkdir(parents=True, exist_ok=True)
        figure = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 32}
        metrics = {"before": {"asr_static": figure, "kl": figure}, "after": {"asr_static": figure, "kl": figure}}
        Path("artifacts/evaluation/metrics.json").write_text(json.dumps(metrics))
        Path("artifacts/evaluation/attempts.txt").write_text("none")
        run.artifact("artifacts/evaluation/metrics.json")
        run.register()
"""


def environment(**added: str) -> dict[str, str]:
    """A clean environment for commands in a tiny repository: no server, no store, nothing of the user's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JPU_", "MLFLOW_", "PREFECT_", "DVC_"))}
    kept["PYTHONPATH"] = str(ROOT)
    kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    return {**kept, "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1", **added}


def make(folder: Path) -> Path:
    """Make the repository, with its data under data.dvc, and commit it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "dvc.yaml").write_text(DVC)
    (folder / "stages.py").write_text(STAGES)
    (folder / "data").mkdir()
    (folder / "data" / "file.txt").write_text("facts\n")
    (folder / ".gitignore").write_text("/data\n/artifacts\n/.jpu\n/mlflow\n*.log\n*.trip\n*.pid\n__pycache__\n")
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    (folder / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    git(folder, "init", "-q", "-b", "main")
    run(folder, [sys.executable, "-m", "dvc", "add", "-q", "data"])
    git(folder, "add", "-A")
    git(folder, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "-m", "tiny")
    return folder


def run(
    folder: Path, command: list[str], *, check: bool = True, timeout: float = 150, **added: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository."""
    done = subprocess.run(
        command, cwd=folder, env=environment(**added), capture_output=True, text=True, timeout=timeout, check=False
    )
    if check and done.returncode:
        raise AssertionError(f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def git(folder: Path, *arguments: str) -> None:
    """A git command in the repository."""
    run(folder, ["git", *arguments])


HARDEN = """
import json, sys
from flows.leaving import leave
from flows.session import run
leave(lambda: print("RESULT " + json.dumps(run(**json.loads(sys.argv[1])))))
"""


def harden_command(**options: object) -> list[str]:
    """The command that runs the flow as `jpu harden` does, and prints its result."""
    return [sys.executable, "-c", HARDEN, json.dumps(options)]


def result(output: str) -> dict[str, object]:
    """What `harden_command` printed last."""
    line = next(line for line in reversed(output.splitlines()) if line.startswith("RESULT "))
    return dict(json.loads(line.removeprefix("RESULT ")))
