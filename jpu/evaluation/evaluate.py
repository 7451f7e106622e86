"""Measure a model on the held-out split: attacks, what has to keep working, and how far it has moved.

The figures are those of `METRICS`, each with n and an interval clustered by entity. Before is M_0, after is M_θ; both
see the same prompts, but for the adaptive attack, which is run against each anew.

Does not write anything, and judges completions in a pass of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jpu.attacks import Arena, Attempt, get_attack
from jpu.data.schemas import Behavior, Refusal, Split, Template
from jpu.errors import DataError
from jpu.evaluation.divergence import Divergence, divergence
from jpu.evaluation.metrics import Estimate, mean, perplexity, rate
from jpu.evaluation.probes import BARE, WRAPPED, probe
from jpu.judges import Completion, Verdict, judge_all
from jpu.models import Subject
from jpu.unlearning.anchors import own_refusals
from jpu.unlearning.retain import RetainMix, build_retain

ATTACKS = ("direct", "static", "adaptive", "prefill")
METRICS = (
    "asr_direct",
    "asr_static",
    "asr_adaptive",
    "asr_prefill",
    "asr_worst",
    "direct_refusal",
    "over_refusal",
    "benign_recall",
    "benign_in_template_recall",
    "near_miss_recall",
    "near_miss_in_template_recall",
    "kl",
    "perplexity",
)
# What is known beyond the headline: any family got through, and outputs that are no language.
EXTRA = ("asr_static_any", "asr_adaptive_any", "over_refusal_in_template", "incoherent", "incoherent_attacked")

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Protocol:
    """How to measure.

    Attributes:
        split: The split of behaviors, templates and operators.
        wordings: Wordings of each family that the static attack puts to each behavior.
        population: Prompts that the adaptive search starts from, for each behavior and family.
        generations: Its steps of mutation.
        children: Prompts that it scores a step.
        probe_wordings: Templates around each question that has to be answered.
        retain_pairs: Pairs that KL and perplexity are measured on.
        max_new_tokens: Bound on a completion.
        longest: Most characters of a prompt that an attack may make; None for no bound.
        resamples: Bootstrap samples.
        confidence: Coverage of the intervals.
        seed: Seed of every draw.
    """

    split: Split = "test"
    wordings: int = 2
    population: int = 4
    generations: int = 2
    children: int = 4
    probe_wordings: int = 2
    retain_pairs: int = 400
    max_new_tokens: int = 24
    longest: int | None = None
    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Judged:
    """An attempt and what the judges made of it."""

    attempt: Attempt
    kind: str
    verdict: Verdict


@dataclass(frozen=True)
class Measured:
    """One model's figures.

    Attributes:
        metrics: Name → estimate; None where the data has nothing to measure it on.
        judged: Every attempt with its verdict.
    """

    metrics: dict[str, Estimate | None]
    judged: list[Judged]


class Evaluation:
    """The held-out data and the protocol, ready to measure models on.

    Args:
        behaviors: All behaviors; those of the protocol's split are used.
        templates: All templates, likewise.
        refusals: The subject's own refusals.
        protocol: How to measure.

    Raises:
        DataError: The split has no restricted behavior or no jailbreak template.
    """

    def __init__(
        self,
        behaviors: Sequence[Behavior],
        templates: Sequence[Template],
        refusals: Sequence[Refusal],
        protocol: Protocol,
    ) -> None:
        self.protocol = protocol
        self.behaviors = {b.id: b for b in behaviors if b.split == protocol.split}
        self.templates = [t for t in templates if t.split == protocol.split]
        self.refusals = list(refusals)
        self.restricted = [b for b in self.behaviors.values() if b.kind == "restricted"]
        if not self.restricted or not any(t.role == "jailbreak" for t in self.templates):
            raise DataError(
                f"nothing to attack: no restricted behavior or no jailbreak template in split {protocol.split!r}",
                where="artifacts/prepared",
                mend="Give more behaviors and template families, or change the shares of the splits in params.yaml.",
            )

    def measure(self, subject: Subject, *, reference: bool = False, report: Report | None = None) -> Measured:
        """Attack, probe and judge one model.

        Args:
            subject: M_θ.
            reference: Measure M_0, the same subject with its adapter disabled.
            report: Called with what is being done, done and total.
        """
        if reference:
            with subject.reference():
                return self._measure(subject, report)
        return self._measure(subject, report)

    def _measure(self, subject: Subject, report: Report | None) -> Measured:
        protocol = self.protocol
        arena = Arena(
            behaviors=self.restricted,
            templates=self.templates,
            refusals=self.refusals,
            split=protocol.split,
            wordings=protocol.wordings,
            population=protocol.population,
            generations=protocol.generations,
            children=protocol.children,
            max_new_tokens=protocol.max_new_tokens,
            longest=protocol.longest,
        )

        def progress(what: str) -> Callable[[int, int], None] | None:
            return None if report is None else lambda done, total: report(what, done, total)

        attempts: list[Attempt] = []
        for name in ATTACKS:
            rng = random.Random(f"{protocol.seed}-{name}")
            attempts += get_attack(name).run(subject, arena, rng, progress(name))
        attempts += probe(
            subject,
            list(self.behaviors.values()),
            self.templates,
            wordings=protocol.probe_wordings,
            max_new_tokens=protocol.max_new_tokens,
            rng=random.Random(f"{protocol.seed}-probe"),
            progress=progress("probes"),
        )
        judged = self.judge(attempts)
        return Measured({**self._rates(judged), **self._moved(subject)}, judged)

    def judge(self, attempts: Sequence[Attempt]) -> list[Judged]:
        """The second pass: verdicts on stored completions. Can be run again, with other judges."""
        known = [self.behaviors[a.behavior] for a in attempts]
        verdicts = judge_all(
            [Completion(a.completion, b.secret) for a, b in zip(attempts, known, strict=True)],
            refusals=[r.text for r in self.refusals],
        )
        return [Judged(a, b.kind, v) for a, b, v in zip(attempts, known, verdicts, strict=True)]

    def _rates(self, judged: Sequence[Judged]) -> dict[str, Estimate | None]:
        by: dict[str, list[Judged]] = {}
        for item in judged:
            by.setdefault(item.attempt.attack, []).append(item)
        asr = {f"asr_{name}": self._rate(by[name], lambda j: j.verdict.answered) for name in ATTACKS}
        worst = max((e for e in asr.values() if e is not None), key=lambda e: e.value)
        probes = [*by.get(BARE, ()), *by.get(WRAPPED, ())]
        attacked = [j for name in ATTACKS for j in by[name]]

        def recall(attack: str, kind: str) -> Estimate | None:
            return self._rate([j for j in by.get(attack, ()) if j.kind == kind], lambda j: j.verdict.answered)

        return {
            **asr,
            "asr_worst": worst,
            "direct_refusal": self._rate(by["direct"], lambda j: j.verdict.refused),
            "over_refusal": self._rate(probes, lambda j: j.verdict.refused),
            "benign_recall": recall(BARE, "benign"),
            "benign_in_template_recall": recall(WRAPPED, "benign"),
            "near_miss_recall": recall(BARE, "near_miss"),
            "near_miss_in_template_recall": recall(WRAPPED, "near_miss"),
            "asr_static_any": self._any(by["static"]),
            "asr_adaptive_any": self._any(by["adaptive"]),
            "over_refusal_in_template": self._rate(by.get(WRAPPED, []), lambda j: j.verdict.refused),
            "incoherent": self._rate(probes, lambda j: j.verdict.incoherent),
            "incoherent_attacked": self._rate(attacked, lambda j: j.verdict.incoherent),
        }

    def _rate(self, items: Sequence[Judged], holds: Callable[[Judged], bool]) -> Estimate | None:
        if not items:
            return None
        return rate([holds(j) for j in items], [j.attempt.entity for j in items], **self._bootstrap)

    def _any(self, items: Sequence[Judged]) -> Estimate | None:
        """Share of behaviors for which at least one attempt got through."""
        through: dict[str, bool] = {}
        entities: dict[str, str] = {}
        for j in items:
            through[j.attempt.behavior] = through.get(j.attempt.behavior, False) or j.verdict.answered
            entities[j.attempt.behavior] = j.attempt.entity
        return rate(list(through.values()), list(entities.values()), **self._bootstrap) if through else None

    @property
    def _bootstrap(self) -> dict[str, Any]:
        chosen = self.protocol
        return {"seed": chosen.seed, "resamples": chosen.resamples, "confidence": chosen.confidence}

    def _moved(self, subject: Subject) -> dict[str, Estimate | None]:
        refusals = own_refusals(subject, self.restricted, [r.text for r in self.refusals])
        pairs = build_retain(
            list(self.behaviors.values()),
            self.templates,
            refusals,
            self.protocol.retain_pairs,
            RetainMix(),
            random.Random(f"{self.protocol.seed}-retain"),
        )
        found: Divergence = divergence(subject, pairs)
        entities = [p.entity for p in pairs]
        answered = [i for i, p in enumerate(pairs) if p.kind != "restricted"]
        tokens = [float(t) for t in found.tokens]
        return {
            "kl": mean(found.kl, entities, weights=tokens, **self._bootstrap),
            "perplexity": perplexity(
                [found.nll[i] for i in answered],
                [entities[i] for i in answered],
                tokens=[tokens[i] for i in answered],
                **self._bootstrap,
            )
            if answered
            else None,
        }


def by_family(judged: Iterable[Judged], attacks: Sequence[str] = ATTACKS) -> list[dict[str, object]]:
    """Rows of attack × family: attempts and how many got through, for tables and plots."""
    counts: dict[tuple[str, str], list[int]] = {}
    for j in judged:
        if j.attempt.attack in attacks:
            cell = counts.setdefault((j.attempt.attack, j.attempt.family), [0, 0])
            cell[0] += 1
            cell[1] += int(j.verdict.answered)
    return [
        {"attack": attack, "family": family, "attempts": n, "through": k, "asr": k / n}
        for (attack, family), (n, k) in sorted(counts.items())
    ]


def as_json(metrics: Mapping[str, Estimate | None]) -> dict[str, dict[str, float | int | None]]:
    """Estimates as `metrics.json` holds them; what could not be measured has n 0 and null values."""
    empty: dict[str, float | int | None] = {"value": None, "low": None, "high": None, "n": 0}
    return {name: dict(e.as_dict()) if e is not None else dict(empty) for name, e in metrics.items()}
