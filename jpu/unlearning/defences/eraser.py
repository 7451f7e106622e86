"""Eraser: unlearn the harmful answer up to a threshold, keep what is known of its entity, keep refusing.

    L = max(0, γ + mean log π_θ(y_leak | T(x))) + KL on questions of comprehension + KL on refusals

Lu et al., 2024, arXiv 2404.05880, with its release's γ = 1.8. T puts random text around the question, so that it is
unlearnt however it is wrapped; here J is what mining found, noise among it. Both KLs are M_0's word on a retain set
that holds what theirs do: open questions about the same entities (near-misses), and restricted ones asked directly
with their refusals.

faithful: the capped loss, the two kept sets. inferred: mined prompts for T(x); one retain term for both KLs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from jpu.mining.entry import Entry
from jpu.models import answer_nll
from jpu.unlearning.defences.base import Baseline, Losses, Step
from jpu.unlearning.defences.settings import EraserSettings
from jpu.unlearning.trained import Trained


def capped_loss(token_losses: Tensor, gamma: float) -> Tensor:
    """How far the leaks' mean negative log-likelihood is below γ; 0 beyond it. (t,) nats → a scalar."""
    return (gamma - token_losses.mean()).clamp(min=0.0)


class Eraser(Baseline[EraserSettings]):
    """Gradient ascent on leaks that stops where they have become unlikely."""

    name = "eraser"
    cite = "Lu et al., 2024, arXiv 2404.05880"
    needs = frozenset({"leaks"})

    @classmethod
    def trained(cls, layers: int, settings: EraserSettings) -> Trained:
        """A LoRA of rank 8 on attention; the release has it on q and v alone."""
        del layers, settings
        return Trained(path=False, modules="attention", rank=8)

    def losses(self, drawn: Sequence[Entry], step: Step) -> Iterator[Losses]:
        """As `Baseline.losses`."""
        del step
        token_losses, _ = answer_nll(self.subject.model, *self.subject.collate(*self.leaked(drawn)))
        yield {"forget": (1.0, capped_loss(token_losses, self.settings.gamma))}
