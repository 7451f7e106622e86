"""Random search: parts of the suffix are redrawn, large ones first, and kept where the opening becomes likelier."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from jpu.adversary.suffix_loss import SuffixLoss
from jpu.attacks.suffix import Point, SuffixSearch


class RandomSearch(SuffixSearch):
    """Random search (Andriushchenko et al., 2024, arXiv 2404.02151); several candidates a step, which is ours.

    It needs scores only. The likelier the opening already is, the less of the suffix is redrawn; the likelihoods are
    those of a target token, where the paper has those of its first one.

    Attributes:
        windows: Likelihood of a target token, and the tokens side by side that are redrawn up to it.
    """

    name = "random_search"
    cite = "Andriushchenko et al., 2024, arXiv 2404.02151"
    least = 30
    width = 8
    windows: ClassVar[tuple[tuple[float, int], ...]] = ((0.4, 4), (0.6, 2), (1.0, 1))

    def propose(self, point: Point, loss: SuffixLoss, allowed: Tensor, generator: torch.Generator) -> Tensor:
        """The suffixes with a window of each redrawn."""
        likely = point.losses.neg().exp()
        sizes = [next(size for bound, size in self.windows if p <= bound) for p in likely.tolist()]
        return redrawn(point.suffixes, torch.tensor(sizes), allowed, self.width, generator)


def redrawn(suffixes: Tensor, sizes: Tensor, allowed: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Candidates in which some tokens side by side are drawn anew.

    Args:
        suffixes: (b, length) tokens.
        sizes: (b,) how many tokens are drawn anew, at most all of them.
        allowed: (allowed,) tokens to draw from.
        width: Candidates of each suffix.
        generator: Source of chance.

    Returns:
        (b, width, length) tokens.
    """
    count, length = suffixes.shape
    sizes = sizes.clamp(max=length)[:, None]
    starts = (torch.rand(count, width, generator=generator) * (length - sizes + 1)).long()[..., None]
    places = torch.arange(length)
    inside = (places >= starts) & (places < starts + sizes[..., None])
    drawn = allowed[torch.randint(len(allowed), (count, width, length), generator=generator)]
    return torch.where(inside, drawn, suffixes[:, None])
