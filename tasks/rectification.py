"""What the stage `unlearn` does in a round that has not converged: builds the rectification and runs it."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from jpu.checkpoint import Checkpoint
from jpu.data.schemas import Split
from jpu.mining.buffer import Buffer
from jpu.mining.entry import Entry
from jpu.mining.own import noise
from jpu.models import Subject
from jpu.paths.path import Path as JailbreakPath
from jpu.unlearning.adapter import adapter_factors, adapter_path, attach, save_adapter
from jpu.unlearning.anchors import compute_anchors, own_refusals
from jpu.unlearning.exposures import make_exposures
from jpu.unlearning.rectify import Mined, Rectified, Rectifier, RectifySettings, Weights, split_leak
from jpu.unlearning.retain import ReferenceDistribution, RetainMix, answered_by_reference, build_retain
from tasks.fingerprint import fingerprint
from tasks.layout import CHECKPOINTS, PREPARED, SUBJECT, Prepared, RoundFolder, load_prepared
from tasks.mining import Miner
from tasks.progress import Progress
from tasks.sections import UnlearningSettings
from tasks.settings import Settings
from tasks.tracking import StageRun

# Wordings of noise in a retain set: about as many as a family of templates has.
_NOISES = 12


class Rectification(NamedTuple):
    """The round in figures, one row a step, and the checkpoint, to be cleared when all is written and recorded."""

    metrics: dict[str, float]
    curve: list[dict[str, float]]
    checkpoint: Checkpoint


def rectify(settings: Settings, round: str, batch: list[Entry], run: StageRun) -> Rectification:
    """Train the round's adapter and write it and its buffer."""
    section = settings.unlearning
    before, now = RoundFolder(settings.rounds[round].prev), RoundFolder(round)
    path = JailbreakPath.load(now.path)
    prepared = load_prepared()
    subject = Subject.load(SUBJECT, device=settings.subject.device, dtype=settings.subject.dtype)
    subject.model = attach(
        subject.model, path, attention_rank=section.attention_rank, previous=before.adapter, seed=settings.seed
    )
    data = prepared.split("train")
    miner = Miner.open(subject, data, before.buffer, settings.mining, settings.data.limits.prompt)
    for entry in batch:
        miner.buffer.add(entry)
    seed = f"{settings.seed}-{round}"
    rectifier = build(subject, prepared, miner, section, seed)

    seen = {e.id: e for e in batch}

    def refresh(number: int) -> Mined:
        rng = random.Random(f"unlearn-{seed}-{number}")
        mined = miner.mine(int(round), rng, number + 1)
        live = miner.buffer.parents(miner.calibration.tau)
        seen.update({e.id: e for e in [*mined.entries, *live]})
        return Mined(live, [seen[i] for i in sorted(seen)], mined.fresh.rate)

    def carry() -> dict[str, Any]:
        return {
            "buffer": [e.model_dump(mode="json") for e in miner.buffer],
            "seen": [e.model_dump(mode="json") for e in seen.values()],
        }

    def restore(state: dict[str, Any]) -> None:
        limits = settings.mining
        miner.buffer = Buffer(limits.capacity, limits.quota_per_template, limits.low_visits)
        for fields in state["buffer"]:
            miner.buffer.add(Entry.model_validate(fields))
        seen.clear()
        seen.update({e.id: e for e in map(Entry.model_validate, state["seen"])})

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
            "longest": settings.data.limits.prompt,
            "device": settings.subject.device,
            "dtype": settings.subject.dtype,
        },
    )
    checkpoint = Checkpoint(CHECKPOINTS / f"unlearn-{round}", key)
    report = Progress(f"rectifying, round {round}")
    done = rectifier.run(
        refresh,
        checkpoint,
        carry,
        restore,
        lambda step, steps, row: report(step, steps, f"loss {row['loss']:.3f}, retain KL {row.get('retain', 0.0):.4f}"),
    )

    save_adapter(subject.model, now.adapter)
    miner.buffer.write(now.buffer)
    for row in done.history:
        run.metrics({k: v for k, v in row.items() if k != "step"}, step=int(row["step"]))
    for check in done.checks:
        run.metrics({f"check.{k}": v for k, v in check.items() if k != "step"}, step=int(check["step"]))
    return Rectification(summary(done, subject), done.history, checkpoint)


def build(subject: Subject, prepared: Prepared, miner: Miner, section: UnlearningSettings, seed: str) -> Rectifier:
    """Anchors, leaks and retain sets around a subject that is about to be trained."""
    data, held_out = prepared.split("train"), prepared.split("validation")
    neurons = adapter_path(adapter_factors(subject.model)).neurons
    behaviors = answered_by_reference(subject, data.behaviors)
    restricted = [b for b in behaviors if b.kind == "restricted"]
    refusals = own_refusals(subject, restricted, data.refusal_texts)
    mix = RetainMix(**section.retain.model_dump())

    def retain(part: Prepared, refused: dict[str, str], size: int, name: Split) -> ReferenceDistribution:
        rng = random.Random(f"retain-{name}-{seed}")
        answered = answered_by_reference(subject, part.behaviors)
        around = [*part.templates, *noise(miner.pieces, _NOISES, name, rng)]
        return ReferenceDistribution(subject, build_retain(answered, around, refused, size, mix, rng))

    leaks = {b.id: split_leak(subject, b.answer, b.secret) for b in restricted}
    told = [b for b in behaviors if b.kind in ("benign", "near_miss") and b.answer]
    known = {b: r for b, r in refusals.items() if b in set(miner.refused)}
    asked = [b for b in restricted if b.id in known]
    others = own_refusals(subject, held_out.restricted, data.refusal_texts) if held_out.restricted else {}
    return Rectifier(
        subject,
        compute_anchors(subject, restricted, refusals, miner.refused, neurons, section.positions),
        neurons,
        leaks,
        retain(data, known, section.retain_pairs, "train"),
        retain(held_out, others, section.retain_pairs // 2, "validation"),
        make_exposures(subject, asked, known, told, {b.id: leaks[b.id].opening for b in asked}),
        RectifySettings(
            steps=section.steps,
            batch=section.batch,
            retain_batch=section.retain_batch,
            prefill_batch=section.prefill_batch,
            exposure_batch=section.exposure_batch,
            learning_rate=section.learning_rate,
            warmup=section.warmup,
            clip=section.clip,
            positions=section.positions,
            refresh_every=section.refresh_every,
            kl_budget=section.kl_budget,
            rollbacks=section.rollbacks,
            weights=Weights(**section.weights.model_dump()),
            exposures=section.exposures.model_dump(),
            exposures_a_step=section.exposures_a_step,
        ),
        seed,
    )


def summary(done: Rectified, subject: Subject) -> dict[str, float]:
    """The round in figures."""
    last = done.history[-1]
    return {
        "converged": 0.0,
        "steps": last["step"],
        "kl_held_out": done.kl,
        "rollbacks": sum(c["rolled_back"] for c in done.checks),
        "fresh_rate": done.checks[-1]["fresh_rate"],
        "trained_parameters": float(sum(p.numel() for p in subject.model.parameters() if p.requires_grad)),
        **{name: last[name] for name in ("refusal", "anchor", "prefill", "leak", "retain") if name in last},
    }
