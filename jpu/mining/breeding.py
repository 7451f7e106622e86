"""Makes the prompts that mining tries: fresh template × query pairs, and mutations of parents.

Does not score, and sees one split only.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jpu.data.schemas import Behavior, Refusal, Split, Template
from jpu.errors import DataError
from jpu.mining.entry import Entry, make_entry
from jpu.mining.mutations import operator, operators
from jpu.mining.own import bare, noise

# Tries for an offspring that has not been seen: an operator may have nothing to change, or repeat itself.
_TRIES = 4
# Expanding and crossing again and again must not make novels: no query grows over _GROWTH times its start.
_GROWTH = 3
_SHORT = 100
# … and no template is mutated more often than this on its way.
_AROUND = 2


@dataclass(frozen=True, slots=True)
class Seeds:
    """What mining starts from; records of other splits, kinds and roles are passed over.

    Attributes:
        behaviors: Restricted behaviors among them are the queries.
        templates: Jailbreak templates among them are used.
        refusals: Refusals in the subject's own words.
        pieces: Texts of the vocabulary that noise is made of; without any there is none (`jpu.mining.own`).
    """

    behaviors: Sequence[Behavior]
    templates: Sequence[Template]
    refusals: Sequence[Refusal]
    pieces: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class MiningSettings:
    """How much to mine.

    Attributes:
        tau: Threshold τ on the refusal loss, nats per token.
        round: Number of this round, from 1; new entries are of this round.
        number: Number of this mining, where a round mines several times; None: that of the round.
        fresh: Template × query pairs to start from.
        fresh_mutations: Most query mutations of a fresh pair before it is scored; without any, a model that
            has been hardened once shows hardly a parent.
        revisit: Buffer entries to score again.
        rescore_every: In every so-manieth mining the whole buffer is scored again.
        iterations: Steps of mutation.
        offspring: Most offspring a step, of all parents.
        children: Most offspring a step, of one parent.
        template_mutation: Probability that the template of a fresh entry or of an offspring is mutated too.
        query_mutation: Probability that a query is mutated where it is the turn of it.
        longest: Most characters of a prompt; a mutation that makes a longer one is not used. None: no bound.
        split: Split of behaviors, templates and operators.
    """

    tau: float
    round: int
    number: int | None = None
    fresh: int = 96
    fresh_mutations: int = 0
    revisit: int = 64
    rescore_every: int = 2
    iterations: int = 2
    offspring: int = 64
    children: int = 4
    template_mutation: float = 0.2
    query_mutation: float = 1.0
    longest: int | None = None
    split: Split = "train"


class Breeder:
    """Makes unscored entries of one split."""

    def __init__(self, seeds: Seeds, settings: MiningSettings, rng: random.Random) -> None:
        split = settings.split
        self.settings = settings
        self.rng = rng
        self.pieces = seeds.pieces
        self.behaviors = {b.id: b for b in seeds.behaviors if b.kind == "restricted" and b.split == split}
        self.templates = [t for t in seeds.templates if t.role == "jailbreak" and t.split == split]
        self.query_operators = operators(level="query", split=split)
        self.template_operators = operators(level="template", split=split)
        self._made: dict[str, tuple[str, ...]] = {}
        for what, found in (
            ("restricted behavior", self.behaviors),
            ("jailbreak template", self.templates),
            ("refusal", seeds.refusals),
        ):
            if not found:
                raise DataError(
                    f"no {what} in the {split} split to mine with",
                    mend="Add some to the data, or change how it is split. Nothing was written.",
                )

    def fresh(self) -> list[Entry]:
        """Template × query pairs without repetition, families in turn so that each has its share."""
        by_family: dict[str, list[tuple[Template, Behavior]]] = {}
        split = self.settings.split
        own = [bare(split), *noise(self.pieces, self.settings.fresh, split, self.rng)]
        for template in (*self.templates, *own):
            pairs = by_family.setdefault(template.family, [])
            pairs.extend((template, behavior) for behavior in self.behaviors.values())
        for pairs in by_family.values():
            self.rng.shuffle(pairs)
        entries: list[Entry] = []
        while len(entries) < self.settings.fresh and any(by_family.values()):
            for pairs in by_family.values():
                if pairs and len(entries) < self.settings.fresh:
                    entries.append(self._fresh_entry(*pairs.pop()))
        return entries

    def _fresh_entry(self, template: Template, behavior: Behavior) -> Entry:
        query = behavior.query
        history: list[str] = []
        for _ in range(self.rng.randint(0, self.settings.fresh_mutations)):
            query, made = self._mutate(query, behavior)
            history += made
        text, around = self._mutate_template(template.text)

        def entry(text: str, query: str, history: list[str]) -> Entry:
            return make_entry(
                behavior=behavior.id,
                template=template.id,
                family=template.family,
                text=text,
                query=query,
                split=self.settings.split,
                round=self.settings.round,
                history=history,
            )

        mutated = entry(text, query, [*history, *around])
        return mutated if self._fits(mutated) else entry(template.text, behavior.query, [])

    def _fits(self, entry: Entry) -> bool:
        return self.settings.longest is None or len(entry.prompt) <= self.settings.longest

    def breed(self, parents: Sequence[Entry], known: set[str]) -> list[Entry]:
        """Offspring of as many parents as the budget allows, several of each when there are few."""
        budget = min(self.settings.offspring, self.settings.children * len(parents))
        whole, rest = divmod(budget, len(parents)) if parents else (0, 0)
        offspring: list[Entry] = []
        for parent in [*list(parents) * whole, *self.rng.sample(list(parents), rest)]:
            for _ in range(_TRIES):
                new = [child for child in unseen([self._child(parent)], known) if self._fits(child)]
                offspring += new
                if new:
                    break
        return offspring

    def _child(self, parent: Entry) -> Entry:
        """A homologous mutation: same behavior and template, J' = T(Q'), H' = H + [op]."""
        query, made = self._mutate(parent.query, self.behaviors.get(parent.behavior))
        text = parent.template_text
        mutated_before = sum(operator(name).level == "template" for name in parent.history)
        if mutated_before < _AROUND:
            text, around = self._mutate_template(text)
            made += around
        child = make_entry(
            behavior=parent.behavior,
            template=parent.template,
            family=parent.family,
            text=text,
            query=query,
            split=parent.split,
            round=self.settings.round,
            parent=parent.id,
            history=(*parent.history, *made),
        )
        self._made.setdefault(child.id, tuple(made))
        return child

    def _mutate_template(self, text: str) -> tuple[str, list[str]]:
        """At the settings' probability, one random operator on a template, and its name when it changed something."""
        if not self.template_operators or self.rng.random() >= self.settings.template_mutation:
            return text, []
        around = self.rng.choice(self.template_operators)
        mutated = around.apply(text, self.rng, partner=self.rng.choice(self.templates).text)
        return mutated, [around.name] if mutated != text else []

    def last_operators(self, entry: Entry) -> tuple[str, ...]:
        """The operators that made an offspring of this run from its parent."""
        return self._made[entry.id]

    def _mutate(self, query: str, behavior: Behavior | None) -> tuple[str, list[str]]:
        """At the settings' probability, one random operator on a query, and its name when it changed something.

        The partner is another restricted query, so that crossing two never asks for less.
        """
        # No draw where the query is always mutated: what was mined before there was a choice is mined again.
        if self.settings.query_mutation < 1.0 and self.rng.random() >= self.settings.query_mutation:
            return query, []
        chosen = self.rng.choice(self.query_operators)
        partner = self.rng.choice(list(self.behaviors.values()))
        keep = frozenset({partner.entity} | ({behavior.entity} if behavior is not None else set()))
        mutated = chosen.apply(query, self.rng, partner=partner.query, keep=keep)
        start = len(behavior.query) if behavior is not None else 0
        if mutated == query or len(mutated) > _GROWTH * max(start, _SHORT):
            return query, []
        return mutated, [chosen.name]


def unseen(entries: Iterable[Entry], known: set[str]) -> list[Entry]:
    """Those whose prompt was not seen before; it is known from now on. Two templates crossed may make a third."""
    new: list[Entry] = []
    for entry in entries:
        if entry.prompt not in known:
            known.add(entry.prompt)
            new.append(entry)
    return new
