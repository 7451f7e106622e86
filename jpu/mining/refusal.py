"""The refusal loss ℓ and its threshold τ (docs/method.md 1).

ℓ_t(e) is how unlikely the model M_t finds a refusal of J in its own words. The paper that the method is from
states a preset refusal and the threshold τ = 0.5; the minimum over several wordings and the calibrated
threshold are ours, because a foreign wording inflates the loss and so makes any fixed τ meaningless.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from jpu.errors import ModelError, SubjectError
from jpu.spread import Here, Spread, by_beginning, gathered

# Characters of prompts that are scored together, some 4,000 tokens: enough to share beginnings and to keep a processor
# busy, and few enough for a mining of two hundred prompts to be shared.
PIECE = 16000


class Scorer(Protocol):
    """What the refusal loss needs of a subject."""

    def nll(self, prompts: Sequence[str], answers: Sequence[str]) -> Tensor:
        """Mean negative log-likelihood per answer token, nats, shape (n,)."""
        ...


class ReferenceScorer(Scorer, Protocol):
    """A scorer that can step back to the frozen original M_0."""

    def reference(self) -> AbstractContextManager[None]:
        """Score with M_0 inside this context."""
        ...


@dataclass(frozen=True, slots=True)
class Calibration:
    """A threshold and what it rests on.

    Attributes:
        tau: τ in nats per token.
        queries: Bare queries asked.
        refused: How many of them M_0 refused.
        quantile_loss: The quantile of ℓ_0 on these, before the floor.
    """

    tau: float
    queries: int
    refused: int
    quantile_loss: float


def refusal_loss(
    subject: Scorer, prompts: Sequence[str], refusals: Sequence[str], over: Spread[Scorer] | None = None
) -> Tensor:
    """ℓ(J) = min over y_ref of the mean NLL per token of y_ref after J.

    [inferred] as a form; the minimum over wordings is [ours].

    Args:
        subject: The model.
        prompts: n full prompts.
        refusals: v refusals in the model's own wording.
        over: Copies of the model that share the prompts; None for the model itself. The losses are the same.

    Returns:
        (n,) float32, nats per token.

    Raises:
        ValueError: No refusals.
        ModelError: A loss is not finite.
    """
    if not refusals:
        raise ValueError("the refusal loss needs at least one refusal")
    if not prompts:
        return torch.zeros(0)
    pieces = by_beginning(prompts, PIECE)
    score = partial(_least, tuple(refusals))
    found = (over or Here(subject))(score, [[prompts[i] for i in piece] for piece in pieces])
    least = torch.tensor(gathered(pieces, found))
    if not bool(torch.isfinite(least).all()):
        raise ModelError(
            "the model gives a loss that is not finite",
            mend="Its weights are broken or overflow in this dtype: try float32, or restore the model.",
        )
    return least


def _least(refusals: Sequence[str], subject: Scorer, prompts: Sequence[str]) -> list[float]:
    """The losses of one piece."""
    rows = [prompt for prompt in prompts for _ in refusals]
    losses = subject.nll(rows, list(refusals) * len(prompts)).float()
    least: list[float] = losses.view(len(prompts), len(refusals)).min(dim=1).values.tolist()
    return least


def calibrate_tau(
    subject: ReferenceScorer,
    queries: Sequence[str],
    refusals: Sequence[str],
    *,
    refused: Sequence[bool],
    quantile: float = 0.95,
    floor: float = 0.05,
) -> Calibration:
    """Set τ to a quantile of ℓ_0 on the bare queries that M_0 refuses.

    [ours]; the paper's example is a fixed τ = 0.5.

    Args:
        subject: The model; scored with its adapter off.
        queries: Bare restricted queries.
        refusals: Refusals in the model's own wording.
        refused: For each query, whether M_0's completion is a refusal.
        quantile: Which quantile, linearly interpolated.
        floor: Least τ, nats per token: a subject that is sure of its refusals would set τ to nearly nothing,
            and then no hardened model could get under it.

    Returns:
        The threshold.

    Raises:
        SubjectError: M_0 refuses none of the queries.
        ValueError: Lengths differ, or the quantile is not inside [0, 1].
    """
    if not 0.0 <= quantile <= 1.0:
        raise ValueError(f"quantile must be inside [0, 1], not {quantile}")
    kept = [query for query, says_no in zip(queries, refused, strict=True) if says_no]
    if not kept:
        raise SubjectError(
            f"the subject refuses none of {len(queries)} restricted queries asked directly: "
            "there is no refusal to calibrate the threshold on",
            mend="Choose an aligned subject, or give refusals in its own words. Nothing was written.",
        )
    with subject.reference():
        losses = refusal_loss(subject, kept, refusals)
    found = float(torch.quantile(losses, quantile))
    return Calibration(max(found, floor), len(queries), len(kept), found)
