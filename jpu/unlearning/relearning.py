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
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from jpu.data.schemas import Behavior
from jpu.models import Subject, answer_nll
from jpu.paths.passes import constant_weights
from jpu.rows import undivided
from jpu.unlearning.mined import Mined

# Attacks of a stretch, most pairs of each, steps after which its state is kept, rank.
_ATTACKS, _PAIRS, _STEPS, _RANK = 2, 8, (2, 4, 8, 16), 8
# Learning rates are drawn between these, evenly in their logarithm: on the sandbox the pairs are learnt after 6 to 16
# steps.
_SLOWEST, _FASTEST = 1e-3, 9e-3
# Share of bare questions in a batch; the others stand in mined jailbreaks.
_BARE = 1 / 3

# Name of a matrix → its change B·A: A (rank, inputs), B (outputs, rank).
Change = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Attack:
    """A state of a simulated fine-tuning.

    Attributes:
        change: What it adds to the matrices.
        taught: Ids of the behaviors whose answers it was tuned on.
        step: Steps that it took.
        loss: Mean NLL of the answers before its last step, nats per token.
    """

    change: Change
    taught: frozenset[str]
    step: int
    loss: float


@contextmanager
def changed(subject: Subject, change: Change) -> Iterator[None]:
    """Inside, the linear matrices of the layers are W + B·A; the parameters themselves stay as they are.

    Args:
        subject: The model, with an adapter or without.
        change: Differentiable in its factors where these require a gradient.
    """

    def added(a: Tensor, b: Tensor) -> Any:
        def hook(_: nn.Module, given: tuple[Any, ...], out: Tensor) -> Tensor:
            return out + nn.functional.linear(nn.functional.linear(given[0].to(a.dtype), a), b).to(out.dtype)

        return hook

    modules = matrices(subject)
    with ExitStack() as stack:
        for name, (a, b) in change.items():
            stack.callback(modules[name].register_forward_hook(added(a, b)).remove)
        yield


def matrices(subject: Subject) -> dict[str, Any]:
    """The linear modules of the layers by name; where an adapter is on one, the wrapped module and not its parts."""
    wrapped = [(name, m) for name, m in subject.layers.named_modules() if isinstance(m, LoraLayer)]
    inside = {id(part) for _, m in wrapped for part in m.modules()}
    plain = [(n, m) for n, m in subject.layers.named_modules() if isinstance(m, nn.Linear) and id(m) not in inside]
    return dict(sorted([*wrapped, *plain]))


def attacks(subject: Subject, behaviors: Sequence[Behavior], rng: random.Random) -> Iterator[Attack]:
    """Fine-tune a model on the answers to some restricted questions, without touching it.

    Args:
        subject: M_θ as it is.
        behaviors: One or more to draw from, at most half of them; their answers are what must not be told.
        rng: Source of the choice, of the start and of the learning rate.

    Yields:
        The states after 2, 4, 8 and 16 steps.
    """
    # The others are those that it must not have brought back.
    taught = rng.sample(list(behaviors), min(_PAIRS, max(1, len(behaviors) // 2)))
    ids, labels = subject.collate(
        [subject.prompt_ids(b.query) for b in taught], [subject.answer_ids(b.answer) for b in taught]
    )
    change = _start(subject, torch.Generator().manual_seed(rng.getrandbits(63)))
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
            yield Attack(state, frozenset(b.id for b in taught), step, float(loss.detach()))


class Relearning:
    """Refusal under simulated fine-tunings of the model.

    Args:
        subject: M_θ.
        asked: Restricted behaviors that M_0 refuses directly; those without a known answer are never taught.
        refusals: Behavior id → y_ref.
    """

    def __init__(self, subject: Subject, asked: Sequence[Behavior], refusals: Mapping[str, str]) -> None:
        self.subject, self.asked, self.refusals = subject, list(asked), refusals
        self._attacks: list[Attack] = []

    def begin(self, rng: random.Random) -> None:
        """Attack the model as it is."""
        answered = [b for b in self.asked if b.answer]
        self._attacks = [a for _ in range(_ATTACKS) for a in attacks(self.subject, answered, rng)] if answered else []

    def loss(self, mined: Mined, size: int, rng: random.Random) -> Tensor | None:
        """Mean NLL of y_ref over behaviors that a drawn attack was not tuned on, nats per token, differentiable in θ.

        Args:
            mined: Entries to draw from.
            size: Prompts; two thirds of them mined jailbreaks, the others bare questions, where there are as many.
            rng: Source of the draws.

        Returns:
            A scalar; None where every behavior was taught.
        """
        if not self._attacks:
            return None
        attack = rng.choice(self._attacks)
        bare = [b for b in self.asked if b.id not in attack.taught]
        bare = rng.sample(bare, min(len(bare), round(size * _BARE)))
        drawn = [entry for entry in mined.draw(2 * size, rng) if entry.behavior not in attack.taught]
        prompts = [(b.id, b.query) for b in bare] + [(e.behavior, e.prompt) for e in drawn[: size - len(bare)]]
        if not prompts:
            return None
        ids, labels = self.subject.collate(
            [self.subject.prompt_ids(prompt) for _, prompt in prompts],
            [self.subject.answer_ids(self.refusals[behavior]) for behavior, _ in prompts],
        )
        with changed(self.subject, attack.change):
            losses, _ = answer_nll(self.subject.model, ids, labels)
        return losses.mean()


def _start(subject: Subject, generator: torch.Generator) -> dict[str, tuple[Tensor, Tensor]]:
    """A LoRA that changes nothing yet: A drawn with a row's length about 1, B zero; float32, on the model's devices."""
    change = {}
    for name, module in matrices(subject).items():
        device = module.get_base_layer().weight.device if isinstance(module, LoraLayer) else module.weight.device
        a = torch.randn(_RANK, module.in_features, generator=generator) / module.in_features**0.5
        b = torch.zeros(module.out_features, _RANK, device=device)
        change[name] = (a.to(device).requires_grad_(), b.requires_grad_())
    return change
