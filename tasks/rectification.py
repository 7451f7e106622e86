"""What the stage `unlearn` does in a round that has not converged: builds the training and runs it."""

from __future__ import annotations

from typing import NamedTuple

from jpu.checkpoint import Checkpoint
from jpu.errors import SettingsError
from jpu.mining.entry import Entry
from jpu.models import Subject, pick_dtype
from jpu.paths.path import Path as JailbreakPath
from jpu.processes import ALONE, Processes
from jpu.unlearning.adapter import save_adapter
from jpu.unlearning.training import Outcome
from tasks.fingerprint import fingerprint
from tasks.hardening import Stretches, adapt, build
from tasks.layout import CHECKPOINTS, PREPARED, SUBJECT, RoundFolder, load_prepared
from tasks.mining import Miner
from tasks.progress import Progress
from tasks.settings import Settings
from tasks.tracking import StageRun


class Rectification(NamedTuple):
    """The round in figures, one row a step, and the checkpoint, to be cleared when all is written and recorded."""

    metrics: dict[str, float]
    curve: list[dict[str, float]]
    checkpoint: Checkpoint


def rectify(
    settings: Settings, round: str, batch: list[Entry], run: StageRun, processes: Processes = ALONE
) -> Rectification:
    """Train the round's adapter and write it and its buffer; of several processes, the main one writes."""
    section = settings.unlearning
    before, now = RoundFolder(settings.rounds[round].prev), RoundFolder(round)
    path = JailbreakPath.load(now.path)
    prepared = load_prepared()
    subject = _load(settings, processes)
    adapt(subject, path, section, previous=before.adapter, seed=settings.seed)
    if processes.sharded:
        from jpu.sharding import shard_layers

        shard_layers(subject.model, processes.size, processes.device)
    key = fingerprint(
        PREPARED,
        SUBJECT,
        before.adapter,
        before.buffer,
        now.batch,
        now.path,
        params={
            "seed": settings.seed,
            "unlearning": section.model_dump(),
            "mining": settings.mining.model_dump(),
            "paths": settings.paths.model_dump(),
            "longest": settings.data.limits.prompt,
            "device": settings.subject.device,
            "dtype": settings.subject.dtype,
        },
    )
    checkpoint = Checkpoint(CHECKPOINTS / f"unlearn-{round}", key)
    report = Progress(f"rectifying, round {round}")
    with processes.shared(subject.model):
        data = prepared.split("train")
        miner = Miner.open(subject, data, before.buffer, settings.mining, settings.data.limits.prompt)
        seed = f"{settings.seed}-{round}"
        over = processes.spread(subject)
        stretches = Stretches(miner, batch, int(round), seed, frozen=section.frozen, over=over)
        training = build(subject, prepared, miner, section, seed, path, settings.paths, processes=processes)
        done = training.run(
            stretches.refresh,
            checkpoint,
            stretches.carry,
            stretches.restore,
            lambda step, steps, row: report(
                step, steps, f"loss {row['loss']:.3f}, retain KL {row.get('retain', 0.0):.4f}"
            ),
        )

    if processes.main:
        save_adapter(subject.model, now.adapter)
        miner.buffer.write(now.buffer)
    for row in done.history:
        run.metrics({k: v for k, v in row.items() if k != "step"}, step=int(row["step"]))
    for check in done.checks:
        run.metrics({f"check.{k}": v for k, v in check.items() if k != "step"}, step=int(check["step"]))
    return Rectification(summary(done, subject), done.history, checkpoint)


def _load(settings: Settings, processes: Processes) -> Subject:
    """The bare subject: where it runs, or, where its weights are about to be divided, on the CPU."""
    place = settings.subject
    if not processes.sharded:
        return Subject.load(SUBJECT, device=place.device, dtype=place.dtype)
    if settings.unlearning.reidentify:
        raise SettingsError(
            "weights that are divided among processes, and a path that is found anew in them",
            where="params.yaml: unlearning.reidentify",
            mend="Set it to false, or engine.shard to false. Nothing was written.",
        )
    dtype = str(pick_dtype(place.dtype, processes.device)).removeprefix("torch.")
    return Subject.load(SUBJECT, device="cpu", dtype=dtype)


def summary(done: Outcome, subject: Subject) -> dict[str, float]:
    """The round in figures."""
    last = done.history[-1]
    return {
        "converged": 0.0,
        "steps": last["step"],
        "kl_held_out": done.kl,
        "rollbacks": sum(c["rolled_back"] for c in done.checks),
        "fresh_rate": done.checks[-1]["fresh_rate"],
        "trained_parameters": float(sum(p.numel() for p in subject.model.parameters() if p.requires_grad)),
        # What takes turns is not of every step.
        **{n: last[n] for n in last if n not in ("step", "rate", "loss") and all(n in row for row in done.history)},
    }
