"""A jailbreak inside a jailbreak: the question in a wording of one family, and that in a wording of another.

Harder than either for a defence that has learnt the families of its training by their look: no training data is
nested, and both families are unseen.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from jpu.attacks.base import Arena, Attack, Attempt, Budget, Progress, complete, made_attempt
from jpu.data.schemas import PLACEHOLDER, Behavior, Template
from jpu.models import Target


class Nested(Attack):
    """Scenario nesting in two layers of fixed wordings.

    After DeepInception (Li et al., 2023, arXiv 2311.03191) and ReNeLLM (Ding et al., 2023, arXiv 2311.08268).
    """

    name = "nested"
    cite = "Li et al., 2023, arXiv 2311.03191; Ding et al., 2023, arXiv 2311.08268"
    chance = "two harmless wordings, one inside the other"
    unit = "prompt"

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
        """Each behavior in as many pairs of families as the budget allows, another wording of each every time."""
        families = {"polite": arena.polite()} if control else arena.families()
        attempts = [
            attempt for b in arena.behaviors for attempt in self._wrapped(b, families, budget.queries, arena, rng)
        ]
        return complete(target, attempts, arena.max_new_tokens, progress)

    def _wrapped(
        self,
        behavior: Behavior,
        families: Mapping[str, Sequence[Template]],
        count: int,
        arena: Arena,
        rng: random.Random,
    ) -> list[Attempt]:
        names = list(families)
        # A family is nested in itself only where there is no other one.
        pairs = [(outer, inner) for outer in names for inner in names if outer != inner or len(names) == 1]
        made = []
        for outer, inner in rng.sample(pairs, min(count, len(pairs))):
            wording = rng.choice(families[outer]).text.replace(PLACEHOLDER, rng.choice(families[inner]).text)
            prompt = wording.replace(PLACEHOLDER, behavior.query)
            # Too long for the arena: one layer is what is left of it.
            if not arena.fits(prompt):
                prompt = rng.choice(families[inner]).text.replace(PLACEHOLDER, behavior.query)
            made.append(made_attempt(self.name, behavior, prompt, f"{outer}+{inner}", outer, inner))
        return made
