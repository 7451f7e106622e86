"""The assistant's first words given: refusals that hang on the first tokens are passed by."""

from __future__ import annotations

import random

from jpu.attacks.base import Arena, Attempt, Progress, bare_attempt, complete
from jpu.attacks.static import wrap
from jpu.data.schemas import Behavior
from jpu.models import Subject

_STOCK = "Sure, here is"


class Prefill:
    """Prefilling (Andriushchenko et al., 2024, arXiv 2404.02151): template jailbreaks with the affirmative opening."""

    name = "prefill"
    cite = "Andriushchenko et al., 2024, arXiv 2404.02151"

    def run(
        self, subject: Subject, arena: Arena, rng: random.Random, progress: Progress | None = None
    ) -> list[Attempt]:
        """Each behavior bare and in one wording of every family, the answer's opening put into the model's mouth."""
        openings = {b.id: opening(b) for b in arena.behaviors}
        bare = [bare_attempt(self.name, b) for b in arena.behaviors]
        attempts = [
            a.model_copy(update={"prefill": openings[a.behavior]}) for a in [*bare, *wrap(arena, rng, self.name, 1)]
        ]
        return complete(subject, attempts, arena.max_new_tokens, progress)


def opening(behavior: Behavior) -> str:
    """The affirmative answer up to its secret: what an attacker knows without knowing the secret.

    Without a known secret it is the first third of the target. A stock phrase where there is no target, or nothing
    stands before its secret: an empty opening would be no attack at all.
    """
    at = behavior.answer.lower().find(behavior.secret.lower()) if behavior.secret else -1
    if at >= 0:
        return behavior.answer[:at].rstrip() or _STOCK
    words = behavior.answer.split()
    return " ".join(words[: max(1, len(words) // 3)]) if words else _STOCK
