"""The restricted question asked directly: bare, and with polite noise around it."""

from __future__ import annotations

import random

from jpu.attacks.base import Arena, Attempt, Progress, complete
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
            common = {"attack": self.name, "behavior": behavior.id, "entity": behavior.entity}
            attempts.append(Attempt(**common, family="bare", template="bare", prompt=behavior.query))
            for template in rng.sample(polite, min(arena.wordings, len(polite))):
                prompt = template.text.replace("{query}", behavior.query)
                attempts.append(Attempt(**common, family="polite", template=template.id, prompt=prompt))
        return complete(subject, attempts, arena.max_new_tokens, progress)
