"""NPO: negative preference optimisation, the losing half of DPO by itself.

    L = (2/β) · mean log(1 + (π_θ(y|x) / π_0(y|x))^β) over leaks y, plus KL(π_0‖π_θ) on the retain set (NPO+KL)

Zhang, Lin, Bai and Mei, 2024, arXiv 2404.05868, eq. 3; β = 0.1. Gradient difference is its limit for β → 0.

faithful: the loss, probabilities of whole answers, the KL. ours: leaks after mined jailbreaks as the forget set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from jpu.mining.entry import Entry
from jpu.unlearning.defences.base import Baseline, Losses, Step
from jpu.unlearning.defences.settings import NpoSettings
from jpu.unlearning.likelihoods import likelihoods, reference_likelihoods


def npo_loss(log_p: Tensor, log_p0: Tensor, beta: float) -> Tensor:
    """Eq. 3 on log-likelihoods of whole answers under M_θ and M_0, both (n,) nats; a scalar, at least 0."""
    return -nn.functional.logsigmoid(-beta * (log_p - log_p0)).mean() * 2 / beta


class Npo(Baseline[NpoSettings]):
    """Leaks made less likely than M_0 found them, with a force that fades as they become so."""

    name = "npo"
    cite = "Zhang et al., 2024, arXiv 2404.05868, eq. 3"
    needs = frozenset({"leaks"})

    def losses(self, drawn: Sequence[Entry], step: Step) -> Iterator[Losses]:
        """As `Baseline.losses`."""
        del step
        heads, tails = self.leaked(drawn)
        before = reference_likelihoods(self.subject, heads, tails)
        now = likelihoods(self.subject, heads, tails)
        yield {"forget": (1.0, npo_loss(now.total, before.total, self.settings.beta))}
