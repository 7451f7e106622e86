"""Exchanges of single tokens that a gradient suggests (Zou et al., 2023, arXiv 2307.15043, algorithm 1)."""

from __future__ import annotations

import torch
from torch import Tensor


def exchanges(
    suffixes: Tensor,
    slopes: Tensor,
    allowed: Tensor,
    *,
    width: int,
    topk: int,
    replaced: int,
    generator: torch.Generator,
) -> Tensor:
    """Candidates: at random places, one of the tokens that would lower the loss most if it were linear.

    Args:
        suffixes: (b, length) tokens.
        slopes: (b, length, vocabulary) gradient of the loss by the one-hot tokens.
        allowed: (allowed,) tokens that may be put in.
        width: Candidates of each suffix.
        topk: Tokens to choose among, at each place.
        replaced: Places changed in each candidate.
        generator: Source of chance.

    Returns:
        (b, width, length) tokens.
    """
    count, length = suffixes.shape
    steepest = allowed[slopes[..., allowed].neg().topk(min(topk, len(allowed)), -1).indices]
    # A random order of the places, of which the first are taken: each place at most once.
    places = torch.rand(count, width, length, generator=generator).argsort(-1)[..., :replaced]
    which = torch.randint(steepest.shape[-1], (*places.shape, 1), generator=generator)
    rows = torch.arange(count)[:, None, None]
    chosen = steepest[rows, places].gather(-1, which)[..., 0]
    return suffixes[:, None].repeat(1, width, 1).scatter(-1, places, chosen)
