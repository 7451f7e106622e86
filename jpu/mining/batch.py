"""What a round of mining found, and its counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from jpu.mining.entry import Entry


@dataclass(frozen=True, slots=True)
class Tally:
    """Prompts scored, and how many of them were above τ."""

    scored: int
    above: int

    @classmethod
    def of(cls, entries: Iterable[Entry], tau: float) -> Self:
        """Count scored entries. Raises ValueError where one has no loss."""
        losses = [entry.known_loss for entry in entries]
        return cls(len(losses), sum(loss > tau for loss in losses))

    @property
    def rate(self) -> float:
        """Share above τ; 0 when nothing was scored."""
        return self.above / self.scored if self.scored else 0.0


@dataclass(frozen=True, slots=True)
class Batch:
    """What one round of mining found.

    Attributes:
        parents: Start entries (revisited and fresh) above τ.
        offspring: Mutations, above τ or not.
        start: Tally of the start entries.
        fresh: Tally of those of them that were not in the buffer.
        bred: Tally of the offspring.
        by_family: Tally per template family, of everything scored.
        by_operator: Tally per operator, of the offspring in whose last step it took part.
        mean_loss: Mean refusal loss of everything scored, nats per token.
    """

    parents: tuple[Entry, ...]
    offspring: tuple[Entry, ...]
    start: Tally
    fresh: Tally
    bred: Tally
    by_family: dict[str, Tally]
    by_operator: dict[str, Tally]
    mean_loss: float

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All that was scored and kept: parents, and offspring above τ or not."""
        return self.parents + self.offspring

    def above(self, tau: float) -> tuple[Entry, ...]:
        """B_t: parents and offspring that the model does not refuse."""
        return tuple(entry for entry in self.entries if entry.known_loss > tau)

    def metrics(self) -> dict[str, object]:
        """Rates and counts as nested numbers."""
        return {
            "parent_rate": self.start.rate,
            "fresh_rate": self.fresh.rate,
            "offspring_rate": self.bred.rate,
            "start": self.start.scored,
            "parents": len(self.parents),
            "offspring": len(self.offspring),
            "mean_loss": self.mean_loss,
            "family": _numbers(self.by_family),
            "operator": _numbers(self.by_operator),
        }


def tallies(named: Iterable[tuple[str, Entry]], tau: float) -> dict[str, Tally]:
    """Tally (name, entry) pairs per name, names sorted."""
    groups: dict[str, list[Entry]] = {}
    for name, entry in named:
        groups.setdefault(name, []).append(entry)
    return {name: Tally.of(groups[name], tau) for name in sorted(groups)}


def _numbers(tallied: dict[str, Tally]) -> dict[str, dict[str, int]]:
    return {name: {"scored": tally.scored, "above": tally.above} for name, tally in tallied.items()}
