"""On-policy mining: find the prompts that the current model does not refuse (docs/method.md 1).

Start from fresh template × query pairs and from the buffer, score them under M_t, mutate the queries of those
above τ, score the offspring, and go on from what is still above τ. Copies of the model may share the scoring.

Does not train, generate, read or write; sees one split only.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from jpu.mining.batch import Batch, Tally, tallies
from jpu.mining.breeding import Breeder, MiningSettings, Seeds, unseen
from jpu.mining.buffer import Buffer
from jpu.mining.entry import Entry
from jpu.mining.refusal import Scorer, refusal_loss
from jpu.spread import Spread

__all__ = ["Batch", "MiningSettings", "Seeds", "mine"]


def mine(
    subject: Scorer,
    seeds: Seeds,
    buffer: Buffer,
    settings: MiningSettings,
    rng: random.Random,
    over: Spread[Scorer] | None = None,
) -> Batch:
    """Mine one round; the buffer takes in what is above τ and lets go of what stays low.

    Args:
        subject: M_t.
        seeds: Queries, templates and refusals.
        buffer: The buffer so far; changed in place.
        settings: τ and the budget.
        rng: The only source of chance.
        over: Copies of the model that share the scoring; None for the model itself. The batch is the same.

    Returns:
        B_t with its tallies; without parents when the model refuses everything that was tried.

    Raises:
        DataError: No restricted behavior, jailbreak template or refusal in the split.
        ModelError: The model's losses are not finite.
    """
    breeder = Breeder(seeds, settings, rng)
    refusals = [refusal.text for refusal in seeds.refusals]

    def score(entries: Sequence[Entry]) -> list[Entry]:
        losses = refusal_loss(subject, [entry.prompt for entry in entries], refusals, over).tolist()
        return [entry.model_copy(update={"loss": loss}) for entry, loss in zip(entries, losses, strict=True)]

    number = settings.round if settings.number is None else settings.number
    due = settings.rescore_every > 0 and number % settings.rescore_every == 0
    old = buffer.sample(len(buffer) if due else settings.revisit, rng)
    known = {entry.prompt for entry in buffer}
    fresh = unseen(breeder.fresh(), known)

    tau = settings.tau
    start = score([*old, *fresh])
    for entry in start[: len(old)]:
        buffer.visit(entry.id, entry.known_loss, tau)
    parents = _above(start, tau)
    for entry in _above(start[len(old) :], tau):
        buffer.add(entry)

    offspring: list[Entry] = []
    breeding = list(parents)
    for _ in range(settings.iterations):
        children = score(breeder.breed(breeding, known))
        above = _above(children, tau)
        for entry in above:
            buffer.add(entry)
        breeding += above
        offspring += children

    scored = [*start, *offspring]
    made = ((name, entry) for entry in offspring for name in breeder.last_operators(entry))
    return Batch(
        parents=tuple(parents),
        offspring=tuple(offspring),
        start=Tally.of(start, tau),
        fresh=Tally.of(start[len(old) :], tau),
        bred=Tally.of(offspring, tau),
        by_family=tallies(((entry.family, entry) for entry in scored), tau),
        by_operator=tallies(made, tau),
        mean_loss=sum(entry.known_loss for entry in scored) / len(scored) if scored else 0.0,
    )


def _above(entries: Sequence[Entry], tau: float) -> list[Entry]:
    return [entry for entry in entries if entry.known_loss > tau]
