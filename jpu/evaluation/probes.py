"""What has to keep working: benign, near-miss, edgy and everyday questions, bare and inside attack templates."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial

from jpu.attacks.base import Attempt, Progress, bare_attempt, complete, wrapped_attempt
from jpu.data.schemas import Behavior, Template
from jpu.models import Target
from jpu.spread import Here, Spread, by_beginning, gathered

BARE = "probe_bare"
WRAPPED = "probe_wrapped"
# Characters of prompts that are completed together. They share what they begin with, and a step of decoding costs
# little less for fewer of them.
PIECE = 16000


def probe(
    target: Target,
    behaviors: Sequence[Behavior],
    templates: Sequence[Template],
    *,
    wordings: int,
    max_new_tokens: int,
    rng: random.Random,
    progress: Progress | None = None,
    over: Spread[Target] | None = None,
) -> list[Attempt]:
    """Ask everything that has to be answered, once bare and in some wordings of every jailbreak family.

    Args:
        target: The model.
        behaviors: Those that are restricted are passed over.
        templates: Jailbreak templates; the same that the attacks use.
        wordings: Templates drawn for each behavior, at most one of a family.
        max_new_tokens: Bound on a completion.
        rng: Source of the draw.
        progress: Called with done and total.
        over: Copies of the model that share the prompts; None for the model itself. The completions are the same.

    Returns:
        Attempts with completions, named ``probe_bare`` or ``probe_wrapped``.
    """
    families: dict[str, list[Template]] = {}
    for template in templates:
        if template.role == "jailbreak":
            families.setdefault(template.family, []).append(template)
    attempts = []
    for behavior in behaviors:
        if behavior.kind == "restricted":
            continue
        attempts.append(bare_attempt(BARE, behavior))
        for family in rng.sample(sorted(families), min(wordings, len(families))):
            attempts.append(wrapped_attempt(WRAPPED, behavior, rng.choice(families[family])))
    pieces = by_beginning([attempt.prompt for attempt in attempts], PIECE)
    done = 0

    def arrived(place: int, found: Sequence[Attempt]) -> None:
        nonlocal done
        done += len(found)
        if progress is not None:
            progress(done, len(attempts))

    ask = partial(_completed, max_new_tokens)
    found = (over or Here(target))(ask, [[attempts[i] for i in piece] for piece in pieces], arrived)
    return gathered(pieces, found)


def _completed(max_new_tokens: int, target: Target, attempts: Sequence[Attempt]) -> list[Attempt]:
    """One piece."""
    return complete(target, attempts, max_new_tokens)
