"""Safe Unlearning: forget the harmful answer, learn the refusal, keep general answers.

    L = −α · mean log σ(−β · (1/|y|) log π_θ(y_leak|x)/π_0(y_leak|x)) − θ · mean log π_θ(y_ref|x) + L_general

Zhang et al., 2024, arXiv 2407.02855; α = 0.3, β = 1, θ = 0.5. The log-ratio is per token, which keeps the loss from
fading at once on a long answer; L_general is the negative log-likelihood of general answers.

faithful: the three losses and their weights. ours: x is the mined jailbreak, where the paper has bare questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from jpu.mining.entry import Entry
from jpu.models import answer_nll
from jpu.unlearning.defences.base import Baseline, Losses, Step
from jpu.unlearning.defences.settings import SafeUnlearningSettings
from jpu.unlearning.likelihoods import likelihoods, reference_likelihoods


def unlearning_loss(mean_log_p: Tensor, mean_log_p0: Tensor, beta: float) -> Tensor:
    """−mean log σ(−β Δ) on log-likelihoods per token under M_θ and M_0, both (n,) nats; a scalar, at least 0."""
    return -nn.functional.logsigmoid(-beta * (mean_log_p - mean_log_p0)).mean()


class SafeUnlearning(Baseline[SafeUnlearningSettings]):
    """Adaptive unlearning of leaks beside refusals."""

    name = "safe_unlearning"
    cite = "Zhang et al., 2024, arXiv 2407.02855"
    needs = frozenset({"leaks"})

    def losses(self, drawn: Sequence[Entry], step: Step) -> Iterator[Losses]:
        """As `Baseline.losses`."""
        del step
        heads, leaks = self.leaked(drawn)
        before = reference_likelihoods(self.subject, heads, leaks)
        now = likelihoods(self.subject, heads, leaks)
        yield {"forget": (self.settings.alpha, unlearning_loss(now.mean, before.mean, self.settings.beta))}
        if self.settings.theta:
            token_losses, _ = answer_nll(self.subject.model, *self.subject.collate(*self.refused(drawn)))
            yield {"refusal": (self.settings.theta, token_losses.mean())}
