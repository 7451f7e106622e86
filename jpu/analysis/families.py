"""Analysis 2 over template families, before and after hardening: `jpu.analysis.convergence` applied to a subject."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from jpu.analysis.convergence import SampledPath, agreements, pairings, reliability, sampled_path
from jpu.analysis.resampling import Draws, Interval, interval
from jpu.models import Subject
from jpu.paths.passes import Exchanges
from jpu.paths.selectors import Search

When = Literal["before", "after"]
# In the place of a family: the mean over all of them.
ALL = "all"


@dataclass(frozen=True)
class Sampled:
    """Prompts and answers, in tokens, with the behavior of each."""

    exchanges: Exchanges
    names: Sequence[str]


@dataclass(frozen=True)
class Wordings:
    """What one family is asked with.

    Attributes:
        restricted: Restricted questions in wordings of the family, and their affirmative answers.
        benign: Benign questions in the same wordings, and their answers.
    """

    restricted: Sampled
    benign: Sampled


@dataclass(frozen=True)
class PathSamples:
    """What all paths are read from.

    Attributes:
        direct: Bare restricted questions and their affirmative answers.
        safety: The same questions and their refusals.
        benign: Bare benign questions and their answers.
        families: Family → wordings.
    """

    direct: Sampled
    safety: Sampled
    benign: Sampled
    families: Mapping[str, Wordings]


@dataclass(frozen=True)
class Measures:
    """How the paths of a family stand to others in one layer: a figure each, or its resamples.

    Attributes:
        direct: Jaccard of jailbreak and direct harm.
        control: Jaccard of wrapped and bare benign questions, which share an answer as those do.
        excess: The first less the second.
        safety: Jaccard of jailbreak and safety path.
        refused: Jaccard of the jailbreak with a refusal as its answer and the safety path.
        direct_cosine: Cosine of the attributions, likewise.
        control_cosine: Likewise.
        excess_cosine: Likewise.
        safety_cosine: Likewise.
        refused_cosine: Likewise.
        paired: Jaccard of single prompts' paths, jailbreak and direct harm of one behavior.
        shuffled: Of different behaviors.
        reliability: Jaccard of the jailbreak paths that either half of the behaviors has: no other can be higher.
    """

    direct: Tensor
    control: Tensor
    excess: Tensor
    safety: Tensor
    refused: Tensor
    direct_cosine: Tensor
    control_cosine: Tensor
    excess_cosine: Tensor
    safety_cosine: Tensor
    refused_cosine: Tensor
    paired: Tensor
    shuffled: Tensor
    reliability: Tensor


MEASURES = tuple(field.name for field in fields(Measures))


@dataclass(frozen=True)
class Convergence:
    """One family and layer, before or after hardening; "change" is after less before.

    Attributes:
        when: Under which model.
        family: Template family, or "all".
        layer: Its number.
        chance: Mean Jaccard of two random choices of k units.
        figures: Name in `MEASURES` → figure.
    """

    when: When | Literal["change"]
    family: str
    layer: int
    chance: float
    figures: Mapping[str, Interval]


def path_convergence(
    subject: Subject,
    samples: PathSamples,
    search: Search,
    draws: Draws,
    *,
    hardened: bool,
    confidence: float = 0.95,
    progress: Callable[[int, int], None] | None = None,
) -> list[Convergence]:
    """Compare the paths of every family, and the mean over families, under M_0 and under the hardened model.

    Args:
        subject: The hardened model M_t; its reference is M_0.
        samples: What the paths are read from.
        search: k, steps, positions and the reading of the candidates.
        draws: Resamples; they have the names of all samples.
        hardened: Whether there is an adapter; else "before" is all there is.
        confidence: Coverage of the intervals.
        progress: Called with the families that are done, and how many there are.

    Returns:
        Rows by model, family and layer; then, where hardened, the change of the mean over families.
    """
    with subject.reference():
        safety = _path(subject, samples.safety, search)
    whens: tuple[When, ...] = ("before", "after") if hardened else ("before",)
    rows: list[Convergence] = []
    means: dict[When, list[Measures]] = {}
    total, done = len(whens) * len(samples.families), 0
    for when in whens:
        by_layer: list[list[Measures]] = []
        chance: list[float] = []
        with subject.reference() if when == "before" else contextlib.nullcontext():
            direct, benign = (_path(subject, s, search) for s in (samples.direct, samples.benign))
            for family, wordings in samples.families.items():
                measured, chance = _family(subject, wordings, samples, (direct, benign, safety), search, draws)
                by_layer.append(measured)
                rows += _rows(when, family, measured, chance, confidence)
                done += 1
                if progress is not None:
                    progress(done, total)
        means[when] = [_mean(layer) for layer in zip(*by_layer, strict=True)]
        rows += _rows(when, ALL, means[when], chance, confidence)
    if hardened:
        change = [
            Measures(**{m: getattr(after, m) - getattr(before, m) for m in MEASURES})
            for before, after in zip(means["before"], means["after"], strict=True)
        ]
        rows += _rows("change", ALL, change, [0.0] * len(change), confidence)
    return rows


def _family(
    subject: Subject,
    wordings: Wordings,
    samples: PathSamples,
    others: tuple[SampledPath, SampledPath, SampledPath],
    search: Search,
    draws: Draws,
) -> tuple[list[Measures], list[float]]:
    direct, benign, safety = others
    jailbreak, control = (_path(subject, s, search) for s in (wordings.restricted, wordings.benign))
    refusals = dict(zip(samples.safety.names, samples.safety.exchanges.answers, strict=True))
    names = wordings.restricted.names
    asked = Exchanges(wordings.restricted.exchanges.prompts, [refusals[name] for name in names])
    refused = _path(subject, Sampled(asked, names), search)
    k = search.k
    compared = zip(
        agreements(jailbreak, direct, draws, k),
        agreements(control, benign, draws, k),
        agreements(jailbreak, safety, draws, k),
        agreements(refused, safety, draws, k),
        pairings(jailbreak, direct, draws, k),
        reliability(jailbreak, draws, k),
        strict=True,
    )
    measured, chance = [], []
    for there, base, safe, no, single, itself in compared:
        measured.append(
            Measures(
                there.jaccard,
                base.jaccard,
                there.jaccard - base.jaccard,
                safe.jaccard,
                no.jaccard,
                there.cosine,
                base.cosine,
                there.cosine - base.cosine,
                safe.cosine,
                no.cosine,
                single.paired,
                single.shuffled,
                itself,
            )
        )
        chance.append(there.chance)
    return measured, chance


def _path(subject: Subject, sampled: Sampled, search: Search) -> SampledPath:
    return sampled_path(subject.model, sampled.exchanges, sampled.names, search)


def _mean(families: Sequence[Measures]) -> Measures:
    return Measures(**{m: torch.stack([getattr(one, m) for one in families]).mean(0) for m in MEASURES})


def _rows(
    when: When | Literal["change"],
    family: str,
    layers: Sequence[Measures],
    chance: Sequence[float],
    confidence: float,
) -> list[Convergence]:
    return [
        Convergence(
            when,
            family,
            layer,
            chance[layer],
            {m: interval(getattr(measured, m), confidence, bounds=_bounds(when, m)) for m in MEASURES},
        )
        for layer, measured in enumerate(layers)
    ]


def _bounds(when: str, measure: str) -> tuple[float, float]:
    """Where a figure can lie: a Jaccard index, a cosine, or the difference of two."""
    low, high = (-1.0, 1.0) if measure.endswith("cosine") else (0.0, 1.0)
    for difference in (measure.startswith("excess"), when == "change"):
        if difference:
            low, high = low - high, high - low
    return low, high
