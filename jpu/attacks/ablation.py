"""The direction of refusal taken out of the residual stream while the model answers the bare question.

A direction is the mean of the residual stream at the end of questions that are refused, less that of questions that are
answered. Behaviors are attacked with directions estimated and chosen on the other half of them, so a success is no
matter of one question; a behavior that stands alone is attacked with its own. The prompt of an attempt shows nothing of
it: its history names the layer and the token that the direction is from.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from jpu.adversary.directions import Direction, ablated, random_direction, refusal_directions
from jpu.attacks.adaptive import margins
from jpu.attacks.base import Arena, Attack, Attempt, Budget, Progress, complete, made_attempt, weights_of
from jpu.data.schemas import Behavior
from jpu.errors import SettingsError
from jpu.models import Subject, Target

# Directions, the best of those scored, that the model is asked with.
_TRIED = 3
# Passes that a direction is estimated with, for each behavior: over a refused question, and over an answered one.
_ESTIMATION = 2


class Ablation(Attack):
    """Refusal-direction ablation (Arditi et al., 2024, arXiv 2406.11717); the choice of the direction is ours."""

    name = "ablation"
    cite = "Arditi et al., 2024, arXiv 2406.11717; the choice of the direction is ours"
    least = 3
    contrast = True
    chance = "a direction drawn at random is taken out"
    access = "weights"

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
        """Attempts on the bare questions, one with each of the best directions.

        Raises:
            SettingsError: The arena has no benign question, or the budget does not allow to estimate a direction.
        """
        subject = weights_of(target, self.name)
        if not control:
            _check(arena, budget)
        halves = [list(arena.behaviors[0::2]), list(arena.behaviors[1::2])]
        attempts: dict[str, list[Attempt]] = {b.id: [] for b in arena.behaviors}
        for number, half in enumerate(halves):
            if not half:
                continue
            # The better of what is left of the budget goes into the choice, where there is one.
            tried = max(1, min(_TRIED, (budget.queries - _ESTIMATION) // 2))
            scored = 0
            if control:
                chosen = [random_direction(subject, rng) for _ in range(tried)]
            else:
                chosen, scored = _best(subject, arena, halves[1 - number] or half, budget, tried, rng)
                # Where the two kinds of questions are alike everywhere there is no direction to take out but any.
                chosen = chosen or [random_direction(subject, rng)]
            for order, direction in enumerate(chosen):
                passes = scored + _ESTIMATION if order == 0 and not control else 0
                asked = [_attempt(subject, self.name, b, direction.label, passes) for b in half]
                with ablated(subject, direction.vector):
                    for attempt in complete(subject, asked, arena.max_new_tokens):
                        attempts[attempt.behavior].append(attempt)
            if progress is not None:
                progress(number + 1, len(halves))
        return [attempt for found in attempts.values() for attempt in found]


def _best(
    subject: Subject, arena: Arena, behaviors: Sequence[Behavior], budget: Budget, count: int, rng: random.Random
) -> tuple[list[Direction], int]:
    """The best directions of some behaviors, and how many were scored on each of them.

    Scored is the mean margin of an affirmative opening over a refusal (`jpu.attacks.adaptive`) with the direction taken
    out: a direction without which the model says nothing of sense does not gain by it, and no secret is looked at.
    """
    words = [r.text for r in arena.refusals]
    benign = rng.sample(list(arena.benign), min(len(behaviors), len(arena.benign)))
    found = refusal_directions(subject, [b.query for b in behaviors], [b.query for b in benign], words)
    room = max(count, budget.queries - _ESTIMATION - count)
    found = [found[i] for i in sorted(rng.sample(range(len(found)), min(room, len(found))))]
    if len(found) <= count:
        return found, 0
    scores = []
    for direction in found:
        with ablated(subject, direction.vector):
            scores.append(sum(margins(subject, [b.query for b in behaviors], behaviors, words)))
    order = sorted(range(len(found)), key=lambda i: -scores[i])
    return [found[i] for i in order[:count]], len(found)


def _attempt(subject: Subject, attack: str, behavior: Behavior, history: str, passes: int) -> Attempt:
    spent = {"queries": passes, "tokens": passes * subject.tokens(behavior.query)}
    return made_attempt(attack, behavior, behavior.query, "ablated", history).model_copy(update=spent)


def _check(arena: Arena, budget: Budget) -> None:
    if arena.behaviors and not arena.benign:
        raise SettingsError(
            "the attack 'ablation' needs questions that are answered, to compare with those that are refused",
            mend="Give the arena benign behaviors, or leave the attack out.",
        )
    if budget.queries <= _ESTIMATION:
        raise SettingsError(
            f"the attack 'ablation' cannot be run on {budget.queries} queries a behavior",
            mend=f"Give it at least {_ESTIMATION + 1}; a choice among directions wants some 15.",
        )
