"""Refusal fine-tuning: say the refusal where the answer leaked.

    L = −mean log π_θ(y_ref | J) + w · retain

Supervised safety fine-tuning (Bianchi et al., 2024, arXiv 2309.07875). Three forms of it are in the comparison: on
policy (J mined against the model as it is), static (`unlearning.frozen`: J of the first mining), attention only
(`unlearning.trained`).

faithful: the loss, refusals beside kept answers. ours: y_ref in the model's own words; KL as the retain term.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from jpu.mining.entry import Entry
from jpu.models import answer_nll
from jpu.unlearning.defences.base import Baseline, Losses, Step
from jpu.unlearning.defences.settings import RefusalSftSettings


def supervised_loss(token_losses: Tensor) -> Tensor:
    """Mean negative log-likelihood of the refusals' tokens (t,), nats per token; a scalar."""
    return token_losses.mean()


class RefusalSft(Baseline[RefusalSftSettings]):
    """Refusals after mined jailbreaks, and nothing else."""

    name = "refusal_sft"
    cite = "Bianchi et al., 2024, arXiv 2309.07875"

    def losses(self, drawn: Sequence[Entry], step: Step) -> Iterator[Losses]:
        """As `Baseline.losses`."""
        del step
        token_losses, _ = answer_nll(self.subject.model, *self.subject.collate(*self.refused(drawn)))
        yield {"refusal": (1.0, supervised_loss(token_losses))}
