"""What a defence is: the losses of a step, by name and with their weights. The loop around them is one for all."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Literal, TypeVar

from torch import Tensor

from jpu.mining.entry import Entry
from jpu.models import Subject, answer_nll
from jpu.unlearning.anchors import Anchors
from jpu.unlearning.defences.settings import BaselineSettings, DefenceSettings
from jpu.unlearning.exposures import Exposure
from jpu.unlearning.leaks import Leak
from jpu.unlearning.mined import Mined
from jpu.unlearning.retain import ReferenceDistribution
from jpu.unlearning.streams import reference_streams, saying, streams
from jpu.unlearning.trained import Trained

# Losses of one forward pass: name → weight and scalar. They are summed and backpropagated together.
Losses = dict[str, tuple[float, Tensor]]
# What is made for some defences only.
Need = Literal["leaks", "anchors", "exposures"]
S = TypeVar("S", bound=DefenceSettings)
B = TypeVar("B", bound=BaselineSettings)

RETAIN = "retain"


@dataclass(frozen=True)
class Materials:
    """What a defence is made from; the same for every one, or the comparison is none.

    Attributes:
        subject: M_θ with its adapter; M_0 is its reference.
        refusals: Behavior id → y_ref, in M_0's own words.
        retain: M_0 on the retain set that is trained on.
        batch: Jailbreak entries a step.
        retain_batch: Retain pairs a step.
        seed: Seed of what is drawn once.
        leaks: Behavior id → the answer that it must not get.
        neurons: Layer → neurons of the path.
        anchors: Safety anchors of those.
        exposures: Other ways to the restricted questions.
    """

    subject: Subject
    refusals: Mapping[str, str]
    retain: ReferenceDistribution
    batch: int
    retain_batch: int
    seed: str
    leaks: Mapping[str, Leak] = field(default_factory=dict)
    neurons: Mapping[int, Sequence[int]] = field(default_factory=dict)
    anchors: Anchors | None = None
    exposures: Sequence[Exposure] = ()


@dataclass(frozen=True)
class Step:
    """Where a training stands.

    Attributes:
        number: Of this step, from 0.
        of: Steps of the training.
        rng: Source of its draws.
        mined: Entries to draw from.
    """

    number: int
    of: int
    rng: random.Random
    mined: Mined


class Defence(ABC, Generic[S]):
    """A way to make a model refuse what it leaks.

    Args:
        materials: What it is made from.
        settings: Its own settings.

    Attributes:
        name: What it is called in settings and tables.
        cite: Paper and equation.
        needs: What it takes of the materials beside refusals and the retain set.
    """

    name: ClassVar[str]
    cite: ClassVar[str]
    needs: ClassVar[frozenset[Need]] = frozenset()

    def __init__(self, materials: Materials, settings: S) -> None:
        self.materials, self.settings = materials, settings
        self.subject = materials.subject

    @classmethod
    def trained(cls, layers: int, settings: S) -> Trained:
        """What its paper trains; a LoRA on all linear matrices where it trains them all.

        Args:
            layers: Layers of the model.
            settings: Its own settings, which may name a depth.
        """
        del layers, settings
        return Trained(path=False, modules="linear", rank=16)

    def begin(self, mined: Mined, stream: Callable[[str], random.Random]) -> None:
        """Made ready for a stretch of steps against the model as it is.

        Args:
            mined: Entries of the stretch.
            stream: Gives a source of draws for a name; another one at each stretch.
        """
        del mined, stream

    @abstractmethod
    def passes(self, step: Step) -> Iterator[Losses]:
        """The losses of one step; those of one forward pass together. The retain term is a pass by itself, the last."""

    def retained(self, step: Step, weight: float) -> Iterator[Losses]:
        """The retain term of the settings, on pairs that are drawn now; none where its weight is 0."""
        size = len(self.materials.retain.rows)
        if weight and size:
            chosen = step.rng.sample(range(size), min(self.materials.retain_batch, size))
            yield {RETAIN: (weight, self._retain_loss(chosen))}

    def seen(self, labels: Tensor) -> Tensor:
        """Tokens whose streams are compared, (rows, length) bool; by default those that say an answer."""
        return saying(labels)

    def stream_layers(self) -> Sequence[int]:
        """Layers behind which streams are compared; by default the middle one."""
        return [len(self.subject.layers) // 2]

    def stream_distance(self, now: Tensor, before: Tensor) -> Tensor:
        """How far streams (layers, tokens, width) are from those of M_0: by default their mean squared difference."""
        return (now - before).square().mean()

    def _retain_loss(self, chosen: Sequence[int]) -> Tensor:
        retain = self.materials.retain
        if self.settings.retain == "kl":
            return retain.kl(self.subject, chosen)
        ids, labels = self.subject.collate([retain.rows[i][0] for i in chosen], [retain.rows[i][1] for i in chosen])
        if self.settings.retain == "nll":
            return answer_nll(self.subject.model, ids, labels)[0].mean()
        layers, keep = self.stream_layers(), self.seen(labels)
        before = reference_streams(self.subject, layers, ids, keep)
        return self.stream_distance(streams(self.subject, layers, ids, keep), before)


class Baseline(Defence[B]):
    """A defence whose losses are all on one batch of entries."""

    def passes(self, step: Step) -> Iterator[Losses]:
        """As `Defence.passes`: one batch of mined entries, and the retain term."""
        drawn = step.mined.draw(self.materials.batch, step.rng)
        if drawn:
            yield from self.losses(drawn, step)
        yield from self.retained(step, self.retain_weight(step))

    @abstractmethod
    def losses(self, drawn: Sequence[Entry], step: Step) -> Iterator[Losses]:
        """The losses on a batch of entries; not the retain term."""

    def retain_weight(self, step: Step) -> float:
        """Weight of the retain term at a step."""
        del step
        return self.settings.retain_weight

    def refused(self, drawn: Sequence[Entry]) -> tuple[list[list[int]], list[list[int]]]:
        """Prompts J and their refusals y_ref, in tokens."""
        refusals = self.materials.refusals
        return self._heads(drawn), [self.subject.answer_ids(refusals[e.behavior]) for e in drawn]

    def leaked(self, drawn: Sequence[Entry]) -> tuple[list[list[int]], list[list[int]]]:
        """Prompts J and the answers that they must not get, in tokens."""
        return self._heads(drawn), [self.materials.leaks[e.behavior].whole for e in drawn]

    def _heads(self, drawn: Sequence[Entry]) -> list[list[int]]:
        return [self.subject.prompt_ids(e.prompt) for e in drawn]
