"""Greedy coordinate gradient: tokens of the suffix are exchanged where the gradient says that it helps most."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from jpu.adversary.exchanges import exchanges
from jpu.adversary.suffix_loss import SuffixLoss
from jpu.attacks.suffix import Point, SuffixSearch


class GCG(SuffixSearch):
    """GCG (Zou et al., 2023, arXiv 2307.15043), algorithm 1, which never goes to a worse suffix.

    Attributes:
        topk: Tokens with the steepest slope that are tried at a place.
        replaced: Places changed in each candidate.
    """

    name = "gcg"
    cite = "Zou et al., 2023, arXiv 2307.15043"
    least = 105
    width = 32
    gradients = 1
    topk: ClassVar[int] = 64
    replaced: ClassVar[int] = 1

    def propose(self, point: Point, loss: SuffixLoss, allowed: Tensor, generator: torch.Generator) -> Tensor:
        """Random exchanges among those with the steepest slopes."""
        _, slopes = loss.slopes(point.behaviors, point.suffixes)
        return exchanges(
            point.suffixes,
            slopes,
            allowed,
            width=self.width,
            topk=self.topk,
            replaced=self.replaced,
            generator=generator,
        )
