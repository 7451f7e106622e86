"""The restricted question asked directly: bare, and with polite noise around it."""

from __future__ import annotations

import random

from jpu.attacks.base import Arena, Attempt, Progress, bare_attempt, complete, wrapped_attempt
from jpu.models import Subject


class Direct:
    """No jailbreak at all: the floor that every attack is measured from."""

    name = "direct"
    cite = "ours"

    def run(
        self, subject: Subject, arena: Arena, rng: random.Random, progress: Progress | None = None
    ) -> list[Attempt]:
        """Each behavior bare, and in ``wordings`` polite wordings."""
        polite = [t for t in arena.templates if t.role == "polite"]
        attempts = []
        for behavior in arena.behaviors:
            attempts.append(bare_attempt(self.name, behavior))
            for template in rng.sample(polite, min(arena.wordings, len(polite))):
                attempts.append(wrapped_attempt(self.name, behavior, template))
        return complete(subject, attempts, arena.max_new_tokens, progress)
