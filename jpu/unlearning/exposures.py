"""Ways in which a restricted question reaches the model other than inside a template, to be refused there as well.

Each has a loss of the same form, the mean NLL of y_ref: after a chat that was answered, with vectors beside the
question that were moved to make the answer likely, with the direction of refusal taken out of the residual stream.
Refusals that were trained on text alone fall to all three.

They are made anew from the model as it is: nothing of them is kept over the end of a stretch of steps, so training goes
on after a kill as if it had not been stopped.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from jpu.adversary.directions import Direction, ablated, refusal_directions
from jpu.adversary.exchanges import exchanges
from jpu.adversary.soft_prompts import SoftPrompts
from jpu.adversary.suffix_loss import Layout, SuffixLoss
from jpu.data.schemas import Behavior
from jpu.mining.mutations import operators
from jpu.models import Subject, answer_nll, plain_tokens
from jpu.unlearning.retain import small_talk

# Those that mining uses; evaluation's are never trained on.
_MUTATIONS = operators(level="query", split="train")
_MUTATED = 0.3
# As many vectors as a short jailbreak has words, in a ball as wide as a token's own vector; five steps reach its edge.
_VECTORS, _RADIUS, _STRIDE = 5, 1.0, 0.2
_SOFT_STEPS = 3
# Tokens of a suffix, steps of its search before each step of training, candidates of such a step, and tokens to choose
# among at a place.
_SUFFIX_LENGTHS = (2, 3, 4, 6, 10)
_SUFFIX_STEPS, _WIDTH, _TOPK = 2, 8, 64
# Share of vectors and suffixes that begin again: those that were searched longest are not the only ones to be met.
_AGAIN = 0.15


class Exposure(ABC):
    """A way to ask restricted questions.

    Args:
        subject: M_θ.
        asked: Restricted behaviors that M_0 refuses directly.
        refusals: Behavior id → y_ref.
        told: Behaviors that M_0 answers.
        openings: Behavior id → tokens that its answer begins with.

    Attributes:
        name: What its weight and its loss are called.
        contrast: Whether it needs something that M_0 answers.
    """

    name: ClassVar[str]
    contrast: ClassVar[bool] = False

    def __init__(
        self,
        subject: Subject,
        asked: Sequence[Behavior],
        refusals: Mapping[str, str],
        told: Sequence[Behavior],
        openings: Mapping[str, Sequence[int]],
    ) -> None:
        self.subject, self.asked, self.told = subject, list(asked), list(told)
        self.refusals = {b.id: refusals[b.id] for b in asked}
        self.openings = {b.id: tuple(openings[b.id]) for b in asked}

    def begin(self, rng: random.Random) -> None:
        """Made ready for a stretch of steps against the model as it is."""
        del rng

    @abstractmethod
    def loss(self, size: int, rng: random.Random) -> Tensor:
        """Mean NLL of y_ref over some behaviors, nats per token, differentiable in θ; a scalar."""

    def _nll(self, drawn: Sequence[Behavior], heads: Sequence[Sequence[int]]) -> Tensor:
        ids, labels = self.subject.collate(heads, [self.subject.answer_ids(self.refusals[b.id]) for b in drawn])
        losses, _ = answer_nll(self.subject.model, ids, labels)
        return losses.mean()


class Chats(Exposure):
    """[ours] After questions that were answered: what many-shot jailbreaking (Anil et al., 2024) leads on with."""

    name = "chat"
    contrast = True

    def loss(self, size: int, rng: random.Random) -> Tensor:
        """As `Exposure.loss`; each question after some that were answered, and some of them mutated."""
        drawn = [rng.choice(self.asked) for _ in range(size)]
        return self._nll(drawn, [self._ask(behavior, rng) for behavior in drawn])

    def _ask(self, behavior: Behavior, rng: random.Random) -> list[int]:
        query = behavior.query
        if rng.random() < _MUTATED:
            partner = rng.choice(self.asked).query
            query = rng.choice(_MUTATIONS).apply(query, rng, partner=partner, keep=frozenset({behavior.entity}))
        return self.subject.prompt_ids(query, turns=small_talk(self.told, rng))


class SoftExposure(Exposure):
    """With vectors beside the question that make its answer likely: adversarial training in embedding space.

    Xhonneux et al., 2024, arXiv 2405.15589, continuous adversarial training, with y_ref as the only target. [inferred]
    """

    name = "soft"

    def begin(self, rng: random.Random) -> None:
        """All vectors begin at their stand-in words again."""
        queries, openings = [b.query for b in self.asked], [self.openings[b.id] for b in self.asked]
        self._soft = SoftPrompts(self.subject, queries, openings, vectors=_VECTORS, radius=_RADIUS, stride=_STRIDE)

    def loss(self, size: int, rng: random.Random) -> Tensor:
        """As `Exposure.loss`; the vectors of these behaviors are moved on first, from where they were left."""
        rows = rng.sample(range(len(self.asked)), min(size, len(self.asked)))
        self._soft.moved[[row for row in rows if rng.random() < _AGAIN]] = 0.0
        for _ in range(_SOFT_STEPS):
            self._soft.step(rows)
        return self._soft.nll(rows, [self.refusals[self.asked[row].id] for row in rows]).mean()


class Ablated(Exposure):
    """With a direction of refusal taken out: refusal feature adversarial training (Yu et al., 2024, arXiv 2409.20089).

    The paper ablates one direction, at random layers; here one of all layers' and tokens' is drawn at each step.
    [inferred]
    """

    name = "ablated"
    contrast = True

    def begin(self, rng: random.Random) -> None:
        """Directions of the model as it is."""
        benign = rng.sample(self.told, min(len(self.told), len(self.asked)))
        self._directions: list[Direction] = refusal_directions(
            self.subject, [b.query for b in self.asked], [b.query for b in benign], sorted(set(self.refusals.values()))
        )

    def loss(self, size: int, rng: random.Random) -> Tensor:
        """As `Exposure.loss`, of the bare questions."""
        drawn = [rng.choice(self.asked) for _ in range(size)]
        with ablated(self.subject, rng.choice(self._directions).vector):
            return self._nll(drawn, [self.subject.prompt_ids(b.query) for b in drawn])


class Suffixes(Exposure):
    """With a suffix that is searched on while the model is trained: R2D2 (Mazeika et al., 2024, arXiv 2402.04249).

    The paper keeps its suffixes over the whole training and begins a share of them again; here they are kept over a
    stretch of steps, and their length is drawn for each. [inferred]
    """

    name = "suffix"

    def begin(self, rng: random.Random) -> None:
        """New suffixes, of a length drawn for this stretch."""
        subject, (head, tail) = self.subject, self.subject.frame
        after = tuple(subject.encode(tail))
        self._layouts = [Layout(tuple(subject.encode(head + b.query)), after, self.openings[b.id]) for b in self.asked]
        self._allowed = plain_tokens(subject)
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        self._suffixes = self._draw(len(self.asked), rng.choice(_SUFFIX_LENGTHS), generator)

    def loss(self, size: int, rng: random.Random) -> Tensor:
        """As `Exposure.loss`; the suffixes of these behaviors are searched on first."""
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        rows = rng.sample(range(len(self.asked)), min(size, len(self.asked)))
        again = [row for row in rows if rng.random() < _AGAIN]
        self._suffixes[again] = self._draw(len(again), self._suffixes.shape[1], generator)
        self._suffixes[rows] = self._searched([self._layouts[row] for row in rows], self._suffixes[rows], generator)
        drawn = [self.asked[row] for row in rows]
        chosen = [(self._layouts[row], self._suffixes[row].tolist()) for row in rows]
        return self._nll(drawn, [[*layout.before, *suffix, *layout.after] for layout, suffix in chosen])

    def _searched(self, layouts: Sequence[Layout], suffixes: Tensor, generator: torch.Generator) -> Tensor:
        """Suffixes (rows, length) after `_SUFFIX_STEPS` steps of greedy coordinate gradient."""
        loss = SuffixLoss(self.subject.base, layouts, self.subject.pad_id)
        rows = list(range(len(layouts)))
        for _ in range(_SUFFIX_STEPS):
            losses, slopes = loss.slopes(rows, suffixes)
            tried = exchanges(
                suffixes, slopes, self._allowed, width=_WIDTH, topk=_TOPK, replaced=1, generator=generator
            )
            found = loss.losses([row for row in rows for _ in range(_WIDTH)], tried.flatten(0, 1)).view(-1, _WIDTH)
            best, at = found.min(1)
            suffixes = torch.where((best < losses)[:, None], tried[rows, at], suffixes)
        return suffixes

    def _draw(self, count: int, length: int, generator: torch.Generator) -> Tensor:
        return self._allowed[torch.randint(len(self._allowed), (count, length), generator=generator)]


EXPOSURES: tuple[type[Exposure], ...] = (SoftExposure, Suffixes, Chats, Ablated)


def make_exposures(
    subject: Subject,
    asked: Sequence[Behavior],
    refusals: Mapping[str, str],
    told: Sequence[Behavior],
    openings: Mapping[str, Sequence[int]],
) -> list[Exposure]:
    """All that can be made of this data; arguments as of `Exposure`."""
    return [
        kind(subject, asked, refusals, told, openings) for kind in EXPOSURES if asked and (told or not kind.contrast)
    ]
