"""Fixed jailbreak templates around the restricted question."""

from __future__ import annotations

import random

from jpu.attacks.base import Arena, Attempt, Progress, complete, wrapped_attempt
from jpu.models import Subject


class Static:
    """Template jailbreaks (Liu et al., 2023, arXiv 2305.13860), nothing adapted to the model."""

    name = "static"
    cite = "Liu et al., 2023, arXiv 2305.13860"

    def run(
        self, subject: Subject, arena: Arena, rng: random.Random, progress: Progress | None = None
    ) -> list[Attempt]:
        """Each behavior in ``wordings`` wordings of every family."""
        return complete(subject, wrap(arena, rng, self.name, arena.wordings), arena.max_new_tokens, progress)


def wrap(arena: Arena, rng: random.Random, attack: str, wordings: int) -> list[Attempt]:
    """Attempts without completions: every behavior × family, some wordings of each."""
    return [
        wrapped_attempt(attack, behavior, template)
        for behavior in arena.behaviors
        for templates in arena.families().values()
        for template in rng.sample(templates, min(wordings, len(templates)))
    ]
