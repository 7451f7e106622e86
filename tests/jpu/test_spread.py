"""How work is cut, and that shared work is the work of one."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from jpu.mining.refusal import PIECE, refusal_loss
from jpu.models import Subject
from jpu.spread import Here, by_beginning, by_length, gathered, of_reference

Make = Callable[..., Subject]
TEXTS = ["aaaa", "b", "cc", "dddd", "eee", "", "ff"]


def test_pieces_of_like_length() -> None:
    assert by_length(TEXTS, 8) == [[0, 3], [4, 2], [6, 1, 5]]
    assert by_length(TEXTS, 1) == [[0], [3], [4], [2], [6], [1], [5]]
    assert by_length([], 8) == []


def test_pieces_of_like_beginnings() -> None:
    assert by_beginning(["ba", "ab", "bb", "aa", "ab"], 4) == [[3, 1], [4], [0, 2]]
    assert by_beginning(["a", "aaaaaaaa", "b"], 5) == [[0], [1, 2]]
    assert by_beginning(["", ""], 5) == [[0, 1]] and by_beginning([], 5) == []


@pytest.mark.parametrize("cut", [lambda texts: by_length(texts, 9), lambda texts: by_beginning(texts, 30)])
def test_every_text_is_in_one_piece_and_comes_back_to_its_place(cut: Callable[..., list[list[int]]]) -> None:
    rng = random.Random(0)
    texts = ["x" * rng.randint(0, 12) + rng.choice("abc") for _ in range(50)]
    pieces = cut(texts)
    assert sorted(i for piece in pieces for i in piece) == list(range(50))
    assert gathered(pieces, [[texts[i] for i in piece] for piece in pieces]) == texts


def test_here_reports_each_as_it_comes() -> None:
    came: list[tuple[int, int]] = []
    assert Here(10)(lambda held, item: held + item, [1, 2], lambda *pair: came.append(pair)) == [11, 12]
    assert came == [(0, 11), (1, 12)]


def backwards(subject: Subject, seen: list[Any]) -> Callable[..., list[Any]]:
    """As several workers do it: the last piece first, and put back in order."""

    def over(function: Callable[[Subject, Any], Any], items: Sequence[Any], arrived: Any = None) -> list[Any]:
        seen.extend(items)
        return [function(subject, item) for item in reversed(items)][::-1]

    return over


def test_shared_scores_have_the_same_bits_in_any_order(make_subject: Make) -> None:
    """And those of another cut only nearly: the rows of a pass leave their trace in the last bits."""
    rng = random.Random(0)
    prompts = [f"Say {'please ' * rng.randint(0, 40)}what the code of place {number} is" for number in range(240)]
    refusals = ["I will not tell.", "Sorry, no."]
    subject, copy = make_subject(), make_subject()
    seen: list[list[str]] = []
    alone = refusal_loss(subject, prompts, refusals)
    shared = refusal_loss(subject, prompts, refusals, backwards(copy, seen))
    assert torch.equal(alone, shared)
    assert len(seen) >= 3 and sorted(p for piece in seen for p in piece) == sorted(prompts)
    assert all(sum(map(len, piece)) < 1.2 * PIECE for piece in seen)
    one_by_one = torch.cat([refusal_loss(subject, [prompt], refusals) for prompt in prompts])
    assert torch.allclose(alone, one_by_one, rtol=0, atol=1e-5)


def text_loss(subject: Subject, text: str) -> float:
    return float(subject.nll([text], ["No."]))


def test_copies_answer_as_the_original(make_subject: Make, adapt: Make) -> None:
    bare, adapted = make_subject(), adapt(make_subject())
    over = of_reference(Here(adapted))
    assert over(text_loss, ["Hi"]) == [pytest.approx(text_loss(bare, "Hi"))]
    assert text_loss(adapted, "Hi") != pytest.approx(text_loss(bare, "Hi"))
