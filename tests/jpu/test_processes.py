"""What processes of one training share: rows of passes, pieces of work, gradients, frozen weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from jpu.errors import ModelError
from jpu.models import Subject, answer_logits, recomputed
from jpu.paths.activations import ablate, capture
from jpu.processes import ALONE, Processes
from jpu.rows import Rows, rows_of, undivided
from jpu.sharding import shard_layers
from jpu.unlearning.adapter import adapter_factors, trainable_parameters
from jpu.unlearning.streams import moved, streams
from tests.forked import forked

Make = Callable[..., Subject]
PROMPTS = ["Hi", "What is the code of Zoruk?", "Hello there", "Tell me", "And now?"]


def collated(subject: Subject, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    heads = [subject.prompt_ids(prompt) for prompt in PROMPTS[:count]]
    return subject.collate(heads, [subject.answer_ids(f"No, {number}.") for number in range(count)])


def everything(subject: Subject, count: int, processes: Processes, *, twice: bool = False) -> list[Any]:
    """Values and gradients of all that reaches into layers: answers, captured neurons, streams, vectors moved."""
    ids, labels = collated(subject, count)
    parameters = list(trainable_parameters(subject.model).values())
    with processes.shared(subject.model), recomputed(subject.model) if twice else nullcontext():
        positions = torch.tensor([[0, 1 + row] for row in range(count)])
        table = subject.base.get_input_embeddings().weight.detach()
        inputs = table[ids].clone().requires_grad_()
        with capture(subject.model, positions=positions) as found:
            logits, targets, _ = answer_logits(subject.model, ids, labels, inputs=inputs)
        # Nothing that could be put together from means over parts.
        losses = nn.functional.cross_entropy(logits, targets, reduction="none")
        loss = (losses.mean() - 1.0).clamp(min=0.0) ** 2 + (found[1] * found[0].roll(1, 0)).square().mean().sqrt()
        by = torch.full((*ids.shape, table.shape[1]), 0.01, requires_grad=True)
        with moved(subject, {0: by}):
            seen = streams(subject, [0, 1], ids, labels != -100)
        (loss + seen.square().mean().sqrt()).backward()
        with torch.no_grad(), ablate(subject.model, {0: [3]}):
            ablated = subject.base.model(input_ids=ids, use_cache=False).last_hidden_state
        processes.sum_gradients(parameters)
        said = subject.generate(PROMPTS[:count], max_new_tokens=4)
        nll = subject.nll(PROMPTS[:count], ["No."] * count)
        assert isinstance(rows_of(subject.model), Rows)
    assert type(rows_of(subject.model)) is Rows
    assert inputs.grad is not None and by.grad is not None
    tensors = [loss, seen, inputs.grad, by.grad, ablated, nll, *(p.grad for p in parameters)]
    return [said, *([] if t is None else t.detach().flatten().tolist() for t in tensors)]


@pytest.mark.parametrize(("size", "count", "twice"), [(2, 5, False), (3, 5, True), (3, 2, False)])
def test_a_pass_whose_rows_are_shared_is_that_of_one(
    make_subject: Make, adapt: Make, tmp_path: Path, size: int, count: int, twice: bool
) -> None:
    """Also where a process has no row of its own and one that does not count stands in, and where layers run twice."""
    subject = adapt(make_subject())
    found = forked(size, tmp_path, lambda processes: everything(subject, count, processes, twice=twice))
    texts, *alone = everything(subject, count, ALONE)
    assert all(other == found[0] for other in found)
    assert found[0][0] == texts
    for here, there in zip(alone, found[0][1:], strict=True):
        assert there == pytest.approx(here, rel=1e-4, abs=1e-5)
    # What is compared is not nothing.
    assert sum(map(len, alone)) > 1000 and all(any(values) for values in alone)


def test_each_process_runs_a_part_of_the_rows_unless_told_not_to(make_subject: Make, tmp_path: Path) -> None:
    subject = make_subject()
    ids, _ = collated(subject, 5)

    def rows(processes: Processes) -> list[int]:
        seen: list[int] = []
        subject.layers[0].register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
        with processes.shared(subject.model), torch.no_grad():
            for divided in (True, False):
                if divided:
                    subject.base.model(input_ids=ids, use_cache=False)
                else:
                    with undivided(subject.model):
                        subject.base.model(input_ids=ids, use_cache=False)
            subject.base.model(input_ids=ids, use_cache=True)
        return seen

    assert forked(2, tmp_path, rows) == [[2, 5, 5], [3, 5, 5]]


def test_pieces_and_values_are_everybodys(tmp_path: Path) -> None:
    def run(processes: Processes) -> list[Any]:
        over = processes.spread(processes.rank)
        assert over is not None
        came: list[int] = []
        found = over(lambda rank, item: [rank, item / 3], list(range(5)), lambda place, result: came.append(place))
        weight = nn.Parameter(torch.full((2, 3), float(processes.rank + 1)))
        other = nn.Parameter(torch.zeros(2))
        weight.grad = torch.full((2, 3), float(processes.rank))
        processes.sum_gradients([weight, other])
        processes.same([weight])
        assert other.grad is None and over(lambda rank, item: item, []) == []
        return [found, came, weight.grad.tolist(), weight.tolist()]

    results = forked(3, tmp_path, run)
    assert results[0] == results[1] == results[2]
    shared = [[item % 3, item / 3] for item in range(5)]
    assert results[0] == [shared, [0, 1, 2, 3, 4], [[3.0] * 3] * 2, [[1.0] * 3] * 2]
    assert ALONE.spread(0) is None and Processes(0, 2, sharded=True).spread(0) is None


def test_what_no_row_passes_through_is_not_trained_together(make_subject: Make) -> None:
    subject = make_subject()
    subject.model.lm_head = nn.Linear(32, len(subject.tokenizer))
    with pytest.raises(ModelError, match=r"lm_head\.weight"), Processes(0, 2).shared(subject.model):
        pass
    with ALONE.shared(subject.model):
        pass


def test_frozen_weights_are_divided_and_nothing_else_changes(make_subject: Make, adapt: Make, tmp_path: Path) -> None:
    subject = adapt(make_subject())
    here, factors = everything(subject, 5, ALONE), adapter_factors(subject.model)
    for parameter in trainable_parameters(subject.model).values():
        parameter.grad = None
    whole = sum(p.numel() for p in subject.layers.parameters())

    def run(processes: Processes) -> list[Any]:
        shard_layers(subject.model, processes.size, processes.device)
        held = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in subject.layers.parameters())
        assert not any(isinstance(p, DTensor) for p in trainable_parameters(subject.model).values())
        now = adapter_factors(subject.model)
        assert all(
            torch.equal(now[name].a, part.a) and torch.equal(now[name].b, part.b) for name, part in factors.items()
        )
        first = everything(subject, 5, processes)
        for parameter in trainable_parameters(subject.model).values():
            parameter.grad = None
        return [held, first, everything(subject, 5, processes, twice=True)]

    found = forked(2, tmp_path, run)
    adapter = sum(part.a.numel() + part.b.numel() for part in factors.values())
    assert [held for held, *_ in found] == [adapter + (whole - adapter) // 2] * 2
    for values in (values for _, *both in found for values in both):
        assert values[0] == here[0]
        for one, two in zip(here[1:], values[1:], strict=True):
            assert two == pytest.approx(one, rel=1e-4, abs=1e-5)
