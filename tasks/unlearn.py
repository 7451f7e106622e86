"""Rectify the path toward the safety anchors (JPU stage 3, docs/method.md 3), or train another defence (defences.md).

Run: python -m tasks.unlearn --round 1      (or: dvc repro unlearn@1)
Reads the current model, its buffer, this round's batch and path; writes the round's adapter (an ordinary PEFT LoRA) and
buffer. The jailbreaks are mined anew every few steps against the model as it then is. Training goes on from its last
checkpoint after a kill. A round without a path passes its input on.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence

from jpu.data.schemas import read_records
from jpu.files import atomic_folder, write_json, write_text
from jpu.mining.entry import Entry
from tasks.layout import PREPARED, SUBJECT, RoundFolder
from tasks.processes import joined, launch, wanted
from tasks.settings import chosen_engine, load_settings
from tasks.stage import run_stage
from tasks.tables import table
from tasks.tracking import stage_run

# Columns of training.csv where JPU is the defence; others have the losses that they had.
COLUMNS = (
    "step",
    "loss",
    "refusal",
    "anchor",
    "prefill",
    "leak",
    "relearned",
    "soft",
    "suffix",
    "chat",
    "ablated",
    "retain",
    "rate",
)


def main(round: str) -> None:
    """Run the stage for one round."""
    settings = load_settings()
    engine, device = chosen_engine(settings), settings.subject.device
    before, now = RoundFolder(settings.rounds[round].prev), RoundFolder(round)
    batch = read_records(now.batch, Entry)
    if batch and wanted(engine):
        launch("tasks.unlearn", ["--round", round], engine, device)
        return
    with joined(engine, device) as processes, stage_run("unlearn", round) as run:
        run.inputs(PREPARED, SUBJECT, before.adapter, before.buffer, now.batch, now.path)
        run.params(settings.unlearning.model_dump())
        if batch:
            # Late: torch and PEFT take seconds to import, and a converged round needs neither.
            from tasks.rectification import rectify

            metrics, curve, checkpoint = rectify(settings, round, batch, run, processes)
        else:
            metrics, curve, checkpoint = pass_on(before, now), [], None
        if not processes.main:
            return
        columns = COLUMNS if settings.unlearning.defence.name == "jpu" else named(curve)
        write_text(now.folder / "training.csv", table(curve, columns))
        write_json(now.folder / "unlearn.json", metrics)
        run.metrics(metrics)
        run.artifact(now.folder / "unlearn.json")
        run.artifact(now.folder / "training.csv")
        if checkpoint:
            checkpoint.clear()


def named(curve: Sequence[Mapping[str, float]]) -> tuple[str, ...]:
    """Columns for the losses that a training had."""
    ends = ("step", "loss", "rate")
    return (*ends[:2], *(n for n in dict.fromkeys(n for row in curve for n in row) if n not in ends), ends[2])


def pass_on(before: RoundFolder, now: RoundFolder) -> dict[str, float]:
    """A converged round: adapter and buffer as they came."""
    with atomic_folder(now.adapter) as folder:
        shutil.copytree(before.adapter, folder, dirs_exist_ok=True)
    write_text(now.buffer, before.buffer.read_text(encoding="utf-8"))
    print(f"round {now.number}: converged, adapter and buffer of round {before.number} are passed on", flush=True)
    return {"converged": 1.0, "steps": 0.0}


if __name__ == "__main__":
    run_stage(main, rounds=True)
