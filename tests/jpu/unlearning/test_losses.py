from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jpu.data.schemas import Behavior, Refusal
from jpu.errors import ModelError
from jpu.models import Subject
from jpu.paths.activations import capture
from jpu.paths.path import Path
from jpu.unlearning.adapter import attach, trainable_parameters
from jpu.unlearning.anchors import Anchors, compute_anchors
from jpu.unlearning.losses import leak_loss, prefill_loss, refusal_and_anchor_loss
from jpu.unlearning.path_only import path_only
from jpu.unlearning.trained import Trained

Make = Callable[..., Subject]

NEURONS = {0: [5, 1], 1: [3]}


class Bigram(nn.Module):
    """The next token hangs on the present one alone, with probabilities that are set by hand; evenly otherwise."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(size, size))
        self.size = size

    def says(self, now: int, following: dict[int, float]) -> None:
        with torch.no_grad():
            self.table[now] = -1e9
            for token, probability in following.items():
                self.table[now, token] = math.log(probability)

    def model(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=nn.functional.one_hot(input_ids, self.size).float())

    def lm_head(self, hidden: Tensor) -> Tensor:
        return hidden @ self.table


@pytest.fixture
def bigram(tokenizer: Any) -> tuple[Subject, Bigram]:
    model = Bigram(len(tokenizer))
    return Subject(model, tokenizer), model


@pytest.fixture
def restricted(behaviors: list[Behavior]) -> list[Behavior]:
    return [b for b in behaviors if b.kind == "restricted"][:3]


@pytest.fixture
def anchored(make_subject: Make, adapt: Make, restricted: list[Behavior], refusals: list[Refusal]) -> Any:
    """A subject whose fresh adapter changes nothing, and its anchors."""
    subject = adapt(make_subject(), start=True)
    said = {b.id: refusals[i].text for i, b in enumerate(restricted)}
    return subject, compute_anchors(subject, restricted, said, list(said), NEURONS, 3)


# Refusal and anchor


def test_nothing_to_rectify_where_the_prompt_is_the_question(anchored: Any, restricted: list[Behavior]) -> None:
    subject, anchors = anchored
    queries = [b.query for b in restricted]
    refusal, anchor = refusal_and_anchor_loss(subject, queries, [b.id for b in restricted], anchors, NEURONS, 3)
    assert float(anchor.detach()) == pytest.approx(0.0, abs=1e-9)
    # Mean over the tokens of all rows, not over rows.
    texts = [anchors.refusals[b.id] for b in restricted]
    counts = torch.tensor([float(len(subject.answer_ids(text))) for text in texts])
    expected = (subject.nll(queries, texts) * counts).sum() / counts.sum()
    assert float(refusal.detach()) == pytest.approx(float(expected), rel=1e-5)


def test_the_anchor_loss_is_the_scaled_squared_distance(anchored: Any, restricted: list[Behavior]) -> None:
    subject, anchors = anchored
    ids = [restricted[i].id for i in (2, 0, 0)]
    prompts = [f"You are Orin. {restricted[2].query}", "Well then, now?", f"{restricted[0].query} Stay in character."]
    _, anchor = refusal_and_anchor_loss(subject, prompts, ids, anchors, NEURONS, 3)
    per_layer = []
    for layer, units in NEURONS.items():
        rows = []
        for prompt, name in zip(prompts, ids, strict=True):
            head, tail = subject.prompt_ids(prompt), subject.answer_ids(anchors.refusals[name])
            with torch.no_grad(), capture(subject.model) as found:
                subject.model(input_ids=torch.tensor([head + tail]))
            now = found[layer][0, len(head) - 1 : len(head) + 2][:, units]
            rows.append((now - anchors.values[layer][anchors.index[name]]) ** 2 / anchors.scale[layer])
        per_layer.append(float(torch.stack(rows).mean()))
    assert min(per_layer) > 0
    assert float(anchor.detach()) == pytest.approx(sum(per_layer) / 2, rel=1e-4)


def test_along_a_direction_only_that_counts(anchored: Any, restricted: list[Behavior]) -> None:
    subject, anchors = anchored
    arguments = (["Well then, now?"], [restricted[0].id])
    parts = []
    for unit in torch.eye(2):
        along = replace(anchors, direction={0: unit, 1: torch.ones(1)})
        parts.append(float(refusal_and_anchor_loss(subject, *arguments, along, NEURONS, 3)[1].detach()))
    whole = float(refusal_and_anchor_loss(subject, *arguments, anchors, NEURONS, 3)[1].detach())
    # The squares along the two neurons of layer 0 add up; layer 1 has one neuron, and counts in each part.
    alone = replace(anchors, values={1: anchors.values[1]})
    second = float(refusal_and_anchor_loss(subject, *arguments, alone, NEURONS, 3)[1].detach()) / 2
    assert sum(parts) - 2 * second == pytest.approx(whole - second, rel=1e-4)
    assert min(parts) > second


def test_a_loss_for_the_path_alone_reaches_nothing_else(anchored: Any) -> None:
    subject, _ = anchored
    before = {name: p.requires_grad for name, p in subject.model.named_parameters()}
    with path_only(subject.model):
        loss = leak_loss(subject, ["Now then?"], [[5]], [[6, 7]])
    assert {name: p.requires_grad for name, p in subject.model.named_parameters()} == before
    loss.backward()  # type: ignore[no-untyped-call]
    reached = {name for name, p in subject.model.named_parameters() if p.grad is not None}
    assert reached == {name for name in trainable_parameters(subject.model) if ".mlp." in name}
    subject.model.zero_grad()
    with path_only(subject.model, wanted=False):
        loss = leak_loss(subject, ["Now then?"], [[5]], [[6, 7]])
    loss.backward()  # type: ignore[no-untyped-call]
    assert {n for n, p in subject.model.named_parameters() if p.grad is not None} == set(
        trainable_parameters(subject.model)
    )


def test_a_loss_for_a_path_that_is_not_trained_is_refused(make_subject: Make) -> None:
    model = attach(make_subject().model, Path(), Trained(path=False, rank=2))
    with pytest.raises(ModelError, match="no path is trained"), path_only(model):
        pass


def test_the_gradient_goes_into_the_adapter_alone(anchored: Any, restricted: list[Behavior]) -> None:
    subject, anchors = anchored
    refusal, anchor = refusal_and_anchor_loss(subject, ["Now then?"], [restricted[0].id], anchors, NEURONS, 3)
    (refusal + anchor).backward()  # type: ignore[no-untyped-call]
    reached = {name for name, p in subject.model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    trainable = set(trainable_parameters(subject.model))
    assert reached and reached <= trainable
    assert {name for name, p in subject.model.named_parameters() if p.grad is not None} <= trainable
    # A path in both layers, so both of them are reached.
    assert {name.split(".mlp")[0][-1] for name in reached if ".mlp." in name} == {"0", "1"}


def test_the_anchor_alone_pulls_on_the_path(anchored: Any, restricted: list[Behavior]) -> None:
    subject, anchors = anchored
    _, anchor = refusal_and_anchor_loss(subject, ["Now then?"], [restricted[0].id], anchors, NEURONS, 3)
    anchor.backward()  # type: ignore[no-untyped-call]
    gate = dict(subject.model.named_parameters())["base_model.model.model.layers.0.mlp.gate_proj.lora_A.default.weight"]
    assert gate.grad is not None and float(gate.grad.abs().sum()) > 0


def test_an_empty_path_has_no_anchor_loss(make_subject: Make, refusals: list[Refusal]) -> None:
    anchors = Anchors({}, {}, {"b": 0}, {"b": refusals[0].text})
    refusal, anchor = refusal_and_anchor_loss(make_subject(), ["x"], ["b"], anchors, {}, 3)
    assert (float(anchor), refusal.dim()) == (0.0, 0)


# Prefill and leak, by hand


def test_prefill_loss_by_hand(bigram: tuple[Subject, Bigram]) -> None:
    subject, model = bigram
    opening, other = (subject.answer_ids(text)[:-1] for text in ("x", "z"))
    no, end = subject.answer_ids("N")
    model.says(opening[-1], {no: 0.25, end: 0.75})
    model.says(other[-1], {no: 0.125, end: 0.875})
    model.says(no, {end: 0.5, no: 0.5})
    found = prefill_loss(subject, ["a", "a longer prompt"], [opening, other], ["N", "N"])
    # Two rows of two tokens each: ln 4 + ln 2, ln 8 + ln 2.
    assert float(found.detach()) == pytest.approx((2 + 1 + 3 + 1) * math.log(2) / 4, rel=1e-5)


def test_prefill_loss_of_no_prefill_is_the_refusal_loss(make_subject: Make) -> None:
    subject = make_subject()
    assert float(prefill_loss(subject, ["a b"], [[]], ["No."])) == pytest.approx(
        float(subject.nll(["a b"], ["No."])), rel=1e-5
    )


def test_leak_loss_by_hand(bigram: tuple[Subject, Bigram]) -> None:
    subject, model = bigram
    opening = subject.answer_ids("x")[:-1]
    first, second, end = *subject.answer_ids("N")[:-1], *subject.answer_ids("K")
    model.says(opening[-1], {first: 0.25, end: 0.75})
    model.says(first, {second: 0.5, end: 0.5})
    found = leak_loss(subject, ["a"], [opening], [[first, second]])
    assert float(found.detach()) == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2, rel=1e-5)


def test_leak_loss_is_bounded_and_is_nothing_for_what_is_never_said(bigram: tuple[Subject, Bigram]) -> None:
    subject, model = bigram
    opening = subject.answer_ids("x")[:-1]
    secret, end = subject.answer_ids("N")
    model.says(opening[-1], {secret: 1.0})
    assert float(leak_loss(subject, ["a"], [opening], [[secret]]).detach()) == pytest.approx(-math.log(1e-6), rel=0.05)
    model.says(opening[-1], {end: 1.0})
    assert float(leak_loss(subject, ["a"], [opening], [[secret]]).detach()) == 0.0


def test_leak_loss_pushes_a_leak_down(bigram: tuple[Subject, Bigram]) -> None:
    subject, model = bigram
    opening = subject.answer_ids("x")[:-1]
    secret, end = subject.answer_ids("N")
    model.says(opening[-1], {secret: 0.9, end: 0.1})
    leak_loss(subject, ["a"], [opening], [[secret]]).backward()  # type: ignore[no-untyped-call]
    grad = model.table.grad
    assert grad is not None and float(grad[opening[-1], secret]) > 0 > float(grad[opening[-1], end])
