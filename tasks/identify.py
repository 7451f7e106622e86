"""Identify the jailbreak path: the neurons that the mined prompts go through (JPU stage 2, docs/method.md 2).

Run: python -m tasks.identify --round 1      (or: dvc repro identify@1)
Reads the current model and this round's batch; writes the path, its scores, and how far it overlaps, layer by layer,
with the direct-harm and the safety path. Does not train.
"""

from __future__ import annotations

from jpu.data.schemas import read_records
from jpu.files import write_json, write_text
from jpu.mining.entry import Entry
from jpu.paths.path import Path as JailbreakPath
from tasks.layout import PREPARED, SUBJECT, RoundFolder
from tasks.settings import load_settings
from tasks.stage import run_stage
from tasks.tables import table
from tasks.tracking import stage_run

OTHERS = ("direct", "safety", "utility")
COLUMNS = ("layer", "chance", *(f"{path}_{measure}" for path in OTHERS for measure in ("jaccard", "cosine")))


def main(round: str) -> None:
    """Run the stage for one round."""
    settings = load_settings()
    before, now = RoundFolder(settings.rounds[round].prev), RoundFolder(round)
    with stage_run("identify", round) as run:
        run.inputs(PREPARED, SUBJECT, before.adapter, now.batch)
        run.params(settings.paths.model_dump())
        entries = read_records(now.batch, Entry)
        if entries:
            # Late: torch takes seconds to import, and a converged round does without.
            from tasks.attribution import attribute, overlaps, summary

            found = attribute(settings, round, entries)
            path, rows, metrics = found.path, overlaps(found, OTHERS), summary(found)
        else:
            print(f"round {round}: converged, there is no path to identify", flush=True)
            path, rows, metrics = JailbreakPath(), [], {"neurons": 0.0, "heads": 0.0}

        path.save(now.path)
        write_text(now.folder / "overlap.csv", table(rows, COLUMNS))
        write_json(now.folder / "identify.json", metrics)
        run.metrics(metrics)
        run.artifact(now.folder / "identify.json")
        run.artifact(now.folder / "overlap.csv")


if __name__ == "__main__":
    run_stage(main, rounds=True)
