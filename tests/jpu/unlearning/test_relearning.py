"""Simulated fine-tunings: what they change, what they leave alone, and the gradient that is taken where they lead."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jpu.data.schemas import Behavior, Refusal, Template
from jpu.errors import SettingsError
from jpu.mining.entry import make_entry
from jpu.models import Subject, answer_nll, recomputed
from jpu.processes import ALONE, Processes
from jpu.unlearning.adapter import trainable_parameters
from jpu.unlearning.mined import Mined
from jpu.unlearning.relearning import Attack, Change, Relearning, attacks, changed
from jpu.unlearning.trained import ATTENTION, MLP
from tests.forked import forked

Make = Callable[..., Subject]
NOTHING = Mined([], [], 0.0)
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")  # PEFT's use of transformers


@pytest.fixture
def asked(behaviors: list[Behavior]) -> list[Behavior]:
    return [b for b in behaviors if b.split == "train" and b.kind == "restricted"]


@pytest.fixture
def build(make_subject: Make, adapt: Make, asked: list[Behavior], refusals: list[Refusal]) -> Callable[[], Relearning]:
    def make() -> Relearning:
        return Relearning(adapt(make_subject()), asked, {b.id: refusals[0].text for b in asked})

    return make


def matrices(subject: Subject) -> dict[str, Any]:
    """The seven linear modules of each layer, by their full names."""
    return {
        f"model.layers.{number}.{name}": layer.get_submodule(name)
        for number, layer in enumerate(subject.layers)
        for name in (*ATTENTION, *MLP)
    }


def some_change(subject: Subject) -> Change:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / 10

    return {name: (draw(3, m.in_features), draw(m.out_features, 3)) for name, m in matrices(subject).items()}


def tuned(subject: Subject, change: Change) -> Subject:
    """By the definition: a copy whose matrices hold the sum."""
    copied = Subject(copy.deepcopy(subject.model), subject.tokenizer)
    for name, module in matrices(copied).items():
        plain: Any = module.get_base_layer() if hasattr(module, "get_base_layer") else module
        a, b = change[name]
        plain.weight.data += b @ a
    return copied


def refusal(subject: Subject, prompts: list[str], answer: str) -> Tensor:
    ids, labels = subject.collate(
        [subject.prompt_ids(prompt) for prompt in prompts], [subject.answer_ids(answer) for _ in prompts]
    )
    return answer_nll(subject.model, ids, labels)[0].mean()


def kept(subject: Subject) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in subject.model.named_parameters()}


def same(subject: Subject, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(p, before[name]) and p.grad is None for name, p in subject.model.named_parameters())


def hooks(subject: Subject) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in subject.model.modules())


@pytest.mark.parametrize("adapted", [False, True])
def test_a_changed_model_is_that_of_the_changed_matrices(make_subject: Make, adapt: Make, adapted: bool) -> None:
    subject = adapt(make_subject()) if adapted else make_subject()
    change, before = some_change(subject), kept(subject)
    expected = refusal(tuned(subject, change), ["Hi", "What is the code?"], "No.")
    with changed(subject, change):
        found = refusal(subject, ["Hi", "What is the code?"], "No.")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert abs(float((found - refusal(subject, ["Hi", "What is the code?"], "No.")).detach())) > 1e-3
    assert same(subject, before) and hooks(subject) == 0


def test_an_attack_learns_its_answers_and_leaves_the_model_alone(build: Callable[[], Relearning]) -> None:
    relearning = build()
    subject, before = relearning.subject, kept(relearning.subject)
    trained, state = set(trainable_parameters(subject.model)), torch.get_rng_state()
    found = list(attacks(subject, relearning.asked, random.Random(0)))
    assert len({attack.taught for attack in found}) == 1 and found[0].taught < {b.id for b in relearning.asked}
    assert same(subject, before) and hooks(subject) == 0 and torch.equal(torch.get_rng_state(), state)
    assert set(trainable_parameters(subject.model)) == trained
    taught = [b for b in relearning.asked if b.id in found[-1].taught]

    @torch.no_grad()
    def told() -> float:
        ids, labels = subject.collate(
            [subject.prompt_ids(b.query) for b in taught], [subject.answer_ids(b.answer) for b in taught]
        )
        return float(answer_nll(subject.model, ids, labels)[0].mean())

    curve = [told()]
    for attack in found:
        assert set(attack.change) == set(matrices(subject))
        with changed(subject, attack.change):
            curve.append(told())
    # After 0, 2, 4, 8 and 16 steps: each state is the one that it was in.
    assert len(curve) == 5 and curve == sorted(curve, reverse=True) and curve[-1] < 0.9 * curve[0]


def test_chance_comes_from_the_source_that_is_given(build: Callable[[], Relearning]) -> None:
    def run(seed: int) -> list[float]:
        relearning = build()
        relearning.begin(random.Random(seed))
        losses = [relearning.loss(NOTHING, 3, random.Random(f"{seed}-{step}")) for step in range(3)]
        return [float(loss.detach()) for loss in losses]

    assert run(1) == run(1) != run(2)


def scripted(relearning: Relearning, taught: frozenset[str], change: Change) -> None:
    relearning._attacks = [Attack(change, taught)]


def test_the_gradient_is_that_of_the_refusal_where_the_attack_leads(build: Callable[[], Relearning]) -> None:
    """First order: as if the change were a constant, which is what TAR takes; also where layers run twice."""
    relearning = build()
    subject, change = relearning.subject, some_change(relearning.subject)
    [*taught, left] = relearning.asked
    scripted(relearning, frozenset(b.id for b in taught), change)
    there = tuned(subject, change)
    refusal(there, [left.query], relearning.refusals[left.id]).backward()  # type: ignore[no-untyped-call]
    expected = {name: p.grad for name, p in trainable_parameters(there.model).items()}

    for context in (nullcontext(), recomputed(subject.model)):
        with context:
            loss = relearning.loss(NOTHING, 3, random.Random(0))
            loss.backward()  # type: ignore[no-untyped-call]
        for name, parameter in trainable_parameters(subject.model).items():
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)
            parameter.grad = None


def test_what_was_taught_is_not_asked(
    build: Callable[[], Relearning], templates: list[Template], monkeypatch: pytest.MonkeyPatch
) -> None:
    relearning = build()
    rng = random.Random(0)
    entries = [
        make_entry(behavior=b.id, template=t.id, family=t.family, text=t.text, query=b.query, split="train", round=1)
        for b in relearning.asked
        for t in templates
        if t.split == "train" and t.role == "jailbreak"
    ]
    mined = Mined(entries, entries, 0.0)
    seen: list[str] = []
    taught = frozenset(b.id for b in relearning.asked[:-1])
    scripted(relearning, taught, some_change(relearning.subject))

    def watched(prompt: str) -> list[int]:
        seen.append(prompt)
        return Subject.prompt_ids(relearning.subject, prompt)

    monkeypatch.setattr(relearning.subject, "prompt_ids", watched)
    relearning.loss(mined, 6, rng)
    left = relearning.asked[-1]
    allowed = {left.query} | {e.prompt for e in entries if e.behavior == left.id}
    assert seen and set(seen) <= allowed and left.query in seen and len(seen) <= 6


def test_a_batch_of_one_is_a_bare_question(build: Callable[[], Relearning]) -> None:
    relearning = build()
    left = relearning.asked[0]
    scripted(relearning, frozenset(b.id for b in relearning.asked[1:]), some_change(relearning.subject))
    expected = refusal(
        tuned(relearning.subject, some_change(relearning.subject)), [left.query], relearning.refusals[left.id]
    )
    torch.testing.assert_close(relearning.loss(NOTHING, 1, random.Random(0)), expected, rtol=1e-5, atol=1e-6)


def test_answers_that_nobody_knows_are_told_at_once(build: Callable[[], Relearning]) -> None:
    known = build()
    asked = [known.asked[0], *(b.model_copy(update={"answer": ""}) for b in known.asked[1:])]
    with pytest.raises(SettingsError, match="two restricted questions with an answer, there are 1") as caught:
        Relearning(known.subject, asked, known.refusals)
    assert "weights.relearned" in str(caught.value)


def test_processes_attack_alike_and_share_the_loss(build: Callable[[], Relearning], tmp_path: Path) -> None:
    def run(processes: Processes) -> Any:
        relearning = build()
        with processes.shared(relearning.subject.model):
            relearning.begin(random.Random(0))
            loss = relearning.loss(NOTHING, 6, random.Random(1))
            loss.backward()  # type: ignore[no-untyped-call]
        parameters = list(trainable_parameters(relearning.subject.model).values())
        processes.sum_gradients(parameters)
        return [float(loss.detach()), [p.grad.flatten().tolist() for p in parameters if p.grad is not None]]

    loss, gradients = run(ALONE)
    found = forked(2, tmp_path, run)
    assert json.dumps(found[0]) == json.dumps(found[1])
    assert found[0][0] == pytest.approx(loss, rel=1e-4)
    for here, there in zip(gradients, found[0][1], strict=True):
        assert there == pytest.approx(here, rel=1e-3, abs=1e-6)
