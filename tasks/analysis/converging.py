"""Analysis 2 on a finished run: paths of the train split's families, before and after hardening."""

from __future__ import annotations

from jpu.analysis.causal import Case
from jpu.analysis.families import Convergence, PathSamples, Sampled, Wordings, path_convergence
from jpu.analysis.resampling import Draws
from jpu.paths.activations import Kind
from jpu.paths.selectors import Search
from tasks.analysis.samples import Samples, Wrapped, case
from tasks.progress import Progress
from tasks.settings import Settings

# Behaviors that get through in a family, under which it is left out.
_FEWEST = 2


def analyse_convergence(settings: Settings, samples: Samples, wrapped: list[Wrapped]) -> list[Convergence]:
    """Compare paths.

    Args:
        settings: Settings.
        samples: Of the hardened subject; its reference is M_0.
        wrapped: Jailbreaks that get through under M_0, with their controls.
    """
    section = settings.analysis
    behaviors = {
        family: {w.restricted.name for w in wrapped if w.family == family} for family in {w.family for w in wrapped}
    }
    # A path is compared with itself, by halves of its behaviors.
    families = [f for f in dict.fromkeys(w.family for w in wrapped) if len(behaviors[f]) >= _FEWEST]
    if not families:
        return []
    direct = [case(b) for b in samples.restricted]
    refused = [Case(c.prompt, samples.refusals[c.name], "", c.name) for c in direct]
    benign = [case(b) for b in samples.benign]

    def sampled(cases: list[Case]) -> Sampled:
        return Sampled(samples.exchanges(cases), [c.name for c in cases])

    paths = PathSamples(
        sampled(direct),
        sampled(refused),
        sampled(benign),
        {
            family: Wordings(
                sampled([w.restricted for w in wrapped if w.family == family]),
                sampled([w.benign for w in wrapped if w.family == family]),
            )
            for family in families
        },
    )
    report = Progress("comparing paths")
    return path_convergence(
        samples.subject,
        paths,
        search(settings, section.neurons),
        Draws([[c.name for c in direct], [c.name for c in benign]], section.resamples, settings.seed),
        hardened=samples.subject.model is not samples.subject.base,
        confidence=section.confidence,
        progress=lambda done, total: report(done, total, "families"),
    )


def leaking(samples: Samples) -> list[Wrapped]:
    """Wrapped questions that get through under M_0."""
    every = samples.wrapped()
    with samples.subject.reference():
        told = samples.through([w.restricted for w in every])
    return [w for w, through in zip(every, told, strict=True) if through]


def search(settings: Settings, k: int, selector: str = "igi", seed: int = 0, kind: Kind = "neurons") -> Search:
    """The search of `paths`, at another k; for heads the definition's limit, as `identify` takes it."""
    section = settings.paths
    return Search(
        selector=selector,
        k=k,
        steps=section.steps,
        positions=section.positions,
        candidates=section.candidates if kind == "neurons" else "limit",
        refine=section.refine if selector == "igi" and kind == "neurons" else 0,
        seed=seed,
    )
