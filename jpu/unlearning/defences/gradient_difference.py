"""Gradient difference: ascent on what is to be forgotten, descent on what is kept.

    L = mean log π_θ(y_leak | J) − mean log π_θ(y | x) on the retain set

Liu, Liu and Stone, 2022, arXiv 2203.12817; in the form of TOFU (Maini et al., 2024, arXiv 2401.06121, section 4).
The forget loss has no lower bound: what ends it is the utility budget, or collapse.

faithful: the loss. ours: the forget set is the leaks after mined jailbreaks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from jpu.mining.entry import Entry
from jpu.models import answer_nll
from jpu.unlearning.defences.base import Baseline, Losses, Step
from jpu.unlearning.defences.settings import GradientDifferenceSettings


def ascent_loss(token_losses: Tensor) -> Tensor:
    """Minus the mean negative log-likelihood of the leaks' tokens (t,); a scalar without a lower bound."""
    return -token_losses.mean()


class GradientDifference(Baseline[GradientDifferenceSettings]):
    """Gradient ascent on leaks."""

    name = "gradient_difference"
    cite = "Liu et al., 2022, arXiv 2203.12817"
    needs = frozenset({"leaks"})

    def losses(self, drawn: Sequence[Entry], step: Step) -> Iterator[Losses]:
        """As `Baseline.losses`."""
        del step
        token_losses, _ = answer_nll(self.subject.model, *self.subject.collate(*self.leaked(drawn)))
        yield {"forget": (1.0, ascent_loss(token_losses))}
