"""RMU: representation misdirection; the stream of what is to be forgotten is steered to a random direction.

    L = E ‖h_θ(t) − c·u‖² on leaks, plus α · E ‖h_θ(t) − h_0(t)‖² on the retain set, h the stream behind layer ℓ

Li et al., 2024, arXiv 2403.03218 (WMDP), section 4; u is uniform in [0, 1)^d, scaled to length 1, and drawn once. As in
the authors' code the squares are averaged over the width too, c = 20 and α = 100 are its defaults, ℓ = 7 of 32 layers,
and what moves is the down projections of layers ℓ−2 to ℓ, all of their entries.

faithful: losses, u, trained part. ours: leaks after mined jailbreaks; by default only the tokens that say an answer
are steered (`tokens: all` is the paper's), since what stands before is shared with benign prompts of the same template.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from jpu.mining.entry import Entry
from jpu.unlearning.defences.base import Baseline, Losses, Materials, Step
from jpu.unlearning.defences.settings import RmuSettings, SteeringSettings
from jpu.unlearning.streams import real, saying, streams
from jpu.unlearning.trained import Trained, at_depth

R = TypeVar("R", bound=SteeringSettings)
# Layers below ℓ that move with it.
_BELOW = 2


def steering_loss(stream: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of streams (t, width) from a vector (width,); a scalar."""
    return (stream - target).square().mean()


class Misdirection(Baseline[R]):
    """What RMU and adaptive RMU share: layer, direction, trained part, retain term."""

    needs = frozenset({"leaks"})

    def __init__(self, materials: Materials, settings: R) -> None:
        super().__init__(materials, settings)
        generator = torch.Generator().manual_seed(random.Random(f"{materials.seed}-direction").getrandbits(63))
        drawn = torch.rand(self.subject.base.config.hidden_size, generator=generator).to(self.subject.device)
        self.direction = drawn / drawn.norm()

    @classmethod
    def trained(cls, layers: int, settings: R) -> Trained:
        """The down projections of layer ℓ and of the two below."""
        at = at_depth(settings.depth, layers)
        return Trained(path=False, modules="mlp.down_proj", rank="dense", layers=range(max(0, at - _BELOW), at + 1))

    def stream_layers(self) -> Sequence[int]:
        """Layer ℓ."""
        return [at_depth(self.settings.depth, len(self.subject.layers))]

    def seen(self, labels: Tensor) -> Tensor:
        """Tokens whose streams are steered, and kept."""
        return real(labels) if self.settings.tokens == "all" else saying(labels)

    def losses(self, drawn: Sequence[Entry], step: Step) -> Iterator[Losses]:
        """As `Baseline.losses`."""
        del step
        ids, labels = self.subject.collate(*self.leaked(drawn))
        keep = self.seen(labels)
        length = self.length(ids, keep)
        (stream,) = streams(self.subject, self.stream_layers(), ids, keep)
        yield {"forget": (1.0, steering_loss(stream, length * self.direction))}

    @abstractmethod
    def length(self, ids: Tensor, keep: Tensor) -> float:
        """How long the vector is that streams of these tokens are steered to."""


class Rmu(Misdirection[RmuSettings]):
    """Steering to a vector of a length that is set."""

    name = "rmu"
    cite = "Li et al., 2024, arXiv 2403.03218, section 4"

    def length(self, ids: Tensor, keep: Tensor) -> float:
        """C."""
        del ids, keep
        return self.settings.coefficient
