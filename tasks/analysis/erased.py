"""Analysis 1 on a finished run: erase the subject, mine against it, and see through which weights it still leaks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jpu.analysis.causal import Case, respond
from jpu.analysis.erasure import Erasure, erase
from jpu.analysis.overlap import LayerOverlap, Source, overlap_by_layer
from jpu.analysis.resampling import Draws
from jpu.data.schemas import PLACEHOLDER
from jpu.mining.entry import Entry
from jpu.models import Subject
from jpu.unlearning.defences.settings import DefenceSettings
from jpu.unlearning.retain import RetainMix, build_retain
from tasks.analysis.samples import Samples, case, drawn
from tasks.layout import SUBJECT, Prepared
from tasks.mining import Miner
from tasks.progress import Progress
from tasks.settings import Settings

# With fewer jailbreaks, or of fewer behaviors, an overlap would say something about these few.
_FEWEST, _FEWEST_BEHAVIORS = 4, 2
# What the overlap of a jailbreak is compared with, in the same resamples.
AGAINST = ("jailbreak_before", "benign", "benign_wrapped")


@dataclass(frozen=True)
class Erased:
    """One erased model.

    Attributes:
        defence: What it was erased by.
        figures: How much was erased, how many jailbreaks were mined, and how many of them got through.
        layers: Overlaps; none where too few jailbreaks got through.
    """

    defence: str
    figures: dict[str, float]
    layers: list[LayerOverlap]


def analyse_erased(settings: Settings, prepared: Prepared, defence: DefenceSettings, buffer: Path) -> Erased:
    """Erase by one defence, and compare.

    Args:
        settings: Settings.
        prepared: The data; the train split is used.
        defence: By which.
        buffer: Jailbreaks that mining starts from, beside fresh ones.
    """
    section, erasing = settings.analysis, settings.analysis.erase
    subject = Subject.load(SUBJECT, device=settings.subject.device, dtype=settings.subject.dtype)
    samples = Samples(subject, prepared.split("train"), settings, f"erased-{defence.name}")
    data = samples.data
    retain = build_retain(
        samples.behaviors, data.templates, {}, erasing.retain_pairs, RetainMix(direct=0.0), samples.rng("retain")
    )
    report = Progress(f"erasing, {defence.name}")
    groups = {"bare": [case(b) for b in samples.restricted], "benign": [case(b) for b in samples.benign]}
    figures = _known(samples, groups, "before")
    done = erase(
        subject,
        samples.restricted,
        samples.refusals,
        retain,
        Erasure(defence, erasing.steps, erasing.batch, erasing.retain_batch, erasing.learning_rate),
        f"analyze-{settings.seed}-{defence.name}",
        lambda step, steps, row: report(step, steps, f"loss {row['loss']:.3f}"),
    )
    figures |= _known(samples, groups, "after") | {"kl": done.kl}

    entries = _mined(settings, samples, buffer)
    answers = {b.id: b for b in samples.restricted}
    asked = [case(answers[e.behavior], e.prompt) for e in entries]
    told = samples.through(asked)
    kept = [i for i, through in enumerate(told) if through]
    figures |= {"mined": float(len(entries)), "through": float(len(kept))}
    if len(kept) > section.samples:
        kept = sorted(samples.rng("jailbreaks").sample(kept, section.samples))
    jailbreaks = [asked[i] for i in kept]
    names = {c.name for c in jailbreaks}
    figures |= {"compared": float(len(jailbreaks)), "behaviors": float(len(names))}
    if len(jailbreaks) < _FEWEST or len(names) < _FEWEST_BEHAVIORS:
        return Erased(defence.name, figures, [])
    layers = _overlaps(settings, samples, jailbreaks, [entries[i] for i in kept])
    return Erased(defence.name, figures, layers)


def _mined(settings: Settings, samples: Samples, buffer: Path) -> list[Entry]:
    """Jailbreaks that M_e does not refuse."""
    miner = Miner.open(samples.subject, samples.data, buffer, settings.mining, settings.data.limits.prompt)
    found: dict[str, Entry] = {}
    rng = samples.rng("mining")
    for number in range(settings.analysis.minings):
        batch = miner.mine(1, rng, number + 1)
        found |= {entry.id: entry for entry in batch.above(miner.calibration.tau)}
    return list(found.values())


def _overlaps(settings: Settings, samples: Samples, jailbreaks: list[Case], entries: list[Entry]) -> list[LayerOverlap]:
    section = settings.analysis
    rng = samples.rng("controls")
    others = [rng.choice(samples.benign) for _ in entries]
    wrapped = [case(b, e.template_text.replace(PLACEHOLDER, b.query)) for b, e in zip(others, entries, strict=True)]
    bare = [case(b) for b in samples.restricted]
    benign = drawn([case(b) for b in samples.benign], section.samples, rng)

    def source(cases: list[Case], erased: bool) -> Source:
        return Source(samples.exchanges(cases), [c.name for c in cases], erased)

    conditions = {
        "jailbreak": source(jailbreaks, True),
        "jailbreak_before": source(jailbreaks, False),
        "benign": source(benign, True),
        "benign_wrapped": source(wrapped, True),
    }
    groups = [[c.name for c in cases] for cases in (bare, [*benign, *wrapped])]
    return overlap_by_layer(
        samples.subject,
        source(bare, False),
        conditions,
        section.shares,
        Draws(groups, section.resamples, settings.seed),
        confidence=section.confidence,
        against={"jailbreak": AGAINST},
    )


def _known(samples: Samples, groups: Mapping[str, list[Case]], when: str) -> dict[str, float]:
    """How much of each group's answers the subject still has."""
    found: dict[str, Any] = {}
    for name, cases in groups.items():
        response = respond(samples.subject, cases, samples.settings.evaluation.max_new_tokens)
        found[f"{name}_probability_{when}"] = sum(response.probability) / len(cases)
        found[f"{name}_told_{when}"] = sum(response.told) / len(cases)
    return found
