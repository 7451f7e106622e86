"""Make table, plots and page of a comparison from the rows in experiments/results (docs/comparison.md).

Run: python -m tasks.compare      (or: dvc repro compare, once `jpu compare` has switched the stage on)
Reads experiments/compare.yaml and the rows that it asks for; writes artifacts/comparison. Seconds and memory in there
are the rows': nothing is measured here. Runs no method: `jpu compare` does.
"""

from __future__ import annotations

from jpu.comparison.tables import headline
from jpu.files import write_json
from tasks.comparing.driver import Request, look
from tasks.comparing.plan import EXPERIMENTS
from tasks.comparing.report import COMPARISON, metrics, summarise, write
from tasks.comparing.results import RESULTS
from tasks.stage import run_stage
from tasks.tracking import stage_run

METRICS = COMPARISON.with_suffix(".json")


def main() -> None:
    """Run the stage."""
    with stage_run("compare", "rows") as run:
        run.inputs(EXPERIMENTS, RESULTS)
        found = look(Request())
        summary = summarise(found.plan, found.rows)
        write(summary)
        write_json(METRICS, metrics(summary))
        run.metrics(metrics(summary))
        run.artifact(COMPARISON)
        print(headline(summary), flush=True)


if __name__ == "__main__":
    run_stage(main)
