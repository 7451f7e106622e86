"""What orchestration costs: wall time around a stage's own work, with Prefect, DVC and MLflow all real.

Run: python benchmarks/orchestration.py [--quick] [--json]

Makes a pipeline of trivial stages in a temporary repository, each working (sleeping) 0.2 s and recording inputs,
parameters and metrics, and runs it through the flow: once to make the databases, then with every stage executed, then
with nothing to do. Reported are medians, in seconds:

  per_stage   wall time per executed stage, less its own work: (executed - nothing to do) / stages - own work
  in_dvc      of that: from starting `dvc repro` to its end, the stage's Python and record included
  around      of that: the Prefect task, and what the flow records
  fixed       a run in which nothing is executed: imports, a Prefect server, one look at the pipeline, the records
  dvc_alone   `dvc repro -s` of an unchanged stage by itself, which no runner can undercut

Does not cover stages' imports (torch takes some seconds), which are their own work, nor a tracking server elsewhere.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import options, show, start

ROOT = Path(__file__).resolve().parent.parent
OWN = 0.2

STAGE = f"""\
import sys, time
from pathlib import Path
from tasks.tracking import stage_run

number = int(sys.argv[1])
with stage_run("step", number) if number else stage_run("first") as run:
    run.inputs(f"out/{{number - 1}}.txt" if number else "stage.py")
    run.params({{"number": number}})
    time.sleep({OWN})
    run.metrics({{"value": 1.0}})
    Path("out").mkdir(exist_ok=True)
    Path(f"out/{{number}}.txt").write_text(Path("salt.txt").read_text())
"""
RUN = """
import json, sys
from flows.session import run
result = run(force=sys.argv[1] == "force")
print("RESULT " + json.dumps([o["seconds"] for o in result["outcomes"]]))
"""


def main() -> None:
    chosen = options(__doc__, threads=False).parse_args()
    stages, repetitions = (2, 1) if chosen.quick else (6, 3)
    with tempfile.TemporaryDirectory(prefix="jpu-benchmark-") as folder:
        figures = measure(Path(folder), stages, repetitions)
    show(chosen, figures, ratio=None, agreement=None)


def measure(folder: Path, stages: int, repetitions: int) -> dict[str, float | int]:
    make(folder, stages)
    first, _ = harden(folder, "normal")
    executed, inside, idle, alone = [], [], [], []
    for _ in range(repetitions):
        wall, seconds = harden(folder, "force")
        executed.append(wall)
        inside.append(statistics.mean(seconds))
        idle.append(harden(folder, "normal")[0])
        alone.append(timed(folder, ["-m", "dvc", "repro", "-q", "-s", "first"])[0])
    per_stage = (statistics.median(executed) - statistics.median(idle)) / stages - OWN
    in_dvc = statistics.median(inside) - OWN
    return {
        "per_stage": round(per_stage, 3),
        "in_dvc": round(in_dvc, 3),
        "around": round(per_stage - in_dvc, 3),
        "fixed": round(statistics.median(idle), 3),
        "dvc_alone": round(statistics.median(alone), 3),
        "first": round(first, 3),
        "stages": stages,
        "repetitions": repetitions,
        "cpus": os.cpu_count() or 0,
    }


def make(folder: Path, stages: int) -> None:
    steps = ", ".join(f"'{number}': {{before: '{number - 1}'}}" for number in range(1, stages))
    (folder / "params.yaml").write_text(f"profile: benchmark\nseed: 0\nsteps: {{{steps}}}\n")
    (folder / "dvc.yaml").write_text(
        "stages:\n"
        "  first:\n    cmd: python stage.py 0\n    deps: [stage.py, salt.txt]\n    outs: [out/0.txt]\n"
        "  step:\n    foreach: ${steps}\n    do:\n"
        "      cmd: python stage.py ${key}\n"
        '      deps: [stage.py, salt.txt, "out/${item.before}.txt"]\n'
        '      outs: ["out/${key}.txt"]\n'
    )
    (folder / "stage.py").write_text(STAGE)
    (folder / "salt.txt").write_text("salt")
    (folder / ".gitignore").write_text("/out\n/.jpu\n/mlflow\n")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    timed(folder, ["-m", "dvc", "init", "-q"])


def harden(folder: Path, how: str) -> tuple[float, list[float]]:
    wall, output = timed(folder, ["-c", RUN, how])
    line = next(line for line in reversed(output.splitlines()) if line.startswith("RESULT "))
    return wall, json.loads(line.removeprefix("RESULT "))


def timed(folder: Path, arguments: list[str]) -> tuple[float, str]:
    foreign = ("JPU_", "MLFLOW_", "PREFECT_", "DVC_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    environment |= {"PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "true"}
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(arguments[:2])} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return time.monotonic() - begun, done.stdout


if __name__ == "__main__":
    start(main)
