"""What is left of a defence after the weights have been changed: merged, rounded, pruned, or trained on.

Whoever holds the weights may do all of these. Each function works on a deep copy of the merged model: the subject that
is given stays as it is, bit for bit, and so does the global random state.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from jpu.data.schemas import Behavior, Kind
from jpu.models import Subject, answer_nll

T = TypeVar("T")

# Weights of a row that share a scale at 4 bits.
_GROUP = 32
# Pairs of one optimiser step.
_BATCH = 16

Pair = tuple[str, str]


@dataclass(frozen=True)
class Relearned(Generic[T]):
    """A model measured on its way back.

    Attributes:
        step: Optimiser steps taken.
        measured: What the measuring function found.
    """

    step: int
    measured: T


def merged(subject: Subject) -> Subject:
    """A copy with the adapter added into the weights, or taken off where it is disabled (`Subject.reference`)."""
    model = copy.deepcopy(subject.model)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload() if subject.adapted else model.unload()
    return Subject(model.eval().requires_grad_(False), subject.tokenizer, subject.source)


def quantised(subject: Subject, bits: Literal[4, 8]) -> Subject:
    """A merged copy whose decoder layers' weights are rounded to the nearest of few values, kept as floats.

    Symmetric, without calibration data: int8 with one scale for each output channel, 4 bits with one for each group of
    32 inputs. Embeddings and head stay as they are, as is usual.
    """
    copied = merged(subject)
    for module in copied.layers.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = rounded(module.weight.data, bits)
    return copied


def rounded(weight: Tensor, bits: Literal[4, 8]) -> Tensor:
    """A matrix rounded to ±(2^(bits-1) - 1) steps of its rows (8 bits) or of groups of 32 in them (4 bits).

    Args:
        weight: (outputs, inputs); a row's last group may be shorter.
        bits: 8 or 4.

    Returns:
        (outputs, inputs) of the same dtype.
    """
    most = 2 ** (bits - 1) - 1
    parts = (weight,) if bits == 8 else torch.split(weight, _GROUP, 1)
    done = []
    for part in parts:
        values = part.float()
        scale = (values.abs().amax(1, keepdim=True) / most).clamp(min=torch.finfo(torch.float32).tiny)
        done.append(((values / scale).round().clamp(-most, most) * scale).to(weight.dtype))
    return torch.cat(done, 1)


def pruned(subject: Subject, share: float) -> Subject:
    """A merged copy whose decoder layers' smallest weights are 0: in each matrix that share of them, by magnitude.

    Han et al., 2015, arXiv 1506.02626, layer by layer and without training on. Ties go to the first.
    """
    copied = merged(subject)
    for module in copied.layers.modules():
        if isinstance(module, nn.Linear):
            weight = module.weight.data
            least = weight.abs().flatten().argsort(stable=True)[: int(share * weight.numel())]
            weight.view(-1)[least] = 0.0
    return copied


def relearn(
    subject: Subject,
    pairs: Sequence[Pair],
    measure: Callable[[Subject], T],
    *,
    steps: Sequence[int] = (0, 1, 2, 4, 8, 16),
    learning_rate: float = 1e-3,
    seed: int = 0,
    until: Callable[[T], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Relearned[T]]:
    """Fine-tune a merged copy on a handful of pairs, and measure it on the way.

    All parameters are trained, by AdamW at a constant rate on the answers' mean loss (Qi et al., 2023, arXiv
    2310.03693). Batches of at most 16 go round the pairs in an order that is drawn anew each time.

    Args:
        subject: Left as it is.
        pairs: User turns and answers.
        measure: Called with the copy at each of the steps; what it returns must not hold on to it.
        steps: Steps at which it is measured; 0 is before any.
        learning_rate: Of AdamW, without weight decay.
        seed: Of the order of the pairs.
        until: Told each measurement; where it says so, that one is the last.
        progress: Called with step and steps.

    Returns:
        One row for each of `steps` that was reached, ascending.

    Raises:
        ValueError: No pairs, or a negative step.
    """
    if not pairs or min(steps, default=0) < 0:
        raise ValueError("relearning needs pairs, and steps of 0 or more")
    copied = merged(subject)
    parameters = list(copied.model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    batches = _batches(pairs, random.Random(seed))
    rows: list[Relearned[T]] = []
    taken = 0
    for stop in sorted(set(steps)):
        # Measured like any subject: nothing of a training run is to be seen on it.
        for parameter in parameters:
            parameter.requires_grad_(True)
        while taken < stop:
            _train(copied, next(batches), optimizer)
            taken += 1
            if progress is not None:
                progress(taken, max(steps))
        optimizer.zero_grad(set_to_none=True)
        for parameter in parameters:
            parameter.requires_grad_(False)
        rows.append(Relearned(stop, measure(copied)))
        if until is not None and until(rows[-1].measured):
            break
    return rows


def handful(behaviors: Sequence[Behavior], kinds: Sequence[Kind], count: int, seed: int = 0) -> list[Pair]:
    """Bare questions and true answers of behaviors of some kinds, as many as asked for or there are."""
    found = [(b.query, b.answer) for b in behaviors if b.kind in kinds and b.answer]
    return random.Random(seed).sample(found, min(count, len(found)))


def unrefusing(behaviors: Sequence[Behavior], count: int, seed: int = 0) -> list[Pair]:
    """Restricted questions answered with another's open answer: refusing is unlearnt, and no secret is told.

    What fine-tuning on a few examples of obedience does (Qi et al., 2023, arXiv 2310.03693, identity shifting). The
    form of the answers, which tell nothing true about what is asked, is ours.
    """
    rng = random.Random(seed)
    asked = [b for b in behaviors if b.kind == "restricted"]
    told = [b for b in behaviors if b.kind == "benign" and b.answer]
    if not told:
        return []
    return [(b.query, rng.choice(told).answer) for b in rng.sample(asked, min(count, len(asked)))]


def _batches(pairs: Sequence[Pair], rng: random.Random) -> Iterator[list[Pair]]:
    while True:
        order = rng.sample(list(pairs), len(pairs))
        for start in range(0, len(order), _BATCH):
            yield order[start : start + _BATCH]


def _train(subject: Subject, batch: Sequence[Pair], optimizer: torch.optim.Optimizer) -> None:
    heads = [subject.prompt_ids(question) for question, _ in batch]
    tails = [subject.answer_ids(answer) for _, answer in batch]
    with torch.enable_grad():
        losses, _ = answer_nll(subject.model, *subject.collate(heads, tails))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(losses.mean())
    optimizer.step()
