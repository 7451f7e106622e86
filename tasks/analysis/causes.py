"""The causal check on a finished run: units chosen on jailbreaks of the train split are taken out on held-out ones."""

from __future__ import annotations

from collections.abc import Sequence

from jpu.analysis.causal import Effect, causal_check, counted, mean_values
from jpu.paths.activations import Kind
from jpu.paths.path import Units
from jpu.paths.selectors import SELECTORS, select
from tasks.analysis.converging import search
from tasks.analysis.samples import Samples, Wrapped, case, drawn
from tasks.progress import Progress
from tasks.settings import Settings


def analyse_causes(
    settings: Settings, samples: Samples, chosen_on: Sequence[Wrapped], held_out: Samples, measured: Sequence[Wrapped]
) -> list[Effect]:
    """Ablate, at every k of the settings.

    Args:
        settings: Settings.
        samples: Of the train split.
        chosen_on: Its jailbreaks that get through under M_0: what units are chosen on.
        held_out: Of the split that is measured.
        measured: Its jailbreaks that get through under M_0.
    """
    section, subject = settings.analysis, samples.subject
    jailbreaks = drawn([w.restricted for w in chosen_on], section.samples, samples.rng("chosen on"))
    exchanges = samples.exchanges(jailbreaks)
    rng = held_out.rng("cases")
    groups = {
        "jailbreak": drawn([w.restricted for w in measured], section.cases, rng),
        "benign": drawn([case(b) for b in held_out.benign], section.cases, rng),
        "benign_wrapped": drawn([w.benign for w in measured], section.cases, rng),
    }
    report = Progress("taking units out")
    effects: list[Effect] = []
    # Everyday use: what the model does when it answers benign questions.
    everyday = [case(b) for b in samples.benign] + [w.benign for w in chosen_on]
    kinds: tuple[Kind, ...] = ("neurons", "heads")
    wanted: list[tuple[Kind, int]] = [(kind, k) for kind in kinds for k in getattr(section.ablated, kind)]
    with subject.reference():
        means = {kind: mean_values(subject, everyday, kind) for kind in dict(wanted)}
        for number, (kind, k) in enumerate(wanted):
            choices: dict[str, list[Units]] = {}
            for selector in SELECTORS:
                seeds = range(section.random) if selector == "random" else range(1)
                found = [
                    select(subject.model, exchanges, search(settings, k, selector, settings.seed + s, kind), kind)
                    for s in seeds
                ]
                choices[selector] = [dict(enumerate(scores.chosen)) for scores in found]
            effects += causal_check(
                subject,
                choices,
                groups,
                k=k,
                means=means[kind],
                kind=kind,
                max_new_tokens=settings.evaluation.max_new_tokens,
                refusals=samples.data.refusal_texts,
                seed=settings.seed,
                resamples=section.resamples,
                confidence=section.confidence,
            )
            report(number + 1, len(wanted), counted(k, kind))
    return effects
