"""What fine-tuning on a handful of answers would do to a model, simulated while it is trained to withstand it.

Refusals that were trained on the weights as they are fall to a few steps of fine-tuning on restricted answers (Qi et
al., 2023, arXiv 2310.03693). TAR (Tamirisa et al., 2024, arXiv 2408.00761, alg. 1) simulates such attacks, takes the
gradient of a safety loss at the weights that they lead to, and steps along it from the weights as they are:

    A_k = k steps of AdamW on −log π_{θ+A}(answer | question), from A = 0, a few restricted behaviors D
    L   = mean NLL of y_ref under θ + sg A_k, over behaviors that are not in D

[inferred: the form and the first-order gradient are TAR's.] TAR's attacks move all weights, and are made anew for
every step. Here an attack is a LoRA on all linear matrices, so that no second copy of the model is held, and its states
after 2, 4, 8 and 16 steps serve a whole stretch. [ours] Evaluation fine-tunes all weights, which is of another kind.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jpu.data.schemas import Behavior
from jpu.errors import SettingsError
from jpu.models import Subject, answer_nll
from jpu.paths.passes import constant_weights
from jpu.paths.path import Path
from jpu.rows import undivided
from jpu.unlearning.factors import new_factors
from jpu.unlearning.mined import Mined
from jpu.unlearning.trained import Trained

# Attacks of a stretch, most pairs of each, steps after which its state is kept, what it trains.
_ATTACKS, _PAIRS, _STEPS = 2, 8, (2, 4, 8, 16)
_TRAINED = Trained(path=False, modules="linear", rank=8)
# Learning rates are drawn between these, evenly in their logarithm: on the sandbox the pairs are learnt after 4 to 16
# steps.
_SLOWEST, _FASTEST = 1e-3, 9e-3
# Share of bare questions in a batch; the others stand in mined jailbreaks.
_BARE = 1 / 3

# Full name of a matrix → its change B·A: A (rank, inputs), B (outputs, rank).
Change = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Attack:
    """A state of a simulated fine-tuning.

    Attributes:
        change: What it adds to the matrices.
        taught: Ids of the behaviors whose answers it was tuned on.
    """

    change: Change
    taught: frozenset[str]


@contextmanager
def changed(subject: Subject, change: Change) -> Iterator[None]:
    """Inside, matrices are W + B·A, whatever adapter is on them; the parameters themselves stay as they are.

    Args:
        subject: The model, with an adapter or without.
        change: Differentiable in its factors where these require a gradient.
    """

    def added(a: Tensor, b: Tensor) -> Any:
        def hook(_: nn.Module, given: tuple[Any, ...], out: Tensor) -> Tensor:
            return out + nn.functional.linear(nn.functional.linear(given[0].to(a.dtype), a), b).to(out.dtype)

        return hook

    with ExitStack() as stack:
        for name, (a, b) in change.items():
            stack.callback(subject.base.get_submodule(name).register_forward_hook(added(a, b)).remove)
        yield


def attacks(subject: Subject, behaviors: Sequence[Behavior], rng: random.Random) -> Iterator[Attack]:
    """Fine-tune a model on the answers to some restricted questions, without touching it.

    Args:
        subject: M_θ as it is.
        behaviors: Two or more to draw from, at most half of them; their answers are what must not be told.
        rng: Source of the choice, of the start and of the learning rate.

    Yields:
        The states after 2, 4, 8 and 16 steps.
    """
    # The others are those that it must not have brought back.
    taught = rng.sample(list(behaviors), min(_PAIRS, len(behaviors) // 2))
    ids, labels = subject.collate(
        [subject.prompt_ids(b.query) for b in taught], [subject.answer_ids(b.answer) for b in taught]
    )
    new = new_factors(subject.base, Path(), _TRAINED, rng.getrandbits(63))
    change = {name: _leaves(part.a, part.b, subject.device) for name, part in new.items()}
    factors = [factor for pair in change.values() for factor in pair]
    rate = _SLOWEST * (_FASTEST / _SLOWEST) ** rng.random()
    optimizer = torch.optim.AdamW(factors, lr=rate, weight_decay=0.0)
    for step in range(1, _STEPS[-1] + 1):
        # Every process makes the same attack by itself: there is little to divide.
        with constant_weights(subject.model), undivided(subject.model), changed(subject, change), torch.enable_grad():
            loss = answer_nll(subject.model, ids, labels)[0].mean()
        for factor, gradient in zip(factors, torch.autograd.grad(loss, factors), strict=True):
            factor.grad = gradient
        optimizer.step()
        if step in _STEPS:
            state = {name: (a.detach().clone(), b.detach().clone()) for name, (a, b) in change.items()}
            yield Attack(state, frozenset(b.id for b in taught))


class Relearning:
    """Refusal under simulated fine-tunings of the model.

    Args:
        subject: M_θ.
        asked: Restricted behaviors that M_0 refuses directly; those without a known answer are never taught.
        refusals: Behavior id → y_ref.

    Raises:
        SettingsError: There are no two behaviors with a known answer: one to teach, one to be kept.
    """

    def __init__(self, subject: Subject, asked: Sequence[Behavior], refusals: Mapping[str, str]) -> None:
        self.subject, self.asked, self.refusals = subject, list(asked), refusals
        self.answered = [b for b in asked if b.answer]
        if len(self.answered) < 2:
            raise SettingsError(
                f"simulated fine-tuning needs two restricted questions with an answer, there are {len(self.answered)}",
                where="params.yaml unlearning.weights.relearned",
                mend="Set it to 0, or give the restricted behaviors of the train split their `answer`.",
            )
        self._attacks: list[Attack] = []

    def begin(self, rng: random.Random) -> None:
        """Attack the model as it is."""
        self._attacks = [attack for _ in range(_ATTACKS) for attack in attacks(self.subject, self.answered, rng)]

    def loss(self, mined: Mined, size: int, rng: random.Random) -> Tensor:
        """Mean NLL of y_ref over behaviors that a drawn attack was not tuned on, nats per token; a scalar.

        Args:
            mined: Entries to draw from.
            size: Prompts; two thirds of them mined jailbreaks, the others bare questions, where there are as many.
            rng: Source of the draws.
        """
        attack = rng.choice(self._attacks)
        bare = [b for b in self.asked if b.id not in attack.taught]
        bare = rng.sample(bare, min(len(bare), max(1, round(size * _BARE))))
        drawn = [entry for entry in mined.draw(2 * size, rng) if entry.behavior not in attack.taught]
        prompts = [(b.id, b.query) for b in bare] + [(e.behavior, e.prompt) for e in drawn[: size - len(bare)]]
        ids, labels = self.subject.collate(
            [self.subject.prompt_ids(prompt) for _, prompt in prompts],
            [self.subject.answer_ids(self.refusals[behavior]) for behavior, _ in prompts],
        )
        with changed(self.subject, attack.change):
            losses, _ = answer_nll(self.subject.model, ids, labels)
        return losses.mean()


def _leaves(a: Tensor, b: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Two factors, about to be trained."""
    return a.to(device).requires_grad_(), b.to(device).requires_grad_()
