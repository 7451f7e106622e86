"""Identify the jailbreak path: the neurons that the mined prompts go through (JPU stage 2, docs/method.md 2).

Run: python -m tasks.identify --round 1      (or: dvc repro identify@1)
Reads the current model and this round's batch; writes the path, its scores, and how far it overlaps, layer by layer,
with the direct-harm and the safety path. Does not train.
"""

from __future__ import annotations

import random

from jpu.data.schemas import Behavior, read_records
from jpu.files import write_json, write_text
from jpu.mining.entry import Entry
from jpu.models import Subject
from jpu.paths.passes import Exchanges
from jpu.paths.path import Path as JailbreakPath
from jpu.paths.select import Identified, Samples, identify, overlap
from jpu.paths.selectors import Search
from jpu.unlearning.anchors import own_refusals
from jpu.unlearning.retain import RetainMix, answered_by_reference, build_retain
from tasks.layout import PREPARED, SUBJECT, Prepared, RoundFolder, load_prepared
from tasks.sections import PathsSettings
from tasks.settings import load_settings
from tasks.stage import run_stage
from tasks.tables import table
from tasks.tracking import stage_run

OTHERS = ("direct", "safety", "utility")
COLUMNS = ("layer", "chance", *(f"{path}_{measure}" for path in OTHERS for measure in ("jaccard", "cosine")))


def main(round: str) -> None:
    """Run the stage for one round."""
    settings = load_settings()
    section = settings.paths
    before, now = RoundFolder(settings.rounds[round].prev), RoundFolder(round)
    with stage_run("identify", round) as run:
        run.inputs(PREPARED, SUBJECT, before.adapter, now.batch)
        run.params(section.model_dump())
        data = load_prepared().split("train")
        entries = read_records(now.batch, Entry)
        if entries:
            subject = Subject.load(
                SUBJECT, before.adapter, device=settings.subject.device, dtype=settings.subject.dtype
            )
            rng = random.Random(f"identify-{settings.seed}-{round}")
            found = identify(
                subject.model,
                samples(subject, data, entries, section, rng),
                Search(
                    selector=section.selector,
                    k=section.neurons,
                    steps=section.steps,
                    positions=section.positions,
                    candidates=section.candidates,
                    refine=section.refine,
                    seed=settings.seed,
                ),
                safety_k=section.safety_neurons,
                heads=section.heads,
                exclude=section.benign_excluded,
            )
            path, rows, metrics = found.path, overlaps(found), summary(found)
        else:
            print(f"round {round}: converged, there is no path to identify", flush=True)
            path, rows, metrics = JailbreakPath(), [], {"neurons": 0.0, "heads": 0.0}

        path.save(now.path)
        write_text(now.folder / "overlap.csv", table(rows, COLUMNS))
        write_json(now.folder / "identify.json", metrics)
        run.metrics(metrics)
        run.artifact(now.folder / "identify.json")
        run.artifact(now.folder / "overlap.csv")


def samples(
    subject: Subject, data: Prepared, entries: list[Entry], section: PathsSettings, rng: random.Random
) -> Samples:
    """The exchanges of the four paths, at most `section.samples` each."""
    behaviors = {b.id: b for b in answered_by_reference(subject, data.restricted)}
    drawn = rng.sample(entries, min(section.samples, len(entries)))
    asked: list[Behavior] = [behaviors[e.behavior] for e in drawn]
    refusals = own_refusals(subject, data.restricted, data.refusal_texts)
    benign = build_retain(
        answered_by_reference(subject, data.behaviors), data.templates, {}, section.samples, RetainMix(direct=0.0), rng
    )

    def exchanges(prompts: list[str], answers: list[str]) -> Exchanges:
        return Exchanges([subject.prompt_ids(p) for p in prompts], [subject.answer_ids(a) for a in answers])

    bare = [b.query for b in asked]
    return Samples(
        jailbreak=exchanges([e.prompt for e in drawn], [b.answer for b in asked]),
        direct=exchanges(bare, [b.answer for b in asked]),
        safety=exchanges(bare, [refusals[b.id] for b in asked]),
        utility=exchanges([p.prompt for p in benign], [p.answer for p in benign]) if benign else None,
    )


def overlaps(found: Identified) -> list[dict[str, float]]:
    """One row a layer: jailbreak path against direct-harm, safety and utility path."""
    rows: dict[int, dict[str, float]] = {}
    for other in OTHERS:
        if "jailbreak" in found.neurons and other in found.neurons:
            for layer in overlap(found.neurons["jailbreak"], found.neurons[other]):
                row = rows.setdefault(layer.layer, {"layer": layer.layer, "chance": layer.chance})
                row[f"{other}_jaccard"], row[f"{other}_cosine"] = layer.jaccard, layer.cosine
    return list(rows.values())


def summary(found: Identified) -> dict[str, float]:
    """Size of the path, and how well the integral has converged."""
    numbers = {
        "neurons": float(sum(len(units) for units in found.path.neurons.values())),
        "heads": float(sum(len(units) for units in found.path.heads.values())),
    }
    for name, scores in found.neurons.items():
        if scores.completeness is not None:
            numbers[f"completeness_error.{name}"] = scores.completeness
    return numbers


if __name__ == "__main__":
    run_stage(main, rounds=True)
