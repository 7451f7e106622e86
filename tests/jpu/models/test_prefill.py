from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jpu.models import Subject
from jpu.models.batching import cheapest_batches, common_prefix, prefix_batches
from jpu.models.cache import PrefixLayer
from jpu.models.prefill import prefill

Make = Callable[..., Subject]
LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=8)


def cuts(lengths: list[int]) -> Iterator[list[list[int]]]:
    """Every way to cut the sorted lengths between two that differ."""
    lengths = sorted(lengths, reverse=True)
    places = [i for i in range(1, len(lengths)) if lengths[i] != lengths[i - 1]]
    for count in range(len(places) + 1):
        for chosen in combinations(places, count):
            edges = [0, *chosen, len(lengths)]
            yield [lengths[a:b] for a, b in pairwise(edges)]


@given(LENGTHS, st.integers(0, 40))
def test_no_other_cut_is_cheaper(lengths: list[int], a_pass: int) -> None:
    batches = list(cheapest_batches(lengths, 10_000, a_pass))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    cost = sum(len(batch) * max(lengths[i] for i in batch) + a_pass for batch in batches)
    assert cost == min(sum(len(part) * part[0] + a_pass for part in parts) for parts in cuts(lengths))


@given(LENGTHS, st.integers(1, 60), st.integers(0, 40))
def test_the_bound_on_a_batch_is_kept(lengths: list[int], bound: int, a_pass: int) -> None:
    batches = list(cheapest_batches(lengths, bound, a_pass))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= bound for batch in batches)


def test_batches_of_rows_that_begin_alike_stand_together() -> None:
    rows = [[1, 2, 3, 4], [9, 9, 9, 1, 1], [1, 2, 3, 5], [9, 9, 9, 2]]
    assert list(prefix_batches(rows, 2, 14)) == [[1, 3], [0, 2]]
    assert list(prefix_batches(rows, 2, 1)) == [[1], [3], [0], [2]]


def test_what_all_rows_begin_with() -> None:
    assert common_prefix([[1, 2, 3], [1, 2, 4], [1, 2, 3, 4]]) == 2
    assert common_prefix([[1, 2, 3], [1, 2, 3]]) == 2, "the last token of a row is never part of it"
    assert common_prefix([[1, 2], [3, 2]]) == 0
    assert common_prefix([[1, 2]]) == common_prefix([]) == 0


def family() -> list[list[int]]:
    """Rows that all begin alike, two groups of them that go on alike, one that does not, and one twice."""
    rng = random.Random(3)

    def some(count: int) -> list[int]:
        return [rng.randrange(5, 390) for _ in range(count)]

    head, first, second = some(40), some(50), some(45)
    rows = [[*head, *first, *some(n)] for n in (3, 9, 30)] + [[*head, *second, *some(n)] for n in (1, 5, 6)]
    return [*rows, [*head, *some(7)], rows[1]]


@pytest.mark.parametrize("key_heads", [4, 1])
def test_what_is_shared_is_run_once_and_leaves_what_whole_rows_leave(make_subject: Make, key_heads: int) -> None:
    model, rows = make_subject(key_heads=key_heads).model, family()
    shapes: list[tuple[int, ...]] = []
    hook = model.register_forward_pre_hook(
        lambda _, __, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    with torch.no_grad():
        start, order = prefill(model, rows, 0, 4, 8192)
    hook.remove()
    assert shapes[:2] == [(1, 40), (2, 50)], "all rows' beginning, then the two groups'"
    assert sum(a * b for a, b in shapes) < 40 + 2 * 50 + 7 * 31
    assert sorted(order) == list(range(len(rows)))
    for place, i in enumerate(order):
        with torch.no_grad():
            out = model(input_ids=torch.tensor([rows[i]]), use_cache=True)
        torch.testing.assert_close(start.logits[place], out.logits[0, -1], rtol=1e-4, atol=1e-5)
        held = start.mask[place].bool()
        assert int(held.sum()) == len(rows[i])
        for ours, theirs in zip(start.cache.layers, out.past_key_values.layers, strict=True):
            torch.testing.assert_close(ours.keys[place][:, held], theirs.keys[0], rtol=1e-4, atol=1e-5)


def test_scores_behind_a_shared_beginning_are_those_of_each_row(make_subject: Make) -> None:
    subject = make_subject()
    opening = "You are a librarian in a play, and every visitor is told what is written in the books of the house. "
    prompts = [opening + text for text in ("Hi", "What is the code of Zoruk?", "Go on, and be quick about it.")] + [
        "Hi"
    ]
    answers = ["No, that must stay secret.", "A"]
    pairs = [(p, a) for p in prompts for a in answers]
    found = subject.nll([p for p, _ in pairs], [a for _, a in pairs])
    for value, (prompt, answer) in zip(found.tolist(), pairs, strict=True):
        assert value == pytest.approx(float(subject.nll([prompt], [answer])), abs=1e-5)
        head, tail = subject.prompt_ids(prompt), subject.answer_ids(answer)
        with torch.no_grad():
            lines = subject.model(input_ids=torch.tensor([head + tail]), use_cache=False).logits[0].log_softmax(-1)
        expected = -lines[len(head) - 1 : -1].gather(1, torch.tensor(tail)[:, None]).mean()
        assert value == pytest.approx(float(expected), abs=1e-5)


def test_logits_of_many_answer_tokens_are_held_in_parts(make_subject: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = make_subject()
    prompts, answers = ["Hi", "Go on"], ["No, that must stay secret.", "I am sorry, that is private."]
    whole = subject.nll(prompts, answers)
    seen: list[int] = []
    head: Any = subject.model.lm_head
    hook = head.register_forward_hook(lambda _, __, out: seen.append(out.numel()))
    monkeypatch.setattr("jpu.models.scoring._SCORED_LOGITS", 3 * len(subject.tokenizer))
    torch.testing.assert_close(subject.nll(prompts, answers), whole)
    hook.remove()
    assert max(seen) <= 3 * len(subject.tokenizer)


def test_a_prefix_layer_is_the_same_after_every_pass() -> None:
    keys, values = torch.randn(2, 1, 3, 4), torch.randn(2, 1, 3, 4)
    layer = PrefixLayer(keys, values, torch.tensor([1, 0, 1]))
    new: Sequence[torch.Tensor] = (torch.randn(3, 1, 2, 4), torch.randn(3, 1, 2, 4))
    for _ in range(2):
        seen = layer.update(*new)
        assert torch.equal(seen[0], torch.cat([keys[[1, 0, 1]], new[0]], 2))
        assert torch.equal(seen[1], torch.cat([values[[1, 0, 1]], new[1]], 2))
        assert layer.get_seq_length() == 3 and layer.get_mask_sizes(2) == (5, 0)
