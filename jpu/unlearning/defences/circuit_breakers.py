"""Circuit breakers: streams of harmful answers are rerouted away from where they were.

    L = α (1 − t/2T) · mean ReLU(cos(h_θ, h_0)) on leaks  +  α t/2T · mean ‖h_θ − h_0‖₂ on the retain set

Zou et al., 2024, arXiv 2406.04313, algorithm 1; α = 10, layers 10 and 20 of 32, a LoRA of rank 16 on all linear
matrices up to the upper one. h are streams behind these layers.

A LoRA that starts at zero starts at h_θ = h_0, where the cosine is at its maximum and has no gradient: trained exactly,
nothing would ever move. So factors that are zero start at noise of a small standard deviation here, `start`. [ours]

faithful: losses, schedule, layers, trained part. ours: leaks after mined jailbreaks; by default only the tokens that
say an answer are rerouted (`tokens: all` for all), see `rmu.py`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from jpu.mining.entry import Entry
from jpu.unlearning.adapter import trainable_parameters
from jpu.unlearning.defences.base import Baseline, Losses, Materials, Step
from jpu.unlearning.defences.settings import CircuitBreakersSettings
from jpu.unlearning.streams import real, reference_streams, saying, streams
from jpu.unlearning.trained import Trained, at_depth


def rerouting_loss(now: Tensor, before: Tensor) -> Tensor:
    """Mean ReLU of the cosine between streams under M_θ and M_0, both (…, width); a scalar in [0, 1]."""
    return nn.functional.cosine_similarity(now, before, dim=-1).relu().mean()


def keeping_loss(now: Tensor, before: Tensor) -> Tensor:
    """Mean Euclidean distance between streams under M_θ and M_0, both (…, width); a scalar."""
    # The norm has no gradient at 0, where training starts.
    return ((now - before).square().sum(-1) + 1e-12).sqrt().mean()


def coefficients(step: int, steps: int, alpha: float) -> tuple[float, float]:
    """Weights of rerouting and of keeping at a step: one falls from α to α/2, the other rises from 0 to α/2."""
    kept = alpha * step / (2 * steps)
    return alpha - kept, kept


class CircuitBreakers(Baseline[CircuitBreakersSettings]):
    """Representation rerouting."""

    name = "circuit_breakers"
    cite = "Zou et al., 2024, arXiv 2406.04313, algorithm 1"
    needs = frozenset({"leaks"})

    def __init__(self, materials: Materials, settings: CircuitBreakersSettings) -> None:
        super().__init__(materials, settings)
        generator = torch.Generator().manual_seed(random.Random(f"{materials.seed}-start").getrandbits(63))
        with torch.no_grad():
            for parameter in trainable_parameters(self.subject.model).values():
                if not bool(parameter.any()):
                    noise = torch.randn(parameter.shape, generator=generator) * settings.start
                    parameter.copy_(noise)

    @classmethod
    def trained(cls, layers: int, settings: CircuitBreakersSettings) -> Trained:
        """A LoRA of rank 16 on all linear matrices up to the upper layer."""
        return Trained(path=False, modules="linear", rank=16, layers=range(at_depth(max(settings.depths), layers) + 1))

    def stream_layers(self) -> Sequence[int]:
        """The layers that are rerouted, lowest first."""
        return sorted({at_depth(depth, len(self.subject.layers)) for depth in self.settings.depths})

    def stream_distance(self, now: Tensor, before: Tensor) -> Tensor:
        """The paper's: Euclidean."""
        return keeping_loss(now, before)

    def seen(self, labels: Tensor) -> Tensor:
        """Tokens whose streams are rerouted, and kept."""
        return real(labels) if self.settings.tokens == "all" else saying(labels)

    def retain_weight(self, step: Step) -> float:
        """The schedule's, times the settings'."""
        return self.settings.retain_weight * coefficients(step.number, step.of, self.settings.alpha)[1]

    def losses(self, drawn: Sequence[Entry], step: Step) -> Iterator[Losses]:
        """As `Baseline.losses`."""
        ids, labels = self.subject.collate(*self.leaked(drawn))
        keep, layers = self.seen(labels), self.stream_layers()
        before = reference_streams(self.subject, layers, ids, keep)
        loss = rerouting_loss(streams(self.subject, layers, ids, keep), before)
        yield {"reroute": (coefficients(step.number, step.of, self.settings.alpha)[0], loss)}
