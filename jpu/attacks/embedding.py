"""A soft prompt that makes the model begin an affirmative answer: vectors that are those of no word.

The prompt of an attempt ends in stand-in words, whose vectors were moved; by how many steps stands in its history. The
loss is that of the opening alone, so whether the secret follows shows only in what the model says, and it is asked at
several points of the search.
"""

from __future__ import annotations

import random

import torch

from jpu.adversary.soft_prompts import SoftPrompts
from jpu.attacks.base import Arena, Attack, Attempt, Budget, Progress, made_attempt, weights_of
from jpu.attacks.prefill import opening
from jpu.models import Target

# As few vectors as a few words have, moved by as much as a token's own length: what is drawn at random so says nothing
# to the sandbox subject. Twenty of them, a quarter as far, are enough noise by themselves for some subjects.
_VECTORS = 5
_RADIUS = 1.0
_STRIDE = 0.2
# Most points of the search at which the model is asked, and passes for each of them.
_STOPS, _APART = 8, 4


class Embedding(Attack):
    """Embedding-space attack (Schwinn et al., 2024, arXiv 2402.09063): signed gradient descent on a soft prompt.

    The ball that the vectors stay in is ours: it gives chance a distance to be measured at.
    """

    name = "embedding"
    cite = "Schwinn et al., 2024, arXiv 2402.09063; the bound on the distance is ours"
    chance = "the same vectors moved as far as the attack may, in directions drawn at random"
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
        """A soft prompt for each behavior, and an attempt with it at each of several points of its search."""
        subject = weights_of(target, self.name)
        behaviors, openings = list(arena.behaviors), [subject.encode(opening(b)) for b in arena.behaviors]
        soft = SoftPrompts(
            subject, [b.query for b in behaviors], openings, vectors=_VECTORS, radius=_RADIUS, stride=_STRIDE
        )
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        attempts: list[list[Attempt]] = [[] for _ in behaviors]
        stops = stopping_points(budget.queries)
        for number, (before, stop) in enumerate(zip([0, *stops], stops, strict=False)):
            steps = 0 if control else stop - before
            for _ in range(steps):
                soft.step()
            if control:
                soft.scatter(generator)
            history = f"random-{_VECTORS}" if control else f"soft-{_VECTORS}x{stop}"
            for i, text in enumerate(soft.complete(arena.max_new_tokens)):
                attempt = made_attempt(self.name, behaviors[i], soft.prompts[i], "soft", history)
                asked = subject.tokens(soft.prompts[i]) + subject.tokens(text)
                spent = {"queries": steps + 1, "tokens": steps * soft.tokens[i] + asked}
                attempts[i].append(attempt.model_copy(update={"completion": text, **spent}))
            if progress is not None:
                progress(number + 1, len(stops))
        return [attempt for found in attempts for attempt in found]


def stopping_points(queries: int) -> list[int]:
    """Steps after which the model is asked: evenly spread, steps and questions together no more than the budget."""
    asked = max(1, min(_STOPS, queries // _APART))
    return [(queries - asked) * (i + 1) // asked for i in range(asked)]
