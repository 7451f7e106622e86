"""How likely answers are under M_θ, with a graph, and under M_0, without one; whole answers, a row each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jpu.models import Subject, answer_nll


@dataclass(frozen=True)
class Likelihoods:
    """Log-likelihoods of n answers.

    Attributes:
        total: (n,) nats, summed over the tokens of each.
        tokens: (n,) tokens of each.
    """

    total: Tensor
    tokens: Tensor

    @property
    def mean(self) -> Tensor:
        """(n,) nats per token."""
        return self.total / self.tokens


def likelihoods(subject: Subject, heads: Sequence[Sequence[int]], tails: Sequence[Sequence[int]]) -> Likelihoods:
    """Of each tail after its head, under the subject as it is; differentiable.

    Args:
        subject: M_θ.
        heads: n prompts, in tokens.
        tails: n answers, in tokens, none of them empty.
    """
    losses, owner = answer_nll(subject.model, *subject.collate(heads, tails))
    sums = torch.zeros(len(tails), device=losses.device).index_add(0, owner, -losses)
    return Likelihoods(sums, torch.tensor([len(tail) for tail in tails], device=losses.device))


@torch.no_grad()
def reference_likelihoods(
    subject: Subject, heads: Sequence[Sequence[int]], tails: Sequence[Sequence[int]]
) -> Likelihoods:
    """The same under M_0: one more forward pass, and no second model."""
    with subject.reference():
        return likelihoods(subject, heads, tails)
