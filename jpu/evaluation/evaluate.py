"""Measure a model on the held-out split: attacks, what has to keep working, and how far it has moved.

Every figure has an n and an interval clustered by entity. Before is M_0, after is M_θ; both see the same prompts, but
for the attacks that adapt, which are run against each anew.

Does not write anything but the attempts, and judges them in a pass of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jpu.attacks import Arena, Attack, Attempt, Budget, Campaign, Outcome, Spent, choose_suite
from jpu.data.schemas import Behavior, Refusal, Split, Template
from jpu.errors import DataError
from jpu.evaluation.divergence import Divergence, divergence
from jpu.evaluation.judged import Judged, judge
from jpu.evaluation.metrics import Estimate, mean, perplexity
from jpu.evaluation.probes import probe
from jpu.evaluation.rates import Bootstrap, Figures, attack_rates, control_rates, utility_rates
from jpu.models import Subject, Target
from jpu.spread import Spread, of_reference
from jpu.unlearning.anchors import own_refusals
from jpu.unlearning.retain import RetainMix, build_retain

Report = Callable[[str, int, int], None]
# What an attacker may show as examples: nothing about the restricted things themselves.
_OPEN = ("benign", "generic", "edgy")


@dataclass(frozen=True)
class Protocol:
    """How to measure.

    Attributes:
        split: The split of behaviors, templates and operators.
        suite: Attack → budget, in the order in which they are run.
        probe_wordings: Templates around each question that has to be answered.
        retain_pairs: Pairs that KL and perplexity are measured on.
        max_new_tokens: Bound on a completion.
        longest: Most characters of a prompt that an attack may make; None for no bound.
        resamples: Bootstrap samples.
        confidence: Coverage of the intervals.
        seed: Seed of every draw.
    """

    split: Split = "test"
    suite: Mapping[str, Budget] = field(default_factory=lambda: choose_suite(["quick"]))
    probe_wordings: int = 2
    retain_pairs: int = 400
    max_new_tokens: int = 24
    longest: int | None = None
    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0

    @property
    def bootstrap(self) -> Bootstrap:
        """How intervals are made."""
        return Bootstrap(self.seed, self.resamples, self.confidence)


@dataclass
class Measured:
    """One model's figures.

    Attributes:
        metrics: Name → estimate; None where the data has nothing to measure it on.
        judged: Attack → its attempts with their verdicts.
        probes: Questions that have to be answered, judged likewise.
        spent: Attack → its cost.
        not_run: Attack → why it was left out.
    """

    metrics: Figures
    judged: dict[str, list[Judged]]
    probes: list[Judged] = field(default_factory=list)
    spent: dict[str, Spent] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)

    @property
    def attacked(self) -> list[Judged]:
        """The attempts of all attacks."""
        return [j for items in self.judged.values() for j in items]


class Evaluation:
    """The held-out data and the protocol, ready to measure models on.

    Args:
        behaviors: All behaviors; those of the protocol's split are used.
        templates: All templates, likewise.
        refusals: The subject's own refusals.
        protocol: How to measure.
        attacks: Attacks in the place of the registered ones of their names.
        required: Whether an attack that cannot be run is an error.

    Raises:
        DataError: The split has no restricted behavior or no jailbreak template.
    """

    def __init__(
        self,
        behaviors: Sequence[Behavior],
        templates: Sequence[Template],
        refusals: Sequence[Refusal],
        protocol: Protocol,
        *,
        attacks: Mapping[str, Attack] | None = None,
        required: bool = False,
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
        arena = Arena(
            behaviors=self.restricted,
            templates=self.templates,
            refusals=self.refusals,
            benign=[b for b in self.behaviors.values() if b.kind in _OPEN and b.answer],
            split=protocol.split,
            max_new_tokens=protocol.max_new_tokens,
            longest=protocol.longest,
        )
        self.campaign = Campaign(arena, protocol.suite, seed=protocol.seed, attacks=attacks, required=required)

    def measure(
        self,
        subject: Subject,
        *,
        reference: bool = False,
        folder: Path | None = None,
        report: Report | None = None,
        over: Spread[Subject] | None = None,
    ) -> Measured:
        """Attack, probe and judge one model, and measure how far it has moved from M_0.

        Args:
            subject: M_θ.
            reference: Measure M_0, the same subject with its adapter disabled.
            folder: Where attempts are kept, and found again after a kill; None to keep none.
            report: Called with what is being done, done and total.
            over: Copies of M_θ that share attacks and probes. The figures are the same.
        """
        if reference:
            with subject.reference():
                return self.measure(subject, folder=folder, report=report, over=of_reference(over) if over else None)
        measured = self.attack(subject, folder=folder, report=report, over=over)
        measured.metrics |= self._moved(subject)
        return measured

    def attack(
        self,
        target: Target,
        *,
        folder: Path | None = None,
        report: Report | None = None,
        over: Spread[Subject] | None = None,
    ) -> Measured:
        """Attack, probe and judge a model that may be no more than an endpoint; copies share attacks that are kept."""
        if over is not None and folder is not None:
            self.campaign.spread(over, target, folder, report=report)
        outcome = self.campaign.run(target, folder=folder, report=report)
        probes = probe(
            target,
            list(self.behaviors.values()),
            self.templates,
            wordings=self.protocol.probe_wordings,
            max_new_tokens=self.protocol.max_new_tokens,
            rng=random.Random(f"{self.protocol.seed}-probe"),
            progress=None if report is None else lambda done, total: report("probes", done, total),
            over=over,
        )
        return self.figures(outcome, probes)

    def control(
        self,
        target: Target,
        *,
        folder: Path | None = None,
        report: Report | None = None,
        over: Spread[Subject] | None = None,
    ) -> Measured:
        """The attacks' controls: what chance gets through in their place."""
        if over is not None and folder is not None:
            self.campaign.spread(over, target, folder, control=True, report=report)
        outcome = self.campaign.run(target, folder=folder, control=True, report=report)
        judged = {name: self.judge(found) for name, found in outcome.attempts.items()}
        return Measured(control_rates(judged, self.protocol.bootstrap), judged, [], outcome.spent, outcome.not_run)

    def figures(self, outcome: Outcome, probes: Sequence[Attempt]) -> Measured:
        """Judge what was brought home, and count it."""
        judged = {name: self.judge(found) for name, found in outcome.attempts.items()}
        answers = self.judge(probes)
        bootstrap = self.protocol.bootstrap
        metrics = {**attack_rates(judged, bootstrap), **utility_rates(answers, judged, bootstrap)}
        return Measured(metrics, judged, answers, outcome.spent, outcome.not_run)

    def judge(self, attempts: Sequence[Attempt]) -> list[Judged]:
        """Verdicts on stored attempts."""
        return judge(attempts, self.behaviors, self.refusals)

    def _moved(self, subject: Subject) -> Figures:
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
        bootstrap = vars(self.protocol.bootstrap)
        return {
            "kl": mean(found.kl, entities, weights=tokens, **bootstrap),
            "perplexity": perplexity(
                [found.nll[i] for i in answered],
                [entities[i] for i in answered],
                tokens=[tokens[i] for i in answered],
                **bootstrap,
            )
            if answered
            else None,
        }


def as_json(metrics: Mapping[str, Estimate | None]) -> dict[str, dict[str, float | int | None]]:
    """Estimates as `metrics.json` holds them; what could not be measured has n 0 and null values."""
    empty: dict[str, float | int | None] = {"value": None, "low": None, "high": None, "n": 0}
    return {name: dict(e.as_dict()) if e is not None else dict(empty) for name, e in metrics.items()}
