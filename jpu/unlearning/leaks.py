"""The answer that a behavior must not get, in tokens, and where it may be broken off."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from jpu.models import Subject


@dataclass(frozen=True)
class Leak:
    """The answer that a behavior must not get, in tokens.

    Attributes:
        opening: Tokens before the secret (all but the last third, where the secret is not known).
        secret: The tokens that give it away.
    """

    opening: Sequence[int]
    secret: Sequence[int]

    @property
    def whole(self) -> list[int]:
        """Opening and secret."""
        return [*self.opening, *self.secret]


def split_leak(subject: Subject, answer: str, secret: str) -> Leak:
    """Cut an affirmative answer where its secret begins."""
    ids = subject.answer_ids(answer)
    ids = ids[: len(ids) - len(subject.answer_ids(""))]
    at = answer.find(secret) if secret else -1
    if at < 0:
        cut = len(ids) * 2 // 3
        return Leak(ids[:cut], ids[cut:])
    # The secret's first token holds the space before it, so the cut is made in the text and counted in tokens.
    opening = subject.answer_ids(answer[:at].rstrip())
    opening = opening[: len(opening) - len(subject.answer_ids(""))]
    # Where a token spans the cut, it belongs to the secret.
    shared = next((i for i, pair in enumerate(zip(opening, ids, strict=False)) if pair[0] != pair[1]), len(opening))
    return Leak(ids[:shared], ids[shared:])


def broken_off(leak: Leak, rng: random.Random) -> Sequence[int]:
    """The leak's first tokens: often all of its opening, else fewer, or some of the secret as well."""
    whole = leak.whole
    if rng.random() < 0.5:
        return leak.opening
    return whole[: rng.randint(1, max(1, len(whole) - 1))]
