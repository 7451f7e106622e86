from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from jpu.errors import ModelError
from jpu.models import (
    Subject,
    answer_logits,
    answer_nll,
    length_groups,
    pad,
    pick_device,
    pick_dtype,
    token_batches,
)

Make = Callable[..., Subject]

PROMPTS = ["Hi", "What is the code of Zoruk?", "Hi", "A longer question, with more words in it?", "Hi", ""]
ANSWERS = ["Yes.", "No, that must stay secret.", "The code is amber dune.", "A", "Yes.", "I am sorry, that is private."]
ROWS = st.lists(st.lists(st.integers(1, 50), max_size=9), min_size=1, max_size=12)


def brute_nll(subject: Subject, prompt: str, answer: str) -> float:
    """One row, no batch, no cache."""
    head, tail = subject.prompt_ids(prompt), subject.answer_ids(answer)
    with torch.no_grad():
        logits = subject.model(input_ids=torch.tensor([head + tail]), use_cache=False).logits[0].double()
    wanted = torch.tensor(tail)
    return float(-logits[len(head) - 1 : -1].log_softmax(-1).gather(-1, wanted[:, None]).mean())


def brute_greedy(subject: Subject, prompt: str, prefill: str = "", steps: int = 12) -> str:
    """One row, the whole text again for each token."""
    ids = subject.prompt_ids(prompt, prefill)
    new: list[int] = []
    with torch.no_grad():
        for _ in range(steps):
            token = int(subject.model(input_ids=torch.tensor([ids + new]), use_cache=False).logits[0, -1].argmax())
            if token == subject.tokenizer.eos_token_id:
                break
            new.append(token)
    text: str = subject.tokenizer.decode(new, skip_special_tokens=True)
    return text.strip()


# Batches


@given(st.lists(st.integers(0, 60), max_size=40), st.integers(1, 200))
def test_batches_hold_every_row_once_within_the_bound(lengths: list[int], bound: int) -> None:
    batches = list(token_batches(lengths, bound))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= bound for batch in batches)
    order = [lengths[i] for batch in batches for i in batch]
    assert order == sorted(order, reverse=True)


@given(ROWS, st.booleans())
def test_padding_hides_nothing_and_adds_nothing(rows: list[list[int]], left: bool) -> None:
    ids, mask = pad(rows, 0, left=left)
    assert ids.shape == mask.shape == (len(rows), max(map(len, rows)))
    for row, found, real in zip(rows, ids, mask, strict=True):
        assert found[real.bool()].tolist() == row
        assert found[~real.bool()].tolist() == [0] * (ids.shape[1] - len(row))
        edge = real if left else real.flip(0)
        assert edge.tolist() == sorted(edge.tolist())


# Scoring


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("batch_tokens", [1, 60, 8192])
def test_nll_is_that_of_each_row_by_itself(
    make_subject: Make, adapt: Make, key_heads: int, adapted: bool, batch_tokens: int
) -> None:
    subject = make_subject(key_heads=key_heads)
    if adapted:
        adapt(subject)
    expected = [brute_nll(subject, p, a) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    found = subject.nll(PROMPTS, ANSWERS, batch_tokens=batch_tokens)
    assert (found.shape, found.dtype, found.device.type) == ((6,), torch.float32, "cpu")
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


@settings(max_examples=12)
@given(rng=st.randoms(use_true_random=False), batch_tokens=st.integers(20, 400))
def test_nll_knows_no_order(make_subject: Make, rng: random.Random, batch_tokens: int) -> None:
    subject = make_subject()
    pairs = [(p, a) for p in PROMPTS[1:4] for a in ANSWERS[:4]]
    base = dict(zip(pairs, subject.nll(*map(list, zip(*pairs, strict=True))).tolist(), strict=True))
    drawn = rng.choices(pairs, k=9)
    found = subject.nll([p for p, _ in drawn], [a for _, a in drawn], batch_tokens=batch_tokens)
    assert found.tolist() == pytest.approx([base[pair] for pair in drawn], abs=1e-5)


def test_nll_of_nothing(make_subject: Make) -> None:
    assert make_subject().nll([], []).shape == (0,)


def test_nll_runs_a_repeated_prompt_once(make_subject: Make) -> None:
    subject = make_subject()
    rows: list[int] = []
    subject.base.model.register_forward_pre_hook(
        lambda _, __, given: rows.append(given["input_ids"].numel()), with_kwargs=True
    )
    subject.nll([PROMPTS[1]] * 5, ANSWERS[:5])
    head = len(subject.prompt_ids(PROMPTS[1]))
    assert rows == [head, *(len(subject.answer_ids(a)) - 1 for a in ANSWERS[:5])]


def test_answer_nll_agrees_with_nll_and_says_whose_token_it_is(make_subject: Make) -> None:
    subject = make_subject()
    heads, tails = [subject.prompt_ids(p) for p in PROMPTS], [subject.answer_ids(a) for a in ANSWERS]
    batch = subject.collate(heads, tails)
    losses, owner = answer_nll(subject.model, *batch)
    means = [float(losses[owner == row].mean()) for row in range(len(PROMPTS))]
    assert means == pytest.approx(subject.nll(PROMPTS, ANSWERS).tolist(), abs=1e-5)
    _, targets, _ = answer_logits(subject.model, *batch)
    assert [targets[owner == row].tolist() for row in range(len(PROMPTS))] == tails


@pytest.mark.parametrize(
    ("lengths", "groups"),
    [
        ([], []),
        ([5], [[0]]),
        ([8, 8, 8], [[0, 1, 2]]),
        ([20, 80, 20, 79], [[1, 3], [0, 2]]),  # 320 tokens in one, 200 in two
        ([80, 79, 78, 60], [[0, 1, 2, 3]]),  # 320 and 300: not worth a pass
        ([9, 1, 1, 1, 1], [[0], [1, 2, 3, 4]]),
    ],
)
def test_rows_of_unlike_length_are_parted_where_that_pays(lengths: list[int], groups: list[list[int]]) -> None:
    assert length_groups(lengths) == groups


def test_collate_labels_the_answers_only(make_subject: Make) -> None:
    ids, labels = make_subject().collate([[5, 6, 7], [8]], [[9], [10, 11]])
    assert ids.tolist() == [[5, 6, 7, 9], [8, 10, 11, 0]]
    assert labels.tolist() == [[-100, -100, -100, 9], [-100, 10, 11, -100]]


# Generation


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("batch_tokens", [1, 8192])
def test_generation_is_greedy_step_by_step_whatever_stands_beside_it(
    make_subject: Make, adapt: Make, adapted: bool, batch_tokens: int
) -> None:
    # Rows of unlike length are padded on the left.
    for seed in range(2):
        subject = make_subject(seed=seed, key_heads=2)
        if adapted:
            adapt(subject)
        prefills = ["", "The code", "", "No, ", "Sure, here is what", ""]
        expected = [brute_greedy(subject, p, f) for p, f in zip(PROMPTS, prefills, strict=True)]
        found = subject.generate(PROMPTS, prefills=prefills, max_new_tokens=12, batch_tokens=batch_tokens)
        assert found == expected


def test_a_prefill_is_not_part_of_the_completion(make_subject: Make) -> None:
    subject = make_subject()
    ids = subject.prompt_ids("Hi", "The code of")
    assert ids == subject.prompt_ids("Hi") + subject.answer_ids("The code of")[:-1]
    assert subject.generate(["Hi"], prefills=["The code of"]) != subject.generate(["Hi"])


class UpTo(nn.Module):
    """Says "a" until a row has `length` tokens, then ends the turn, and would go on with "b"."""

    def __init__(self, tokenizer: Any, length: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.a, self.b = tokenizer.convert_tokens_to_ids(["a", "b"])
        self.stop, self.size, self.length = tokenizer.eos_token_id, len(tokenizer), length
        self.calls = 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> SimpleNamespace:
        self.calls += 1
        long = attention_mask.sum(1)
        tokens = torch.where(long < self.length, self.a, torch.where(long == self.length, self.stop, self.b))
        return SimpleNamespace(logits=nn.functional.one_hot(tokens, self.size).float()[:, None], past_key_values=None)


def test_the_end_of_the_turn_ends_each_row_and_then_the_batch(tokenizer: Any) -> None:
    model = UpTo(tokenizer, 14)
    subject = Subject(model, tokenizer)
    prompts = ["What is the code?", "x", "Hello!"]
    lengths = [14 - len(subject.prompt_ids(prompt)) for prompt in prompts]
    assert len(set(lengths)) == 3 and min(lengths) > 0
    assert subject.generate(prompts, max_new_tokens=20) == ["a" * length for length in lengths]
    assert model.calls == max(lengths) + 1


def test_a_completion_is_no_longer_than_asked(tokenizer: Any) -> None:
    assert Subject(UpTo(tokenizer, 99), tokenizer).generate(["x"], max_new_tokens=7) == ["a" * 7]


def test_generate_reports_what_it_has_done(make_subject: Make) -> None:
    done: list[int] = []
    make_subject().generate(PROMPTS, max_new_tokens=2, batch_tokens=60, progress=done.append)
    assert sum(done) == len(PROMPTS) and len(done) > 1
    assert make_subject().generate([]) == []


# The original


def test_reference_is_exactly_the_original_and_leaves_no_trace(make_subject: Make, adapt: Make) -> None:
    subject = make_subject()
    bare = subject.nll(PROMPTS, ANSWERS)
    adapt(subject)
    moved = subject.nll(PROMPTS, ANSWERS)
    assert not torch.allclose(moved, bare, atol=1e-3)
    trained = {name: p.requires_grad for name, p in subject.model.named_parameters()}
    with subject.reference():
        assert torch.equal(subject.nll(PROMPTS, ANSWERS), bare)
        with subject.reference():
            assert torch.equal(subject.nll(PROMPTS, ANSWERS), bare)
        # Still the original: the inner context has not brought the adapter back.
        assert torch.equal(subject.nll(PROMPTS, ANSWERS), bare)
    assert torch.equal(subject.nll(PROMPTS, ANSWERS), moved)
    # The one-hot factors of the path are frozen, and stay so.
    assert {name: p.requires_grad for name, p in subject.model.named_parameters()} == trained
    assert any(trained.values()) and not trained[_one_hot(subject)]


def test_reference_comes_to_an_end_when_its_body_fails(make_subject: Make, adapt: Make) -> None:
    subject = adapt(make_subject())
    moved = subject.nll(PROMPTS, ANSWERS)
    trained = [p.requires_grad for p in subject.model.parameters()]
    with pytest.raises(ZeroDivisionError), subject.reference():
        raise ZeroDivisionError
    assert torch.equal(subject.nll(PROMPTS, ANSWERS), moved)
    assert [p.requires_grad for p in subject.model.parameters()] == trained


def test_reference_of_a_bare_model_is_the_model(make_subject: Make) -> None:
    subject = make_subject()
    with subject.reference():
        inside = subject.nll(PROMPTS, ANSWERS)
    assert torch.equal(inside, subject.nll(PROMPTS, ANSWERS))


def test_the_layers_and_the_base_are_found_under_an_adapter(make_subject: Make, adapt: Make) -> None:
    subject = make_subject()
    bare = subject.model
    adapt(subject)
    assert subject.base is bare and len(subject.layers) == 2
    with pytest.raises(ModelError, match="adapter"):
        subject.save(Path("anywhere"))


# Devices


def test_dtypes_by_name_and_by_device() -> None:
    assert pick_dtype("auto", torch.device("cpu")) is torch.float32
    assert pick_dtype("auto", torch.device("cuda")) is torch.bfloat16
    assert pick_dtype("bfloat16", torch.device("cpu")) is torch.bfloat16
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ModelError, match="unknown dtype 'int3'"):
        pick_dtype("int3", torch.device("cpu"))


def _one_hot(subject: Subject) -> str:
    name = "base_model.model.model.layers.0.mlp.gate_proj.lora_B.default.weight"
    assert name in dict(subject.model.named_parameters())
    return name
