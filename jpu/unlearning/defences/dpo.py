"""DPO: the refusal preferred to the leak.

    L = −mean log σ(β (log π_θ(y_ref|J)/π_0(y_ref|J) − log π_θ(y_leak|J)/π_0(y_leak|J))) + w · retain

Rafailov et al., 2023, arXiv 2305.18290, eq. 7; β = 0.1. TRL has this loss only inside its trainer, which brings a loop,
a data format and the package `datasets` of its own; these are the same two lines.

faithful: the loss. ours: refusal and leak after mined jailbreaks as the pair; a retain term beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from jpu.mining.entry import Entry
from jpu.unlearning.defences.base import Baseline, Losses, Step
from jpu.unlearning.defences.settings import DpoSettings
from jpu.unlearning.likelihoods import likelihoods, reference_likelihoods


def dpo_loss(preferred: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Eq. 7 on log-ratios log π_θ/π_0 of whole answers, both (n,) nats; a scalar, at least 0."""
    return -nn.functional.logsigmoid(beta * (preferred - rejected)).mean()


class Dpo(Baseline[DpoSettings]):
    """Preference of M_0's own refusal over the leak."""

    name = "dpo"
    cite = "Rafailov et al., 2023, arXiv 2305.18290, eq. 7"
    needs = frozenset({"leaks"})

    def losses(self, drawn: Sequence[Entry], step: Step) -> Iterator[Losses]:
        """As `Baseline.losses`; both answers go through in one pass."""
        del step
        (heads, refusals), (_, leaks) = self.refused(drawn), self.leaked(drawn)
        both = [*heads, *heads], [*refusals, *leaks]
        ratios = likelihoods(self.subject, *both).total - reference_likelihoods(self.subject, *both).total
        yield {"preference": (1.0, dpo_loss(ratios[: len(drawn)], ratios[len(drawn) :], self.settings.beta))}
