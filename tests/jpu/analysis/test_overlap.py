from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jpu.analysis.overlap import Largest, Rows, Source, largest, overlap_by_layer, overlaps
from jpu.analysis.resampling import Draws, interval
from jpu.analysis.sensitivity import layer_weights, sensitivities
from jpu.models import Subject
from jpu.paths.passes import Exchanges
from jpu.paths.path import Path


def rows(*values: list[float], names: list[str] | None = None) -> Rows:
    return Rows(torch.tensor(values), names or [f"b{i}" for i in range(len(values))])


def test_overlaps_of_known_sets() -> None:
    # Means: 3 2 1 0 ... for E; J's two best are the 2nd and the 5th weight.
    reference = rows([4.0, 2, 1, 0, 0, 0, 0, 0, 0, 0], [2.0, 2, 1, 0, 0, 0, 0, 0, 0, 0])
    other = rows([0.0, 5, 0, 0, 4, 1, 0, 0, 0, 0])
    draws = Draws([["b0", "b1"]], 0, 0)
    found = overlaps({"e": reference}, {"j": other, "e": reference}, [0.1, 0.2, 0.3], draws)["e"]
    values = {(o.condition, o.share): o.overlap.value for o in found}
    # {0} and {1}; {0, 1} and {1, 4}; {0, 1, 2} and {1, 4, 5}.
    assert [values["j", q] for q in (0.1, 0.2, 0.3)] == pytest.approx([0.0, 0.5, 1 / 3])
    assert [values["e", q] for q in (0.1, 0.2, 0.3)] == [1.0, 1.0, 1.0]
    assert all(o.overlap.low is None for o in found)


def test_a_reference_that_is_no_mean_is_not_resampled() -> None:
    names = [f"b{i}" for i in range(4)]
    other = Rows(torch.eye(4, 10), names)
    draws = Draws([names], 200, 1)
    (found,) = overlaps({"e": torch.arange(10, 0, -1).float()}, {"j": other}, [0.4], draws)["e"]
    # All four rows together hold the four first weights; resamples lose some of them.
    assert found.overlap.value == 1.0 and found.overlap.high == 1.0


def test_the_excess_is_drawn_in_the_same_resamples() -> None:
    generator = torch.Generator().manual_seed(0)
    names = [f"b{i}" for i in range(6)]
    reference = Rows(torch.rand(6, 50, generator=generator), names)
    same = Rows(reference.values.clone(), names)
    found = overlaps(
        {"e": reference}, {"j": reference, "same": same}, [0.1], Draws([names], 50, 0), against={"j": ["same"]}
    )["e"]
    assert found[0].excess["same"].low == found[0].excess["same"].high == 0.0


def test_every_resample_of_the_same_rows_agrees_with_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    names = [f"b{i}" for i in range(6)]
    reference = Rows(torch.rand(6, 200, generator=generator), names)
    (found,) = overlaps({"e": reference}, {"e": reference}, [0.05], Draws([names], 30, 0))["e"]
    assert (found.overlap.value, found.overlap.low, found.overlap.high) == (1.0, 1.0, 1.0)


def test_unrelated_scores_overlap_as_chance_has_it() -> None:
    generator = torch.Generator().manual_seed(2)
    a, b = (Rows(torch.rand(1, 100_000, generator=generator), [n]) for n in "ab")
    found = overlaps({"a": a}, {"b": b}, [0.01, 0.05], Draws([["a"], ["b"]], 0, 0))["a"]
    assert [o.overlap.value for o in found] == pytest.approx([0.01, 0.05], abs=0.01)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40, unique=True), st.floats(0.01, 1.0))
def test_the_largest_are_no_smaller_than_the_rest(values: list[float], share: float) -> None:
    chosen = set(largest(torch.tensor(values, dtype=torch.float64), share).tolist())
    assert len(chosen) == max(1, round(share * len(values)))
    rest = [v for i, v in enumerate(values) if i not in chosen]
    assert not rest or min(values[i] for i in chosen) >= max(rest)


@given(st.integers(1, 8), st.integers(5, 60), st.floats(0.02, 0.9), st.integers(0, 1000))
def test_the_largest_of_every_resample_are_those_of_all_weights(
    behaviors: int, weights: int, share: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Heavy tails, as sensitivities have, so that few behaviors decide.
    values = torch.randn(behaviors, weights, generator=generator).mul(3).exp()
    names = [str(i) for i in range(behaviors)]
    draws = Draws([names], 6, seed)
    found = Largest(Rows(values, names), share, draws)
    for draw, weighing in enumerate(draws.weights(names)):
        assert found.of(draw).tolist() == largest(weighing @ values, share).tolist()


# Resampling


def test_draws_are_shared_by_what_is_about_the_same_behaviors() -> None:
    draws = Draws([["a", "b", "c"], ["b", "x"]], 40, 3)
    first, again = draws.weights(["a", "b", "c"]), draws.weights(["c", "b", "a"])
    assert torch.equal(first.flip(1), again)
    assert first.shape == (41, 3) and torch.allclose(first.sum(1), torch.ones(41))
    assert torch.equal(first[0], torch.full((3,), 1 / 3))
    # One of one: drawn once, always.
    assert torch.equal(draws.weights(["x"]), torch.ones(41, 1))
    # Where a behavior was not drawn at all there is nothing to go by.
    assert torch.equal(draws.weights(["a"]), torch.ones(41, 1))


def test_an_interval_is_reflected_at_the_estimate() -> None:
    # Resamples from 0.3 to 0.5 around 0.4, the estimate at 0.45: the interval goes from 0.4 to 0.6.
    figures = torch.cat([torch.tensor([0.45]), torch.linspace(0.3, 0.5, 1001)])
    found = interval(figures, 0.999999)
    assert (found.value, found.low, found.high) == pytest.approx((0.45, 0.4, 0.6), abs=1e-5)
    # Ends are cut where the figure cannot be, and the estimate is always inside.
    low = interval(torch.tensor([0.9, 0.2, 0.3]), 0.9)
    assert (low.low, low.high) == (pytest.approx(0.9), 1.0)


def test_an_interval_covers_a_mean() -> None:
    """At 90 %, over many samples of a mean that is known, it holds it in about nine of ten."""
    generator = torch.Generator().manual_seed(5)
    held = 0
    for sample in range(200):
        values = torch.randn(30, generator=generator) + 0.5
        names = [str(i) for i in range(30)]
        found = interval(Draws([names], 200, sample).weights(names) @ values, 0.9, bounds=None)
        assert found.low is not None and found.high is not None
        held += found.low <= 0.5 <= found.high
    assert 0.82 <= held / 200 <= 0.95


# On a model


def test_layers_by_layer_on_an_erased_model(
    make_subject: Callable[..., Subject], adapt: Callable[..., Subject]
) -> None:
    """Against sensitivities and changes of weights that are put side by side by hand."""
    subject = adapt(make_subject(), Path({0: [1, 5], 1: [3]}))
    asked = ["What is the code?", "Who is it?", "Go on.", "And now?"]
    exchanges = Exchanges([subject.prompt_ids(q) for q in asked], [subject.answer_ids("amber")] * 4)
    bare = Source(Exchanges(exchanges.prompts[:2], exchanges.answers[:2]), ["a", "b"], erased=False)
    there = Source(Exchanges(exchanges.prompts[2:], exchanges.answers[2:]), ["a", "a"], erased=True)
    draws = Draws([["a", "b"]], 3, 0)
    whole, pieces = (
        overlap_by_layer(subject, bare, {"j": there, "e": bare}, [0.02, 0.1], draws, held=held) for held in (1 << 30, 1)
    )
    assert whole == pieces
    assert [found.layer for found in whole] == [0, 1]
    for found in whole:
        after = sensitivities(subject, there.exchanges, [0, 0], [found.layer])[found.layer].mean(0)
        moved = layer_weights(subject, found.layer)
        with subject.reference():
            before = sensitivities(subject, bare.exchanges, [0, 1], [found.layer])[found.layer].mean(0)
            moved = (moved - layer_weights(subject, found.layer)).abs()
        for share in (0.02, 0.1):
            j, e, d = (set(largest(values, share).tolist()) for values in (after, before, moved))
            sensitive = {(o.condition, o.share): o.overlap.value for o in found.sensitive}
            changed = {(o.condition, o.share): o.overlap.value for o in found.changed}
            assert sensitive["j", share] == pytest.approx(len(j & e) / len(e))
            assert sensitive["e", share] == 1.0
            assert changed["j", share] == pytest.approx(len(j & d) / len(d))
            assert found.moved[share] == pytest.approx(len(e & d) / len(d))
