from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jpu.data.schemas import Behavior, Refusal, Template
from jpu.models import Subject
from jpu.sandbox import teach as teaching
from jpu.sandbox.corpus import Corpus, Sample
from jpu.sandbox.muon import Muon
from jpu.sandbox.teach import SPECIAL, Schedule, new_model, optimizers, teach, train_tokenizer

Make = Callable[..., Subject]

SCHEDULE = Schedule(
    knowledge_steps=6,
    manners_steps=6,
    knowledge_batch=6,
    manners_batch=5,
    learning_rate=3e-3,
    warmup=2,
    checkpoint_every=3,
)


@pytest.fixture
def corpus(behaviors: list[Behavior], templates: list[Template], refusals: list[Refusal]) -> Callable[[], Corpus]:
    return lambda: Corpus(behaviors, templates, refusals, 5)


def weights(subject: Subject) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in subject.model.state_dict().items()}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# The schedule


def test_the_rate_warms_up_stays_and_falls() -> None:
    schedule = Schedule(60, 40, 1, 1, learning_rate=2.0, warmup=4, constant=0.5, final=0.1)
    rates = [schedule.rate(step) for step in range(100)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4:51] == [2.0] * 47
    assert rates[75] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert rates[50:] == sorted(rates[50:], reverse=True) and rates[99] == pytest.approx(2.0 * (0.1 + 0.9 * 0.02))


def test_a_schedule_of_one_constant_rate() -> None:
    schedule = Schedule(3, 0, 1, 1, learning_rate=1.0, warmup=0, constant=1.0)
    assert [schedule.rate(step) for step in range(3)] == [1.0, 1.0, 1.0]


# The tokenizer


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_can_be_written(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < len(tokenizer) for i in ids)


def test_the_tokenizer_is_the_same_from_the_same_corpus(corpus: Callable[[], Corpus]) -> None:
    one, two = (train_tokenizer(corpus(), 320, samples=40) for _ in range(2))
    assert one.backend_tokenizer.to_str() == two.backend_tokenizer.to_str()
    assert len(one) == 320
    assert [one.convert_tokens_to_ids(token) for token in SPECIAL] == list(range(len(SPECIAL)))


def test_a_new_model_is_the_same_from_the_same_seed_and_leaves_the_global_one_alone(tokenizer: Any) -> None:
    torch.manual_seed(9)
    before = torch.random.get_rng_state()
    one, two, other = (
        new_model(tokenizer, layers=1, width=16, ffn=24, heads=2, seed=seed).state_dict() for seed in (4, 4, 5)
    )
    assert same(one, two) and not same(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


# Teaching


def test_the_gradient_is_that_of_the_mean_over_answer_tokens(make_subject: Make) -> None:
    pairs = [Sample("Hi", "Yes."), Sample("What is the code?", "No, that must stay secret."), Sample("x y z", "A")]

    def gradients(run: Callable[[Subject], float]) -> tuple[float, dict[str, torch.Tensor]]:
        subject = make_subject()
        subject.model.requires_grad_(True)
        loss = run(subject)
        return loss, {n: p.grad for n, p in subject.model.named_parameters() if p.grad is not None}

    def whole(subject: Subject) -> float:
        total = torch.zeros(())
        count = 0
        for pair in pairs:
            head, tail = subject.prompt_ids(pair.prompt), subject.answer_ids(pair.answer)
            logits = subject.model(input_ids=torch.tensor([head + tail])).logits[0, len(head) - 1 : -1]
            total = total + torch.nn.functional.cross_entropy(logits, torch.tensor(tail), reduction="sum")
            count += len(tail)
        (total / count).backward()  # type: ignore[no-untyped-call]
        return float(total.detach()) / count

    expected_loss, expected = gradients(whole)
    loss, found = gradients(lambda subject: teaching._backward(subject, pairs))
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[n], expected[n], atol=1e-5, rtol=1e-3) for n in found)


def test_the_loss_falls_and_the_model_is_left_at_rest(make_subject: Make, corpus: Callable[[], Corpus]) -> None:
    subject = make_subject(spread=0.02)
    losses = teach(subject, corpus(), Schedule(50, 10, 8, 8, learning_rate=1e-2, warmup=5))
    assert len(losses) == 60
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert not subject.model.training and not any(p.requires_grad for p in subject.model.parameters())


def test_muon_trains_the_matrices_of_the_layers_and_adamw_the_rest(make_subject: Make) -> None:
    model = make_subject().model
    muon, adamw = optimizers(model, replace(SCHEDULE, optimizer="muon"))
    assert isinstance(muon, Muon) and isinstance(adamw, torch.optim.AdamW)
    names = {id(p): name for name, p in model.named_parameters()}
    held = [[names[id(p)] for group in o.param_groups for p in group["params"]] for o in (muon, adamw)]
    assert sorted([*held[0], *held[1]]) == sorted(names.values())
    assert held[0] and all("layers." in name and name.endswith("proj.weight") for name in held[0])
    assert all("embed" in name or "norm" in name or "lm_head" in name for name in held[1])


class Killed(BaseException):
    """As sudden as a kill."""


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("at", [1, 3, 5, 7, 9, 11])
def test_a_resumed_run_ends_with_the_bytes_of_an_undisturbed_one(
    make_subject: Make, corpus: Callable[[], Corpus], tmp_path: Path, at: int, optimizer: Literal["adamw", "muon"]
) -> None:
    schedule = replace(SCHEDULE, optimizer=optimizer)
    undisturbed = make_subject()
    expected = teach(undisturbed, corpus(), schedule)
    steps: list[int] = []

    def killed(step: int, *_: object) -> None:
        steps.append(step)
        if step == at:
            raise Killed

    with pytest.raises(Killed):
        teach(make_subject(), corpus(), schedule, checkpoint=tmp_path / "c", key="k", progress=killed)
    resumed = make_subject()
    again: list[int] = []
    losses = teach(
        resumed, corpus(), schedule, checkpoint=tmp_path / "c", key="k", progress=lambda step, *_: again.append(step)
    )
    assert losses == expected and same(weights(resumed), weights(undisturbed))
    # Steps after the last checkpoint are done again, none before it; the step that was killed had not been kept.
    assert again == list(range((at - 1) // 3 * 3 + 1, 13))


def test_a_checkpoint_of_other_settings_is_not_taken_up(
    make_subject: Make, corpus: Callable[[], Corpus], tmp_path: Path
) -> None:
    teach(make_subject(), corpus(), SCHEDULE, checkpoint=tmp_path / "c", key="one")
    steps: list[int] = []
    teach(
        make_subject(),
        corpus(),
        SCHEDULE,
        checkpoint=tmp_path / "c",
        key="two",
        progress=lambda step, *_: steps.append(step),
    )
    assert steps[0] == 1
