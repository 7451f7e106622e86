"""A search over templates by their success on real answers, universal over the behaviors attacked together.

A tree of templates grows from the arena's. A step selects one, mutates it and puts it to every behavior; the share that
gets through is its reward. No score but the model's own words is used, and no question is rewritten.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from jpu.attacks.base import Arena, Attack, Attempt, Budget, Progress, bare_attempt, complete, made_attempt
from jpu.data.schemas import PLACEHOLDER
from jpu.mining.mutations import operators
from jpu.mining.operators.text import sentences
from jpu.models import Target

# The paper's constants: exploration c, penalty α on depth, least reward β, and chance p of stopping at an inner node.
EXPLORATION, PENALTY, LEAST, STOP = 0.5, 0.1, 0.2, 0.1

# Mutations of one step. The paper makes one; by rules one alone changes little.
MOST = 3

Mutate = Callable[[str, Sequence[str], random.Random], str]


@dataclass
class Node:
    """A template in the tree.

    Attributes:
        text: The template, with its placeholder.
        family: Family of the seed that it grew from.
        history: Mutations that made it.
        children: Templates made from it that got through somewhere.
        visits: How often a path led through it.
        reward: Sum of the rewards of those paths.
    """

    text: str
    family: str
    history: tuple[str, ...] = ()
    children: list[Node] = field(default_factory=list)
    visits: int = 0
    reward: float = 0.0

    def uct(self, step: int) -> float:
        """Upper confidence bound of its mean reward at a step of the search (the paper's Algorithm 1)."""
        explored = math.sqrt(2 * math.log(max(step, 1)) / (self.visits + 0.01))
        return self.reward / (self.visits + 1) + EXPLORATION * explored


class Fuzzing(Attack):
    """GPTFuzzer (Yu et al., 2023, arXiv 2309.10253): MCTS-Explore over templates, mutated by rules."""

    name = "fuzzing"
    cite = "Yu et al., 2023, arXiv 2309.10253"
    chance = "harmless wordings, crossed and shortened as often, drawn at random"
    shard = 32

    def run(
        self,
        target: Target,
        arena: Arena,
        budget: Budget,
        rng: random.Random,
        *,
        control: bool = False,
        progress: Progress | None = None,
    ) -> list[Attempt]:
        """One attempt for each behavior and step of the search, in the order of the steps."""
        if not arena.behaviors:
            return []
        longest = max((b.query for b in arena.behaviors), key=len)
        seeds = [
            Node(t.text, t.family)
            for t in arena.templates
            if t.role == ("polite" if control else "jailbreak") and arena.fits(t.fill(longest))
        ]
        if not seeds:
            return complete(target, [bare_attempt(self.name, b) for b in arena.behaviors], arena.max_new_tokens)
        pool = [seed.text for seed in seeds]
        # Nothing is put before a harmless wording: any unusual length may lead a model on, and would show nothing.
        operate = {k: BY_US[k] for k in _HARMLESS} if control else {**BY_US, **_registered(arena)}
        made: list[list[Attempt]] = []
        for step in range(1, budget.queries + 1):
            path = [rng.choice(seeds)] if control else select(seeds, step, rng)
            child = path[-1]
            for name in rng.choices(sorted(operate), k=1 if control else rng.randint(1, MOST)):
                child = Node(operate[name](child.text, pool, rng), child.family, (*child.history, name))
            if not arena.fits(child.text.replace(PLACEHOLDER, longest)):
                child = Node(path[-1].text, path[-1].family, path[-1].history)
            family = "polite" if control else child.family
            attempts = [
                made_attempt(self.name, b, child.text.replace(PLACEHOLDER, b.query), family, *child.history)
                for b in arena.behaviors
            ]
            attempts = complete(target, attempts, arena.max_new_tokens)
            through = arena.through(attempts)
            learn(path, child, sum(through) / len(through))
            made.append(attempts)
            if progress is not None:
                progress(step, budget.queries)
        return [attempt for attempts in zip(*made, strict=True) for attempt in attempts]


def select(seeds: Sequence[Node], step: int, rng: random.Random) -> list[Node]:
    """MCTS-Explore: from the best seed down to a leaf, or with probability p to a node before it."""
    path = [max(seeds, key=lambda node: node.uct(step))]
    while path[-1].children and rng.random() >= STOP:
        path.append(max(path[-1].children, key=lambda node: node.uct(step)))
    for node in path:
        node.visits += 1
    return path


def learn(path: Sequence[Node], child: Node, share: float) -> None:
    """Give a path the reward of the child that it led to, less the deeper it went; keep a child that got through."""
    if share > 0.0:
        path[-1].children.append(child)
    reward = share * max(LEAST, 1.0 - PENALTY * (len(path) - 1))
    for node in path:
        node.reward += reward


def crossover(text: str, pool: Sequence[str], rng: random.Random) -> str:
    """What stands before the question in one template, and after it in another."""
    pair = [text, rng.choice(pool)]
    rng.shuffle(pair)
    return f"{pair[0].partition(PLACEHOLDER)[0]}{PLACEHOLDER}{pair[1].partition(PLACEHOLDER)[2]}"


def expand(text: str, pool: Sequence[str], rng: random.Random) -> str:
    """A sentence of another template in front."""
    found = [s for s in sentences(rng.choice(pool)) if PLACEHOLDER not in s]
    return f"{rng.choice(found)} {text}" if found else text


def shorten(text: str, pool: Sequence[str], rng: random.Random) -> str:
    """One sentence less, never the one that holds the question."""
    parts = sentences(text)
    loose = [i for i, part in enumerate(parts) if PLACEHOLDER not in part]
    if not loose:
        return text
    gone = rng.choice(loose)
    return " ".join(part for i, part in enumerate(parts) if i != gone)


# GPTFuzzer's operators on templates that rules can do, named for what they do here; they belong to no split, as the
# sentences that they move are the attacked split's own.
BY_US: Mapping[str, Mutate] = MappingProxyType(
    {"template_crossover": crossover, "template_expand": expand, "template_shorten": shorten}
)
_HARMLESS = ("template_crossover", "template_shorten")


def _registered(arena: Arena) -> dict[str, Mutate]:
    """The registry's operators on templates, of the arena's split."""

    def mutation(apply: Callable[..., str]) -> Mutate:
        return lambda text, pool, rng: apply(text, rng, partner=rng.choice(pool))

    return {o.name: mutation(o.apply) for o in operators(level="template", split=arena.split)}
