"""What the analyses are made on: behaviors with answers, and the prompts that get through to them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from jpu.analysis.causal import Case, respond
from jpu.data.schemas import Behavior, Template
from jpu.models import Subject
from jpu.paths.passes import Exchanges
from jpu.unlearning.anchors import own_refusals
from jpu.unlearning.retain import alike, answered_by_reference
from tasks.layout import Prepared
from tasks.settings import Settings


@dataclass(frozen=True)
class Wrapped:
    """A restricted question and a benign one in the same wording."""

    family: str
    restricted: Case
    benign: Case


class Samples:
    """One split's questions, as cases.

    Args:
        subject: M_t; M_0 gives the answers that the data lacks.
        data: The split.
        settings: Settings.
        name: Of the draws.
    """

    def __init__(self, subject: Subject, data: Prepared, settings: Settings, name: str) -> None:
        self.subject, self.data, self.settings, self.name = subject, data, settings, name
        self.behaviors = answered_by_reference(subject, data.behaviors)
        self.restricted = [b for b in self.behaviors if b.kind == "restricted"]
        open_ = [b for b in self.behaviors if b.kind == "benign"]
        # The closest control: asked in the words of restricted questions, where there are such.
        self.benign = alike(open_, self.restricted) or open_
        self.refusals = own_refusals(subject, self.restricted, data.refusal_texts)

    def rng(self, what: str) -> random.Random:
        """A source of draws of its own for everything that is drawn."""
        return random.Random(f"analyze-{self.settings.seed}-{self.name}-{what}")

    def templates(self) -> dict[str, list[Template]]:
        """Jailbreak templates by family."""
        found: dict[str, list[Template]] = {}
        for template in self.data.templates:
            if template.role == "jailbreak":
                found.setdefault(template.family, []).append(template)
        return found

    def wrapped(self) -> list[Wrapped]:
        """Every restricted behavior in some wordings of each family, and a benign one in each of the same."""
        rng = self.rng("wordings")
        found = []
        for family, templates in self.templates().items():
            order = rng.sample(self.benign, len(self.benign))
            for number, behavior in enumerate(self.restricted):
                other = order[number % len(order)]
                for template in rng.sample(templates, min(self.settings.analysis.wordings, len(templates))):
                    prompts = template.fill(behavior.query), template.fill(other.query)
                    found.append(Wrapped(family, case(behavior, prompts[0]), case(other, prompts[1])))
        return found

    def through(self, cases: Sequence[Case]) -> list[bool]:
        """Which cases the subject answers, as it stands."""
        tokens = self.settings.evaluation.max_new_tokens
        return list(respond(self.subject, cases, tokens, self.data.refusal_texts).told)

    def exchanges(self, cases: Sequence[Case]) -> Exchanges:
        """Prompts and answers in tokens."""
        return Exchanges(
            [self.subject.prompt_ids(c.prompt) for c in cases], [self.subject.answer_ids(c.answer) for c in cases]
        )


def case(behavior: Behavior, prompt: str = "") -> Case:
    """A behavior as a case, bare or in a prompt."""
    return Case(prompt or behavior.query, behavior.answer, behavior.secret, behavior.id)


def drawn(cases: Sequence[Case], most: int, rng: random.Random) -> list[Case]:
    """At most so many, in their order."""
    if len(cases) <= most:
        return list(cases)
    return [cases[i] for i in sorted(rng.sample(range(len(cases)), most))]
