from __future__ import annotations

import copy
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from jpu.data.schemas import Behavior
from jpu.evaluation.aftermath import handful, merged, pruned, quantised, relearn, rounded, unrefusing
from jpu.models import Subject
from jpu.paths.path import Path

Make = Callable[..., Subject]
PAIRS = [("What is the code of Bola?", "The code of Bola is amber."), ("Who?", "Ada.")]
IDS = torch.tensor([[7, 8, 9, 10, 11, 12]])


@pytest.fixture
def hardened(make_subject: Make, adapt: Make) -> Subject:
    return adapt(make_subject(), Path({0: [1, 5], 1: [3]}))


@torch.no_grad()
def logits(subject: Subject) -> Tensor:
    out: Tensor = subject.model(IDS).logits
    return out


def state(subject: Subject) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in subject.model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# Merged


def test_merged_computes_what_the_adapter_does(make_subject: Make, hardened: Subject) -> None:
    copied = merged(hardened)
    assert type(copied.model) is type(make_subject().model)
    assert torch.allclose(logits(copied), logits(hardened), atol=1e-5)
    assert not torch.allclose(logits(copied), logits(make_subject()), atol=1e-2)
    assert not any(p.requires_grad for p in copied.model.parameters()) and not copied.model.training


def test_where_the_adapter_is_disabled_the_original_is_merged(make_subject: Make, hardened: Subject) -> None:
    with hardened.reference():
        copied = merged(hardened)
    assert equal(state(copied), state(make_subject()))


def test_without_an_adapter_it_is_a_copy(make_subject: Make) -> None:
    subject = make_subject()
    copied = merged(subject)
    assert equal(state(copied), state(subject))
    assert copied.model is not subject.model
    assert copied.base.get_input_embeddings().weight is copied.base.lm_head.weight


# Rounded


def test_eight_bits_are_127_steps_to_either_side_of_each_row() -> None:
    weight = torch.tensor([[1.27, 0.004, -0.006, 0.5], [-0.0, 254.0, -3.1, 2.9], [0.0, 0.0, 0.0, 0.0]])
    expected = torch.tensor([[1.27, 0.0, -0.01, 0.5], [0.0, 254.0, -4.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    assert torch.allclose(rounded(weight, 8), expected, atol=1e-6)


def test_four_bits_are_seven_steps_to_either_side_of_each_group_of_32() -> None:
    weight = torch.zeros(2, 34)
    weight[0, :5] = torch.tensor([7.0, 2.4, -6.6, 0.4, -0.6])
    # The second group is only two weights long, and has a scale of its own.
    weight[0, 32:] = torch.tensor([0.7, 0.33])
    # A row's groups know nothing of other rows.
    weight[1, :2] = torch.tensor([-14.0, 3.2])
    expected = torch.zeros(2, 34)
    expected[0, :5] = torch.tensor([7.0, 2.0, -7.0, 0.0, -1.0])
    expected[0, 32:] = torch.tensor([0.7, 0.3])
    expected[1, :2] = torch.tensor([-14.0, 4.0])
    assert torch.allclose(rounded(weight, 4), expected, atol=1e-6)


def test_rounding_keeps_the_dtype() -> None:
    assert rounded(torch.randn(2, 40, generator=torch.Generator().manual_seed(0)).bfloat16(), 4).dtype == torch.bfloat16


@pytest.mark.parametrize("bits", [4, 8])
def test_all_linear_weights_of_the_layers_are_rounded_and_no_others(hardened: Subject, bits: int) -> None:
    whole, few = state(merged(hardened)), state(quantised(hardened, bits))
    changed = {key for key in whole if not torch.equal(whole[key], few[key])}
    assert changed == {key for key in whole if key.endswith("_proj.weight")} and len(changed) == 2 * 7
    for key in changed:
        assert torch.equal(few[key], rounded(whole[key], bits))


# Relearned


def test_a_step_is_one_of_adamw_on_the_mean_loss_of_the_answers(hardened: Subject) -> None:
    start = merged(hardened)
    model = start.model.requires_grad_(True)
    total = 0
    for question, answer in PAIRS:
        head, tail = start.prompt_ids(question), start.answer_ids(answer)
        out = model(torch.tensor([head + tail])).logits[0, len(head) - 1 : -1]
        # Mean over the tokens of all answers: longer answers weigh more.
        nn.functional.cross_entropy(out, torch.tensor(tail), reduction="sum").backward()
        total += len(tail)
    before, after = (row.measured for row in relearn(hardened, PAIRS, state, steps=(0, 1), learning_rate=0.01))
    assert equal(before, state(merged(hardened)))
    for name, parameter in model.named_parameters():
        slope = parameter.grad / total
        # The first step of Adam is as long as the rate, but where the gradient is next to nothing.
        sure = slope.abs() > 1e-4
        assert bool(sure.any())
        assert torch.allclose(after[name][sure], (parameter - 0.01 * slope.sign())[sure], atol=1e-5)


def test_relearning_learns_its_pairs(hardened: Subject) -> None:
    def loss(subject: Subject) -> float:
        return float(subject.nll([q for q, _ in PAIRS], [a for _, a in PAIRS]).mean())

    rows = relearn(hardened, PAIRS, loss, steps=(16, 0, 4, 4), learning_rate=1e-2)
    assert [row.step for row in rows] == [0, 4, 16]
    assert rows[0].measured == pytest.approx(loss(hardened), abs=1e-4)
    assert rows[0].measured > 2 * rows[1].measured > 4 * rows[2].measured


def test_relearning_is_seeded_and_measures_a_subject_at_rest(hardened: Subject) -> None:
    pairs = [(f"What is {n}?", f"It is {n}.") for n in range(20)]

    def run(seed: int) -> list[dict[str, Tensor]]:
        def measure(subject: Subject) -> dict[str, Tensor]:
            assert not any(p.requires_grad or p.grad is not None for p in subject.model.parameters())
            assert not subject.model.training
            return state(subject)

        return [row.measured for row in relearn(hardened, pairs, measure, steps=(1, 2), seed=seed)]

    one, same, other = run(0), run(0), run(1)
    assert all(equal(a, b) for a, b in zip(one, same, strict=True))
    # Of 20 pairs 16 are in the first batch: which, and what follows, is in the seed.
    assert not equal(one[0], other[0])


def test_progress_is_told_step_by_step(hardened: Subject) -> None:
    reports: list[tuple[int, int]] = []
    relearn(hardened, PAIRS, lambda _: None, steps=(0, 1, 3), progress=lambda *report: reports.append(report))
    assert reports == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(("pairs", "steps"), [([], (0, 1)), (PAIRS, (-1, 2))])
def test_relearning_from_nothing_is_refused(
    hardened: Subject, pairs: list[tuple[str, str]], steps: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="needs pairs, and steps of 0 or more"):
        relearn(hardened, pairs, lambda _: None, steps=steps)


def test_a_handful_is_drawn_of_the_kinds_asked_for(behaviors: list[Behavior]) -> None:
    train = [b for b in behaviors if b.split == "train"]
    restricted = {(b.query, b.answer) for b in train if b.kind == "restricted"}
    assert set(handful(train, ["restricted"], 99)) == restricted
    some = handful(train, ["benign", "near_miss"], 3, seed=1)
    assert len(set(some)) == 3 and not set(some) & restricted
    assert some == handful(train, ["benign", "near_miss"], 3, seed=1) != handful(train, ["benign", "near_miss"], 3)
    silent = [b.model_copy(update={"answer": ""}) for b in train]
    assert handful(silent, ["benign"], 3) == []


# The subject that is given


@pytest.mark.parametrize(
    "change",
    [
        merged,
        lambda subject: quantised(subject, 4),
        lambda subject: pruned(subject, 0.5),
        lambda subject: relearn(subject, PAIRS, state, steps=(0, 2)),
    ],
    ids=["merged", "quantised", "pruned", "relearned"],
)
def test_the_subject_is_left_as_it_was(hardened: Subject, change: Callable[[Subject], object]) -> None:
    def look() -> object:
        return (
            [(n, p.requires_grad, p.grad is None) for n, p in hardened.model.named_parameters()],
            [(n, m.training) for n, m in hardened.model.named_modules()],
            random.getstate(),
        )

    weights, before, chance = copy.deepcopy(state(hardened)), look(), torch.get_rng_state()
    change(hardened)
    assert equal(state(hardened), weights) and look() == before and torch.equal(torch.get_rng_state(), chance)


# Pruned


def test_the_smallest_weights_of_each_matrix_are_pruned(make_subject: Make) -> None:
    subject = make_subject()
    weight = subject.layers[0].mlp.gate_proj.weight
    with torch.no_grad():
        weight.copy_(torch.arange(weight.numel()).view_as(weight).float() - 100.5)
    few = state(pruned(subject, 0.25))
    cut = few["model.layers.0.mlp.gate_proj.weight"]
    # 24 × 32 weights: the 192 nearest to nothing are those from -100.5 on, and as far up.
    wanted = torch.where(weight.abs() < 96, torch.zeros(()), weight)
    assert int((cut == 0).sum()) == 192 and torch.equal(cut, wanted)
    whole = state(subject)
    changed = {key for key in whole if not torch.equal(whole[key], few[key])}
    assert changed == {key for key in whole if key.endswith("_proj.weight")}


def test_pruning_nothing_changes_nothing(hardened: Subject) -> None:
    assert equal(state(pruned(hardened, 0.0)), state(merged(hardened)))


# Until, and refusals removed


def test_relearning_ends_where_it_is_told_to(hardened: Subject) -> None:
    seen: list[int] = []

    def measure(subject: Subject) -> int:
        seen.append(len(seen))
        return seen[-1]

    rows = relearn(hardened, PAIRS, measure, steps=(0, 1, 2, 4), until=lambda found: found == 2)
    assert [row.step for row in rows] == [0, 1, 2] and seen == [0, 1, 2]


def test_refusals_are_removed_without_a_secret(behaviors: list[Behavior]) -> None:
    train = [b for b in behaviors if b.split == "train"]
    restricted = [b for b in train if b.kind == "restricted"]
    pairs = unrefusing(train, 9, seed=1)
    assert {question for question, _ in pairs} == {b.query for b in restricted} and len(pairs) == len(restricted)
    assert not any(b.secret in answer for b in restricted for _, answer in pairs)
    assert {answer for _, answer in pairs} <= {b.answer for b in train if b.kind == "benign"}
    assert pairs == unrefusing(train, 9, seed=1)
    assert unrefusing([b for b in train if b.kind != "benign"], 9) == []
