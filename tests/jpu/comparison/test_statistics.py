"""Intervals, differences and tests against numbers that can be worked by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from jpu.comparison.metrics import UTILITY, WORST, Metric, share
from jpu.comparison.rows import Outcome, Row, named
from jpu.comparison.statistics import Bootstrap, frontier, holm, point, sign_test, spread, within

ASR = share("asr_static", "static", "low")
KL = Metric("kl", "KL", "low", "number")
STEPS = Metric("relearning_benign", "steps", "high", "number", limit=32.0)


def row(counts: list[tuple[int, int]], *, subject: str = "s0", world: str = "w", **figures: float | None) -> Row:
    """A run with the template attack's counts on entities of a world."""
    entities = named(f"{world}{i}" for i in range(len(counts)))
    return Row(
        key="k",
        kind="final",
        subject=subject,
        method="m",
        seed=0,
        trial=0,
        settings={},
        entities={"restricted": entities},
        outcomes={"asr_static": Outcome(of="restricted", k=tuple(k for k, _ in counts), n=tuple(n for _, n in counts))},
        figures=figures,
        weights="x",
    )


def test_a_mean_is_over_runs_and_weighs_them_alike() -> None:
    bootstrap = Bootstrap(500)
    found = bootstrap.samples(ASR, {"a": row([(1, 2), (2, 2)]), "b": row([(0, 1), (1, 9)])})
    assert found is not None
    assert found.values.tolist() == [0.75, 0.1]
    assert bootstrap.estimate(found).value == pytest.approx(0.425)
    assert bootstrap.estimate(found).n == 2


def test_entities_are_drawn_within_a_run() -> None:
    """One of two entities fell: drawn anew, the share is 0, a half or 1, in a quarter, a half, a quarter of draws."""
    found = Bootstrap(4000).samples(ASR, {"a": row([(0, 1), (1, 1)])})
    assert found is not None
    shares = {value: float(np.mean(found.drawn == value)) for value in (0.0, 0.5, 1.0)}
    assert sum(shares.values()) == 1.0
    assert shares == pytest.approx({0.0: 0.25, 0.5: 0.5, 1.0: 0.25}, abs=0.03)


def test_a_number_has_students_interval_over_its_runs() -> None:
    bootstrap = Bootstrap(100)
    found = bootstrap.samples(KL, {"a": row([(0, 1)], kl=0.1), "b": row([(0, 1)], kl=0.3)})
    assert found is not None
    # A standard error of .1, and 12.706 of it to either side with one degree of freedom: from −1.07, which no KL is.
    estimate = bootstrap.estimate(found)
    assert (estimate.low, estimate.value, estimate.high) == pytest.approx((0.0, 0.2, 1.4706), abs=1e-4)
    assert bootstrap.estimate(found, limit=0.5).high == 0.5
    one = bootstrap.samples(KL, {"a": row([(0, 1)], kl=0.1)})
    assert one is not None
    assert (bootstrap.estimate(one).low, bootstrap.estimate(one).high) == (0.1, 0.1)


@pytest.mark.parametrize(
    ("t", "freedom", "inside"),
    [
        (1.0, 1, 0.5),
        (1.0, 2, 1 / 3**0.5),
        (12.7062, 1, 0.95),
        (4.3027, 2, 0.95),
        (3.1824, 3, 0.95),
        (2.7764, 4, 0.95),
        (2.5706, 5, 0.95),
        (2.2622, 9, 0.95),
        (3.2498, 9, 0.99),
        (0.0, 7, 0.0),
    ],
)
def test_students_distribution_is_that_of_the_tables(t: float, freedom: int, inside: float) -> None:
    assert within(t, freedom) == pytest.approx(inside, abs=1e-5)


def test_entities_of_one_world_are_drawn_once_for_all_its_subjects() -> None:
    """Subjects of one world fall together in every draw; those of two worlds do not."""
    counts = [(0, 1), (1, 1)]
    one = Bootstrap(2000).samples(ASR, {"a": row(counts), "b": row(counts)})
    two = Bootstrap(2000).samples(ASR, {"a": row(counts), "b": row(counts, world="v")})
    assert one is not None and two is not None
    assert (one.drawn[:, 0] == one.drawn[:, 1]).all()
    assert 0.3 < float((two.drawn[:, 0] == two.drawn[:, 1]).mean()) < 0.45


def test_without_any_spread_the_interval_is_wilsons_on_the_entities() -> None:
    bootstrap = Bootstrap(300)
    found = bootstrap.samples(ASR, {"a": row([(0, 6)] * 32), "b": row([(0, 6)] * 32)})
    assert found is not None
    estimate = bootstrap.estimate(found)
    assert (estimate.value, estimate.low) == (0.0, 0.0)
    assert estimate.high == pytest.approx(0.107, abs=5e-4)


def test_a_number_that_was_not_reached_counts_as_its_limit() -> None:
    assert point(STEPS, row([(0, 1)], relearning_benign=None)) == 32.0
    assert point(STEPS, row([(0, 1)], relearning_benign=7.5)) == 7.5
    assert point(STEPS, row([(0, 1)])) is None
    assert point(KL, row([(0, 1)], kl=None)) is None


def test_what_a_run_lacks_is_left_out_of_the_mean() -> None:
    bootstrap = Bootstrap(300)
    found = bootstrap.samples(KL, {"a": row([(0, 1)]), "b": row([(0, 1)], kl=0.3)})
    assert found is not None and found.runs == ("b",)
    assert bootstrap.samples(KL, {"a": row([(0, 1)])}) is None


# Differences


def difference(ours: dict[str, Row], theirs: dict[str, Row], metric: Metric = ASR, resamples: int = 2000) -> object:
    bootstrap = Bootstrap(resamples)
    method, reference = bootstrap.samples(metric, ours), bootstrap.samples(metric, theirs)
    assert method is not None and reference is not None
    return bootstrap.difference(method, reference)


def test_a_constant_difference_is_certain_however_much_the_entities_differ() -> None:
    """Paired: each entity is a quarter worse. Unpaired intervals of these two overlap widely."""
    reference = {r: row([(0, 4), (1, 4), (2, 4), (3, 4)]) for r in "abc"}
    ours = {r: row([(1, 4), (2, 4), (3, 4), (4, 4)]) for r in "abc"}
    found = difference(ours, reference)
    assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))
    assert found.p == pytest.approx(2 / 2001) and (found.above, found.below, found.sign) == (3, 0, 0.25)


def test_a_method_against_itself_is_no_different() -> None:
    rows = {r: row([(0, 4), (3, 4)]) for r in "abcde"}
    found = difference(rows, rows)
    assert (found.value, found.low, found.high, found.p, found.sign) == (0.0, 0.0, 0.0, 1.0, 1.0)


def test_only_runs_that_both_have_are_compared() -> None:
    found = difference(
        {"a": row([(1, 1)], kl=1.0), "c": row([(1, 1)], kl=9.0)},
        {"a": row([(1, 1)], kl=0.5), "b": row([(1, 1)], kl=0.1)},
        KL,
    )
    assert (found.value, found.n) == (0.5, 1)
    assert difference({"c": row([(1, 1)])}, {"a": row([(1, 1)])}) is None


def test_p_is_twice_the_share_of_draws_on_the_other_side() -> None:
    """Entities differ by +1, +1 and −1: a mean of three drawn is ≤ 0 in 7 of 27 draws, by counting them."""
    found = difference({"a": row([(1, 1), (1, 1), (0, 1)])}, {"a": row([(0, 1), (0, 1), (1, 1)])}, ASR, 20000)
    exact = np.mean([sum(d) <= 0 for d in itertools.product((1, 1, -1), repeat=3)])
    assert exact == pytest.approx(7 / 27)
    assert found.p == pytest.approx(2 * exact, abs=0.02)
    assert (found.value, found.low, found.high) == pytest.approx((1 / 3, -1.0, 1.0))


def test_numbers_are_paired_in_a_t_test() -> None:
    ours = {r: row([(0, 1)], kl=1 + d) for r, d in zip("abc", (1.0, 1.0, -1.0), strict=True)}
    found = difference(ours, {r: row([(0, 1)], kl=1.0) for r in "abc"}, KL)
    # A mean of 1/3 and a standard error of 2/3: t is a half, and with two degrees of freedom p = 1 − .5/√2.25.
    assert found.p == pytest.approx(2 / 3) and (found.above, found.below) == (2, 1)
    # 4.3027 standard errors to either side.
    assert (found.low, found.high) == pytest.approx((1 / 3 - 2.8684, 1 / 3 + 2.8684), abs=1e-4)


def test_a_share_is_held_against_the_t_test_too() -> None:
    """Runs differ by .1 to .5 with hardly any entity noise: drawn anew no mean is below .1, whatever chance may do."""
    ours = {f"s{i}": row([(i, 10)] * 1000) for i in (1, 2, 3, 4, 5)}
    reference = {f"s{i}": row([(0, 10)] * 1000) for i in (1, 2, 3, 4, 5)}
    found = difference(ours, reference)
    # A standard error of .0707: t 4.243 with four degrees of freedom, and 2.7764 of them to either side.
    assert found.p == pytest.approx(0.0132, abs=1e-4)
    assert (found.low, found.value, found.high) == pytest.approx((0.3 - 0.1963, 0.3, 0.3 + 0.1963), abs=1e-4)
    bootstrap = Bootstrap(2000)
    samples = bootstrap.samples(ASR, ours)
    assert samples is not None
    estimate = bootstrap.estimate(samples)
    assert (estimate.low, estimate.high) == pytest.approx((0.3 - 0.1963, 0.3 + 0.1963), abs=1e-4)


def test_an_interval_of_shares_ends_where_shares_do() -> None:
    """Two runs at 0 and 1: Student's interval goes far beyond both ends."""
    ours, reference = ({r: row([(k, 1)] * 20) for r, k in (("a", a), ("b", b))} for a, b in ((0, 1), (0, 0)))
    bootstrap = Bootstrap(200)
    samples = bootstrap.samples(ASR, ours)
    assert samples is not None
    estimate = bootstrap.estimate(samples)
    assert (estimate.low, estimate.value, estimate.high) == (0.0, 0.5, 1.0)
    found = difference(ours, reference)
    assert (found.low, found.value, found.high) == (-1.0, 0.5, 1.0)


@pytest.mark.parametrize(("entities", "sd"), [(500, 0.1), (32, 0.25), (32, 0.05)])
def test_chance_is_called_significant_no_more_often_than_it_may_be(entities: int, sd: float) -> None:
    """Two methods that are the same but for chance, on five runs: p is below 1/20 in no more than 1/20 of worlds."""
    rng = np.random.default_rng(1)
    worlds, found = 300, 0
    for _ in range(worlds):
        base = np.clip(rng.normal(0.4, 0.15, (5, 1)) + rng.normal(0, 0.2, (1, entities)), 0.05, 0.95)
        methods = []
        for _ in range(2):
            rates = np.clip(base + rng.normal(0, sd, (5, 1)), 0.0, 1.0)
            counts = rng.binomial(10, rates)
            methods.append({f"r{i}": row([(int(k), 10) for k in run]) for i, run in enumerate(counts)})
        found += difference(*methods, resamples=200).p < 0.05
    # 15 are expected, and 26 or more come up in less than one of two hundred tries.
    assert found < 26


def test_one_run_of_a_number_shows_nothing() -> None:
    found = difference({"a": row([(0, 1)], kl=9.0)}, {"a": row([(0, 1)], kl=1.0)}, KL)
    assert (found.value, found.p, found.low, found.high) == (8.0, 1.0, None, None)
    # Nor do two that differ by the same to the last digit show more than that they are two.
    both = difference({r: row([(0, 1)], kl=9.0) for r in "ab"}, {r: row([(0, 1)], kl=1.0) for r in "ab"}, KL)
    assert both.p == 0.5


@pytest.mark.parametrize(
    ("above", "below", "p"),
    [(5, 0, 2 / 32), (0, 5, 2 / 32), (4, 1, 12 / 32), (3, 3, 1.0), (0, 0, 1.0), (10, 0, 2 / 1024)],
)
def test_the_sign_test_is_exact(above: int, below: int, p: float) -> None:
    assert sign_test(above, below) == pytest.approx(p)


def test_holm_steps_down() -> None:
    """Smallest times three, next times two and no smaller than that, and so on."""
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({"a": 0.5, "b": 0.9}) == pytest.approx({"a": 1.0, "b": 1.0})
    assert holm({"a": 0.02, "b": 0.02}) == pytest.approx({"a": 0.04, "b": 0.04})
    assert holm({}) == {}


# Over all methods


def test_the_frontier_is_what_nobody_beats_on_both() -> None:
    points = {"a": (0.0, 1.0), "b": (0.1, 0.2), "c": (0.2, 0.2), "d": (0.5, 0.0), "e": (0.6, 0.6), "f": (0.1, 0.2)}
    assert frontier(points) == ["a", "b", "f", "d"]
    assert frontier({}) == []


def test_the_spread_is_that_of_means_beside_that_of_runs() -> None:
    bootstrap = Bootstrap(1000)
    methods = {"a": (0.0, 0.2), "b": (1.0, 1.2), "c": (1.0, 1.2)}
    found = {
        name: bootstrap.samples(KL, {r: row([(0, 1)], kl=v) for r, v in zip("xy", values, strict=True)})
        for name, values in methods.items()
    }
    known = {name: samples for name, samples in found.items() if samples is not None}
    apart = spread(known, bootstrap)
    assert apart is not None
    assert (apart.low, apart.high) == pytest.approx((0.1, 1.1))
    # Means .1, 1.1, 1.1; runs of each method differ by .2, whose standard deviation is .2/√2.
    assert apart.between == pytest.approx(np.std([0.1, 1.1, 1.1], ddof=1))
    assert apart.within == pytest.approx(0.2 / np.sqrt(2))
    # Two runs of a number tell nothing apart.
    assert apart.told_apart == 0.0
    assert spread({"a": known["a"]}, bootstrap) is None


def test_what_is_told_apart_are_pairs_of_methods() -> None:
    bootstrap = Bootstrap(1000)
    counts = {"a": [(0, 2), (1, 2)], "b": [(1, 2), (2, 2)], "c": [(1, 2), (2, 2)]}
    found = {name: bootstrap.samples(ASR, {"x": row(c), "y": row(c)}) for name, c in counts.items()}
    apart = spread({name: samples for name, samples in found.items() if samples is not None}, bootstrap)
    # b and c are one and the same; a is a half below both in every entity.
    assert apart is not None and apart.told_apart == pytest.approx(2 / 3)


def test_a_figure_rests_on_the_entities_of_its_own_shares() -> None:
    base = row([(0, 1), (0, 1), (0, 0)])
    shares = {"over_refusal": Outcome(of="answered", k=(0,), n=(4,)), **base.outcomes}
    both = base.model_copy(update={"entities": {**base.entities, "answered": ("a",)}, "outcomes": shares})
    bootstrap = Bootstrap(100)
    attack, utility = bootstrap.samples(WORST, {"a": both}), bootstrap.samples(UTILITY, {"a": both})
    assert attack is not None and utility is not None
    # Of three places two were attacked.
    assert (attack.entities, utility.entities) == (2, 1)
