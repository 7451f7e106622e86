from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from jpu.mining.own import BARE, NOISE, bare, noise


def test_bare_is_the_question_itself() -> None:
    assert bare("train").fill("What is it?") == "What is it?"
    assert (bare("test").split, bare("test").id, bare("test").role) == ("test", BARE, "jailbreak")


@given(seed=st.integers(0, 999), pieces=st.lists(st.text("ab{} ", min_size=1), min_size=1, max_size=4))
def test_noise_holds_the_question_once_whatever_it_is_made_of(seed: int, pieces: list[str]) -> None:
    for made in noise(pieces, 5, "train", random.Random(seed)):
        assert made.text.count("{query}") == 1 and not set(made.text.replace("{query}", "")) & set("{}")
        assert (made.id, made.family, made.split) == (NOISE, NOISE, "train")


def test_noise_stands_behind_in_front_and_on_both_sides_and_is_often_short() -> None:
    made = noise([" x"], 600, "train", random.Random(0))
    behind = [t for t in made if t.text.startswith("{query}")]
    before = [t for t in made if t.text.endswith("{query}")]
    assert 0.5 < len(behind) / 600 < 0.75 and 0.15 < len(before) / 600 < 0.35
    counts = [t.text.count("x") for t in made]
    assert (min(counts), max(counts)) == (1, 24)
    # Evenly over the logarithm: half of them have at most √24 pieces.
    assert 0.4 < sum(count <= 4.9 for count in counts) / 600 < 0.6


def test_nothing_to_make_noise_of_makes_none() -> None:
    assert noise([], 5, "train", random.Random(0)) == noise(["{", "}x"], 5, "train", random.Random(0)) == []
