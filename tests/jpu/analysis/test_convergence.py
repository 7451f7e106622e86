from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jpu.analysis.convergence import (
    SampledPath,
    agreements,
    chance_jaccard,
    pairings,
    reliability,
    sampled_path,
)
from jpu.analysis.families import ALL, PathSamples, Sampled, Wordings, path_convergence
from jpu.analysis.resampling import Draws
from jpu.models import Subject
from jpu.paths.passes import Exchanges
from jpu.paths.path import Path
from jpu.paths.selectors import Search, select


def path(*prompts: list[float], names: str) -> SampledPath:
    """One layer; the attribution is the score itself."""
    scores = torch.tensor(prompts)
    return SampledPath([scores], [scores], [], list(names))


def test_it_is_the_path_that_identification_finds(make_subject: Callable[..., Subject]) -> None:
    subject = make_subject()
    asked = ["Who is it?", "Tell me now, what is the code of Zoruk?", "Go on."]
    exchanges = Exchanges([subject.prompt_ids(q) for q in asked], [subject.answer_ids("amber dune")] * 3)
    search = Search(k=3, steps=3, positions=2)
    ours = sampled_path(subject.model, exchanges, ["a", "b", "c"], search)
    theirs = select(subject.model, exchanges, search)
    assert ours.chosen == theirs.chosen
    for mine, mean in zip(ours.attribution, theirs.attribution, strict=True):
        torch.testing.assert_close(mine.mean(0), mean)


def test_agreement_by_hand() -> None:
    # Mean ranks choose {0, 1} and {1, 2}: one of three. Cosine of (7, 5, 0, 1)/2 and (0, 8, 6, 0)/2: 40/(√75·10).
    first = path([4.0, 3, 0, 1], [3.0, 2, 0, 0], names="ab")
    second = path([0.0, 4, 3, 0], [0.0, 4, 3, 0], names="ab")
    (found,) = agreements(first, second, Draws(["ab"], 5, 0), 2)
    assert found.jaccard[0] == pytest.approx(1 / 3)
    assert float(found.cosine[0]) == pytest.approx(40 / (75**0.5 * 10))
    # Every resample of `second` chooses the same, and `first` chooses {0, 1} from either prompt.
    assert found.jaccard.tolist() == pytest.approx([1 / 3] * 6)
    # Of the 6 pairs of four units: the same one 1, one shared 4, none 1.
    assert found.chance == pytest.approx((1 * 1 + 4 * (1 / 3)) / 6)


def test_pairs_by_hand() -> None:
    # Units of each prompt: a {0}, b {1} on one side; a {0}, b {2} on the other.
    first = path([9.0, 0, 0], [0.0, 9, 0], names="ab")
    second = path([9.0, 0, 0], [0.0, 0, 9], names="ab")
    (found,) = pairings(first, second, Draws(["ab"], 0, 0), 1)
    assert float(found.paired[0]) == 0.5 and float(found.shuffled[0]) == 0.0
    (crossed,) = pairings(first, path([0.0, 9, 0], [9.0, 0, 0], names="ab"), Draws(["ab"], 0, 0), 1)
    assert float(crossed.paired[0]) == 0.0 and float(crossed.shuffled[0]) == 1.0


def test_shuffled_is_the_mean_over_all_pairs_of_different_behaviors() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (SampledPath([torch.rand(4, 12, generator=generator)], [], [], list("wxyz")) for _ in range(2))
    (found,) = pairings(a, b, Draws(["wxyz"], 0, 0), 3)
    sets = [[set(row.topk(3).indices.tolist()) for row in p.joint[0]] for p in (a, b)]
    alike = [len(x & y) / len(x | y) for i, x in enumerate(sets[0]) for j, y in enumerate(sets[1]) if i != j]
    assert float(found.shuffled[0]) == pytest.approx(sum(alike) / len(alike))


def test_a_path_against_itself_by_halves() -> None:
    # Of a, c: {0, 1}; of b, d: {1, 2}; one of three.
    path_ = path([9.0, 8, 0, 1], [0.0, 8, 9, 1], [9.0, 8, 1, 0], [1.0, 9, 8, 0], names="abcd")
    (found,) = reliability(path_, Draws(["abcd"], 3, 0), 2)
    assert found.tolist() == pytest.approx([1 / 3] * 4)


@given(st.integers(2, 7), st.data())
def test_chance_is_the_mean_over_all_choices(units: int, data: st.DataObject) -> None:
    first, second = (data.draw(st.integers(1, units)) for _ in range(2))
    ours = set(range(first))
    alike = [len(ours & set(c)) / len(ours | set(c)) for c in itertools.combinations(range(units), second)]
    assert chance_jaccard(units, first, second) == pytest.approx(sum(alike) / len(alike))


@given(st.integers(1, 5), st.integers(0, 1000))
def test_agreement_is_symmetric_and_one_with_itself(k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = (
        SampledPath([scores := torch.randn(3, 6, generator=generator)], [scores], [], list("abc")) for _ in range(2)
    )
    draws = Draws(["abc"], 4, seed)
    (there,), (back,) = agreements(a, b, draws, k), agreements(b, a, draws, k)
    assert torch.equal(there.jaccard, back.jaccard) and torch.allclose(there.cosine, back.cosine)
    assert agreements(a, a, draws, k)[0].jaccard.tolist() == [1.0] * 5


def sampled(subject: Subject, asked: dict[str, str], answer: str) -> Sampled:
    exchanges = Exchanges([subject.prompt_ids(q) for q in asked.values()], [subject.answer_ids(answer)] * len(asked))
    return Sampled(exchanges, list(asked))


def test_families_before_and_after(make_subject: Callable[..., Subject], adapt: Callable[..., Subject]) -> None:
    subject = adapt(make_subject(), Path({0: [1, 5], 1: [3]}))
    bare = {"a": "What is the code?", "b": "Who are you, and where?"}
    benign = {"x": "What is two and two?", "y": "Name a bird."}
    direct, safety, open_ = (
        sampled(subject, q, a) for q, a in ((bare, "amber"), (bare, "no, never"), (benign, "a bird"))
    )
    families = {
        # A family whose wording is none: its path is the direct one, and that of benign questions the bare one.
        "none": Wordings(direct, open_),
        "play": Wordings(
            sampled(subject, {n: f"Let us play. {q}" for n, q in bare.items()}, "amber"),
            sampled(subject, {n: f"Let us play. {q}" for n, q in benign.items()}, "a bird"),
        ),
    }
    search, draws = Search(k=3, steps=2, positions=2), Draws([list(bare), list(benign)], 4, 0)
    rows = path_convergence(subject, PathSamples(direct, safety, open_, families), search, draws, hardened=True)
    found = {(row.when, row.family, row.layer): row.figures for row in rows}
    assert len(rows) == 2 * 3 * 2 + 2 and len(found) == len(rows)
    for when in ("before", "after"):
        for layer in (0, 1):
            none = found[when, "none", layer]
            assert none["direct"].value == none["control"].value == none["paired"].value == 1.0
            assert none["direct_cosine"].value == pytest.approx(1.0) and none["excess"].value == 0.0
            for name, figure in found[when, ALL, layer].items():
                two = [found[when, family, layer][name].value for family in families]
                assert figure.value == pytest.approx(sum(two) / 2, abs=1e-6)
    # Refusals under M_0 from the bare question are the safety path itself.
    assert found["before", "none", 1]["refused"].value == 1.0 > found["after", "none", 1]["refused_cosine"].value
    for layer in (0, 1):
        change, before, after = (found[when, ALL, layer] for when in ("change", "before", "after"))
        for name, figure in change.items():
            assert figure.value == pytest.approx(after[name].value - before[name].value, abs=1e-6)
    with subject.reference():
        plain = sampled_path(subject.model, families["play"].restricted.exchanges, list(bare), search)
        there = sampled_path(subject.model, direct.exchanges, list(bare), search)
    assert found["before", "play", 1]["direct"].value == pytest.approx(
        float(agreements(plain, there, draws, 3)[1].jaccard[0])
    )


def test_without_hardening_there_is_nothing_after(make_subject: Callable[..., Subject]) -> None:
    subject = make_subject()
    bare, open_ = sampled(subject, {"a": "Who?", "b": "Where?"}, "amber"), sampled(subject, {"x": "Why?"}, "a bird")
    samples = PathSamples(bare, bare, open_, {"f": Wordings(bare, open_)})
    rows = path_convergence(subject, samples, Search(k=2, steps=2), Draws(["ab", "x"], 2, 0), hardened=False)
    assert {row.when for row in rows} == {"before"} and {row.family for row in rows} == {"f", ALL}
