"""The jailbreak entries that a stretch of training draws its batches from."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jpu.mining.entry import Entry


@dataclass(frozen=True)
class Mined:
    """The jailbreak entries of the next stretch of steps.

    Attributes:
        live: Those that the model did not refuse when it was last asked (now, or at an earlier mining).
        scored: All that were scored in this round, the live ones among them.
        fresh_rate: Share of the fresh pairs that got through now.
    """

    live: Sequence[Entry]
    scored: Sequence[Entry]
    fresh_rate: float

    def draw(self, size: int, rng: random.Random) -> list[Entry]:
        """A batch: up to half of it live, the rest of all that was scored, or few live ones would be all it sees."""
        live = rng.sample(self.live, min(size // 2, len(self.live)))
        return live + rng.sample(self.scored, min(size - len(live), len(self.scored)))


# Mines against the model as it is; given the number of the stretch.
Refresh = Callable[[int], Mined]
