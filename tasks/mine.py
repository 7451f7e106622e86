"""Mine jailbreak prompts that the current model does not refuse (JPU stage 1, docs/method.md 1).

Run: python -m tasks.mine --round 1      (or: dvc repro mine@1)
Reads the previous round's adapter and buffer; writes this round's batch B_t. Where the model refuses what is put to it,
the round has converged: the batch is empty, and the stages behind it pass their input on.
Does not train, and does not touch the validation and test splits.
"""

from __future__ import annotations

import random

from jpu.files import write_json, write_jsonl
from jpu.mining.mutations import OPERATORS
from jpu.mining.own import BARE, NOISE
from jpu.models import Subject
from tasks.attack_suites import mined_suite
from tasks.engine import SubjectCopy, copies
from tasks.layout import PREPARED, SUBJECT, RoundFolder, load_prepared
from tasks.mining import Miner
from tasks.settings import chosen_engine, load_settings
from tasks.stage import run_stage
from tasks.tracking import stage_run
from tasks.validation import check


def main(round: str) -> None:
    """Run the stage for one round."""
    settings = load_settings()
    section = settings.mining
    before, now = RoundFolder(settings.rounds[round].prev), RoundFolder(round)
    with stage_run("mine", round) as run:
        run.inputs(PREPARED, SUBJECT, before.adapter, before.buffer)
        run.params(section.model_dump())
        data = load_prepared().split("train")
        subject = Subject.load(SUBJECT, before.adapter, device=settings.subject.device, dtype=settings.subject.dtype)
        miner = Miner.open(subject, data, before.buffer, section, settings.data.limits.prompt)

        with copies(chosen_engine(settings), SubjectCopy.of(SUBJECT, before.adapter, settings.subject)) as over:
            batch = miner.mine(int(round), random.Random(f"mine-{settings.seed}-{round}"), over=over)

        tau = miner.calibration.tau
        converged = batch.fresh.rate < section.converged_below
        entries = () if converged else batch.above(tau)
        if entries:
            check(
                *mined_suite(
                    entries,
                    where=str(now.batch),
                    round=int(round),
                    behaviors={b.id for b in data.restricted},
                    templates={BARE, NOISE, *(t.id for t in data.templates)},
                    operators={operator.name for operator in OPERATORS.values() if operator.split == "train"},
                    limits=settings.data.limits,
                )
            )
        write_jsonl(now.batch, entries)
        metrics = {"tau": tau, "refused": miner.calibration.refused, "converged": int(converged), **batch.metrics()}
        write_json(now.folder / "mine.json", metrics)
        run.metrics(metrics)
        run.artifact(now.folder / "mine.json")
        state = "converged: the round passes its input on" if converged else f"{len(entries)} entries above τ"
        print(
            f"round {round}: {batch.fresh.above} of {batch.fresh.scored} fresh jailbreaks get through "
            f"({batch.fresh.rate:.0%}, τ = {tau:.3f}); {state}",
            flush=True,
        )


if __name__ == "__main__":
    run_stage(main, rounds=True)
