"""Circuit breakers: streams of harmful answers are rerouted away from where they were.

    L = α (1 − t/2T) · mean ReLU(cos(h_θ, h_0)) on leaks  +  α t/2T · mean ‖h_θ − h_0‖₂ on the retain set

Zou et al., 2024, arXiv 2406.04313, algorithm 1; α = 10, layers 10 and 20 of 32, a LoRA of rank 16 on all linear
matrices up to the upper one. h are streams behind these layers.

A LoRA that starts at zero starts at h_θ = h_0, where the cosine is at its maximum and has no gradient: trained exactly,
nothing would ever move. And near it the cosine's gradient grows with the distance, while that of the kept distance is
of one length everywhere: a start that is too near is pulled back. So factors that are zero start at noise, as large as
moves the streams by `start` of their length. [ours] For the same reason what is kept is counted in mean lengths of the
streams: a cosine has no length, and against an absolute distance its weight would hang on how long a model's are.

faithful: rerouting loss, its layers, schedule, trained part. inferred: the unit of the kept distance, and that it is
taken behind the same layers (the authors' code may take all). ours: leaks after mined jailbreaks; by default only the
tokens that say an answer are rerouted (`tokens: all` for all), see `rmu.py`.
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

# Standard deviation of the noise before it is scaled, and retained answers that it is scaled on.
_FIRST, _SHOWN = 1e-3, 16


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
        self._begin_apart()

    @classmethod
    def trained(cls, layers: int, settings: CircuitBreakersSettings) -> Trained:
        """A LoRA of rank 16 on all linear matrices up to the upper layer."""
        return Trained(path=False, modules="linear", rank=16, layers=range(at_depth(max(settings.depths), layers) + 1))

    def stream_layers(self) -> Sequence[int]:
        """The layers that are rerouted, lowest first."""
        return sorted({at_depth(depth, len(self.subject.layers)) for depth in self.settings.depths})

    def stream_distance(self, now: Tensor, before: Tensor) -> Tensor:
        """The paper's, Euclidean, in mean lengths of M_0's streams."""
        relative: Tensor = keeping_loss(now, before) / before.norm(dim=-1).mean()
        return relative

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

    @torch.no_grad()
    def _begin_apart(self) -> None:
        """Give zero factors noise that moves the streams of some retained answers by `start` of their length."""
        generator = torch.Generator().manual_seed(random.Random(f"{self.materials.seed}-start").getrandbits(63))
        factors = [p for p in trainable_parameters(self.subject.model).values() if not bool(p.any())]
        for factor in factors:
            factor.copy_(torch.randn(factor.shape, generator=generator) * _FIRST)
        rows = self.materials.retain.rows[:_SHOWN]
        if not factors or not rows:
            return
        ids, labels = self.subject.collate([head for head, _ in rows], [tail for _, tail in rows])
        layers, keep = self.stream_layers(), saying(labels)
        before = reference_streams(self.subject, layers, ids, keep)
        # Twice, for it is not quite linear in the noise.
        for _ in range(2):
            away = (streams(self.subject, layers, ids, keep) - before).norm(dim=-1) / before.norm(dim=-1)
            for factor in factors:
                factor.mul_(self.settings.start / float(away.mean()))
