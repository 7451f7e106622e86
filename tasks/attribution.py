"""What the stage `identify` does in a round that has not converged: draws the exchanges and attributes them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from jpu.data.schemas import Behavior
from jpu.mining.entry import Entry
from jpu.models import Subject
from jpu.paths.passes import Exchanges
from jpu.paths.select import Identified, Samples, identify, overlap
from jpu.paths.selectors import Search
from jpu.unlearning.anchors import own_refusals
from jpu.unlearning.retain import RetainMix, answered_by_reference, build_retain
from tasks.layout import SUBJECT, Prepared, RoundFolder, load_prepared
from tasks.sections import PathsSettings
from tasks.settings import Settings


def attribute(settings: Settings, round: str, entries: list[Entry]) -> Identified:
    """Find the round's path, and the paths that it is compared with."""
    section, data = settings.paths, load_prepared().split("train")
    before = RoundFolder(settings.rounds[round].prev)
    subject = Subject.load(SUBJECT, before.adapter, device=settings.subject.device, dtype=settings.subject.dtype)
    rng = random.Random(f"identify-{settings.seed}-{round}")
    return searched(subject, data, entries, section, settings.seed, rng)


def searched(
    subject: Subject, data: Prepared, entries: Sequence[Entry], section: PathsSettings, seed: int, rng: random.Random
) -> Identified:
    """The path of a subject as it is, from entries that it does not refuse."""
    return identify(
        subject.model,
        samples(subject, data, entries, section, rng),
        Search(
            selector=section.selector,
            k=section.neurons,
            steps=section.steps,
            positions=section.positions,
            candidates=section.candidates,
            refine=section.refine,
            recompute=section.gradient_checkpointing,
            seed=seed,
        ),
        safety_k=section.safety_neurons,
        heads=section.heads,
        exclude=section.benign_excluded,
        contrast=section.contrast,
    )


def samples(
    subject: Subject, data: Prepared, entries: Sequence[Entry], section: PathsSettings, rng: random.Random
) -> Samples:
    """The exchanges of the paths, at most `section.samples` each."""
    behaviors = {b.id: b for b in answered_by_reference(subject, data.restricted)}
    drawn = rng.sample(entries, min(section.samples, len(entries)))
    asked: list[Behavior] = [behaviors[e.behavior] for e in drawn]
    refusals = own_refusals(subject, data.restricted, data.refusal_texts)
    benign = build_retain(
        answered_by_reference(subject, data.behaviors), data.templates, {}, section.samples, RetainMix(direct=0.0), rng
    )

    def exchanges(prompts: list[str], answers: list[str]) -> Exchanges:
        return Exchanges([subject.prompt_ids(p) for p in prompts], [subject.answer_ids(a) for a in answers])

    bare, wrapped = [b.query for b in asked], [e.prompt for e in drawn]
    return Samples(
        jailbreak=exchanges(wrapped, [b.answer for b in asked]),
        direct=exchanges(bare, [b.answer for b in asked]),
        safety=exchanges(bare, [refusals[b.id] for b in asked]),
        utility=exchanges([p.prompt for p in benign], [p.answer for p in benign]) if benign else None,
        contrast=exchanges(wrapped, [refusals[b.id] for b in asked]) if section.contrast else None,
    )


def overlaps(found: Identified, others: Sequence[str]) -> list[dict[str, float]]:
    """One row a layer: the jailbreak path against each of the others that there is.

    The units are neurons; where the path is of heads alone, heads.
    """
    rows: dict[int, dict[str, float]] = {}
    paths = found.neurons or found.heads
    for other in others:
        if "jailbreak" in paths and other in paths:
            for layer in overlap(paths["jailbreak"], paths[other]):
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
        for steps, error in scores.convergence.items():
            numbers[f"completeness_error.{name}.steps_{steps}"] = error
    return numbers
