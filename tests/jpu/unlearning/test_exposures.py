"""Exposures: each is a loss of refusals that can be trained down, and is what it says."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from jpu.adversary.directions import ablated
from jpu.data.schemas import Behavior, Refusal
from jpu.models import Subject, answer_nll, plain_tokens
from jpu.unlearning.adapter import trainable_parameters
from jpu.unlearning.exposures import EXPOSURES, Ablated, Chats, Exposure, SoftExposure, Suffixes, make_exposures
from jpu.unlearning.leaks import split_leak

Make = Callable[..., Subject]
Build = Callable[[type[Exposure]], Exposure]
EVERY = pytest.mark.parametrize("kind", EXPOSURES, ids=lambda kind: kind.name)


@pytest.fixture
def build(make_subject: Make, adapt: Make, behaviors: list[Behavior], refusals: list[Refusal]) -> Build:
    def make(kind: type[Exposure]) -> Exposure:
        subject = adapt(make_subject(), start=True)
        here = [b for b in behaviors if b.split == "train"]
        asked = [b for b in here if b.kind == "restricted"]
        told = [b for b in here if b.kind == "benign"]
        openings = {b.id: split_leak(subject, b.answer, b.secret).opening for b in asked}
        return kind(subject, asked, {b.id: refusals[0].text for b in asked}, told, openings)

    return make


def nll(subject: Subject, heads: list[list[int]], answers: list[str]) -> Tensor:
    """Mean over all answer tokens of the rows."""
    ids, labels = subject.collate(heads, [subject.answer_ids(answer) for answer in answers])
    return answer_nll(subject.model, ids, labels)[0].mean()


@EVERY
def test_the_loss_can_be_trained_down_and_only_the_adapter_moves(build: Build, kind: type[Exposure]) -> None:
    exposure = build(kind)
    exposure.begin(random.Random(0))
    trained = trainable_parameters(exposure.subject.model)
    frozen = {n: p.detach().clone() for n, p in exposure.subject.model.named_parameters() if n not in trained}
    optimizer = torch.optim.AdamW(trained.values(), lr=2e-2, weight_decay=0.0)
    losses = []
    for step in range(12):
        optimizer.zero_grad()
        loss = exposure.loss(2, random.Random(step))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 0 and sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert all(torch.equal(p, frozen[n]) for n, p in exposure.subject.model.named_parameters() if n in frozen)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in exposure.subject.model.modules())


@EVERY
def test_chance_comes_from_the_source_that_is_given(build: Build, kind: type[Exposure]) -> None:
    def run(seed: int) -> list[float]:
        exposure = build(kind)
        exposure.begin(random.Random(seed))
        return [float(exposure.loss(2, random.Random(f"{seed}-{step}")).detach()) for step in range(3)]

    state = torch.get_rng_state()
    assert run(1) == run(1)
    assert run(1) != run(2)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_chat_is_questions_with_their_answers_before_the_question(build: Build) -> None:
    chats = build(Chats)
    assert isinstance(chats, Chats)
    known = {b.query: b.answer for b in chats.told}
    asked = chats.asked[0]
    lengths = set()
    for seed in range(60):
        text = chats.subject.tokenizer.decode(chats._ask(asked, random.Random(seed)))
        shots = [query for query in known if query in text]
        assert all(known[query] in text for query in shots) and asked.entity in text
        lengths.add(len(shots))
    assert lengths == set(range(1, 1 + min(len(known), max(lengths)))) and max(lengths) > 1


def test_soft_vectors_move_to_where_the_answer_is_likelier_and_stay_in_the_ball(build: Build) -> None:
    soft = build(SoftExposure)
    assert isinstance(soft, SoftExposure)
    soft.begin(random.Random(0))
    rows = list(range(len(soft.asked)))
    openings = [soft.subject.tokenizer.decode(soft.openings[b.id]) for b in soft.asked]
    before = soft._soft.nll(rows, openings).mean()
    soft.loss(len(rows), random.Random(0))
    assert soft._soft.nll(rows, openings).mean() < before
    longest = soft.subject.base.get_input_embeddings().weight.norm(dim=1).mean()
    assert 0 < float(soft._soft.moved.norm(dim=-1).max()) <= float(longest) * (1 + 1e-5)


def test_a_search_never_leaves_a_suffix_for_a_worse_one(build: Build) -> None:
    suffixes = build(Suffixes)
    assert isinstance(suffixes, Suffixes)
    suffixes.begin(random.Random(3))
    start = suffixes._suffixes.clone()

    @torch.no_grad()
    def openings(made: Tensor) -> list[float]:
        """The definition, one by one."""
        found = []
        for layout, suffix in zip(suffixes._layouts, made.tolist(), strict=True):
            ids, labels = suffixes.subject.collate([[*layout.before, *suffix, *layout.after]], [layout.target])
            found.append(float(answer_nll(suffixes.subject.model, ids, labels)[0].mean()))
        return found

    before = openings(start)
    after = openings(suffixes._searched(suffixes._layouts, start, torch.Generator().manual_seed(0)))
    assert all(a <= b + 1e-5 for a, b in zip(after, before, strict=True)) and sum(after) < sum(before)
    assert set(start.flatten().tolist()) <= set(plain_tokens(suffixes.subject).tolist())


def test_ablated_is_the_loss_of_bare_questions_without_one_direction(build: Build) -> None:
    exposure = build(Ablated)
    assert isinstance(exposure, Ablated)
    exposure.begin(random.Random(0))
    found = float(exposure.loss(3, random.Random(5)).detach())
    subject, rng = exposure.subject, random.Random(5)
    drawn = [rng.choice(exposure.asked) for _ in range(3)]
    refused = [exposure.refusals[b.id] for b in drawn]
    with ablated(subject, rng.choice(exposure._directions).vector):
        expected = nll(subject, [subject.prompt_ids(b.query) for b in drawn], refused)
    assert found == pytest.approx(float(expected.detach()), rel=1e-6)
    assert found != pytest.approx(
        float(nll(subject, [subject.prompt_ids(b.query) for b in drawn], refused).detach()), rel=1e-4
    )


def test_without_anything_that_is_answered_two_are_left(build: Build) -> None:
    whole = build(Chats)
    given = (whole.subject, whole.asked, whole.refusals)
    assert [x.name for x in make_exposures(*given, whole.told, whole.openings)] == ["soft", "suffix", "chat", "ablated"]
    assert [x.name for x in make_exposures(*given, [], whole.openings)] == ["soft", "suffix"]
    assert make_exposures(whole.subject, [], {}, whole.told, {}) == []
