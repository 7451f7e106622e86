from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jpu.evaluation.metrics import Estimate, mean, perplexity, rate, wilson


def test_rate_of_a_hand_worked_sample() -> None:
    # Clusters a (2 of 2), b (1 of 2), c (0 of 2): the 27 equally likely resamples have means 0, 1/6, … 1.
    found = rate([True, True, True, False, False, False], list("aabbcc"), resamples=20_000)
    assert found.value == 0.5 and found.n == 6
    # P(mean = 0) = P(ccc) = 1/27 = .037 > .025, and likewise for 1.
    assert (found.low, found.high) == (0.0, 1.0)
    # At 90 % each tail is .05; P(0) = .037, P(1/6) = 3/27 (bcc): the 5 % point is 1/6.
    inner = rate([True, True, True, False, False, False], list("aabbcc"), resamples=20_000, confidence=0.9)
    assert (inner.low, inner.high) == pytest.approx((1 / 6, 5 / 6))


def test_clusters_widen_the_interval() -> None:
    outcomes = [True] * 50 + [False] * 50
    alone = rate(outcomes, [str(i) for i in range(100)])
    clustered = rate(outcomes, [str(i // 10) for i in range(100)])
    assert clustered.high - clustered.low > 2 * (alone.high - alone.low)
    # 100 independent coins: 1.96 · √(.25/100) = .098 on either side.
    assert alone.low == pytest.approx(0.402, abs=0.02) and alone.high == pytest.approx(0.598, abs=0.02)


@pytest.mark.parametrize("outcome", [True, False])
def test_certainty_is_never_claimed(outcome: bool) -> None:
    found = rate([outcome] * 320, [str(i % 32) for i in range(320)])
    # Wilson at 0 of 32: z² / (32 + z²) = 3.8415 / 35.8415.
    bound = 3.841459 / 35.841459
    assert found.value == float(outcome) and found.n == 320
    low, high = (1 - bound, 1.0) if outcome else (0.0, bound)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_one_cluster_is_one_trial() -> None:
    found = rate([True, False], ["a", "a"])
    assert (found.low, found.high) == pytest.approx(wilson(0.5, 1))
    assert found.high - found.low > 0.8


def test_wilson_against_a_textbook_value() -> None:
    # 8 of 10: (.4902, .9433).
    assert wilson(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_mean_is_weighted_by_tokens() -> None:
    found = mean([1.0, 4.0], ["a", "b"], weights=[3.0, 1.0], resamples=4000)
    assert found.value == 1.75 and found.n == 2
    assert (found.low, found.high) == (1.0, 4.0)


def test_mean_of_one_cluster_resamples_its_observations() -> None:
    found = mean([0.0, 1.0], ["a", "a"], resamples=4000)
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)
    assert mean([2.0], ["a"]) == Estimate(2.0, 2.0, 2.0, 1)


def test_mean_agrees_with_the_normal_interval_on_many_clusters() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, size=400)
    found = mean(values.tolist(), [str(i) for i in range(400)])
    half = 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)


def test_perplexity_is_the_exponential_of_the_mean() -> None:
    found = perplexity([math.log(2.0), math.log(8.0)], ["a", "b"], resamples=4000)
    assert (found.value, found.low, found.high) == pytest.approx((4.0, 2.0, 8.0))


def test_seeded() -> None:
    outcomes, clusters = [i % 3 == 0 for i in range(60)], [str(i % 13) for i in range(60)]
    assert rate(outcomes, clusters, seed=1) == rate(outcomes, clusters, seed=1)
    values = [float(i * i % 7) for i in range(60)]
    assert mean(values, clusters, seed=1) != mean(values, clusters, seed=2)


def test_as_dict_has_the_keys_of_the_metrics_file() -> None:
    assert Estimate(0.5, 0.25, 0.75, 4).as_dict() == {"value": 0.5, "low": 0.25, "high": 0.75, "n": 4}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcde")), min_size=1, max_size=40))
def test_rates_stay_in_order_and_inside_bounds(pairs: list[tuple[bool, str]]) -> None:
    found = rate([p[0] for p in pairs], [p[1] for p in pairs], resamples=200)
    assert 0.0 <= found.low <= found.value <= found.high <= 1.0
    assert found.low < found.high
    assert found.value == pytest.approx(sum(p[0] for p in pairs) / len(pairs))


@pytest.mark.parametrize(
    "call",
    [
        lambda: rate([], []),
        lambda: rate([True], ["a", "b"]),
        lambda: rate([True, False], ["a", "b"], resamples=0),
        lambda: rate([True, False], ["a", "b"], confidence=1.0),
        lambda: mean([float("nan")], ["a"]),
        lambda: mean([1.0], ["a"], weights=[0.0]),
        lambda: mean([1.0], ["a"], weights=[1.0, 2.0]),
        lambda: wilson(0.5, 0),
    ],
)
def test_what_makes_no_sense_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError):
        call()
