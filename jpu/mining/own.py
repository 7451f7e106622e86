"""Wordings that mining tries beside the data's templates: none at all, and noise.

Bare questions are mutated as those in templates are: a careless or reworded question needs no template to get
through. Noise is what searches for adversarial suffixes start from, and what weak ones end with.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from jpu.data.schemas import PLACEHOLDER, Split, Template

BARE, NOISE = "mining-bare", "mining-noise"
# Most pieces of noise; their number is drawn evenly over its logarithm, for a few are the rule in attacks on tokens.
_LONGEST = 24
# Shares of noise behind the question and in front of it; the rest is on both sides.
_BEHIND, _BEFORE = 0.6, 0.2


def bare(split: Split) -> Template:
    """The question as it is."""
    return Template(id=BARE, family=BARE, text=PLACEHOLDER, split=split, source="mining")


def noise(pieces: Sequence[str], count: int, split: Split, rng: random.Random) -> list[Template]:
    """Random pieces of the vocabulary around the question.

    Args:
        pieces: What noise is made of, spaces included; those with braces are left out. None makes none.
        count: Wordings to draw.
        split: Their split.
        rng: Source of chance.
    """
    # A brace could make a second placeholder.
    usable = [piece for piece in pieces if not set(piece) & set("{}")]
    if not usable:
        return []
    texts = []
    for _ in range(count):
        drawn = [rng.choice(usable) for _ in range(round(math.exp(rng.uniform(0.0, math.log(_LONGEST)))))]
        where = rng.random()
        cut = 0 if where < _BEHIND else len(drawn) if where < _BEHIND + _BEFORE else rng.randint(0, len(drawn))
        texts.append(f"{''.join(drawn[:cut])} {PLACEHOLDER}{''.join(drawn[cut:])}".strip())
    return [Template(id=NOISE, family=NOISE, text=text, split=split, source="mining") for text in texts]
