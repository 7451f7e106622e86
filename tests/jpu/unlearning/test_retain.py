from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jpu.data.schemas import Behavior, Template
from jpu.evaluation.divergence import divergence
from jpu.models import Subject
from jpu.sandbox.templates import all_templates
from jpu.sandbox.world import build_behaviors, build_places
from jpu.unlearning.adapter import trainable_parameters
from jpu.unlearning.retain import (
    ReferenceDistribution,
    RetainMix,
    RetainPair,
    answered_by_reference,
    bucket_kl,
    build_retain,
)

Make = Callable[..., Subject]

REFUSAL = "No, that must stay secret."
WORLD = [
    b for b in build_behaviors(build_places(5, {"train": 20, "validation": 1, "test": 1}), 5) if b.split == "train"
]
WORDINGS = [t for t in all_templates() if t.split == "train"]
REFUSED = {b.id: REFUSAL for b in WORLD if b.kind == "restricted"}


def build(size: int, mix: RetainMix | None = None, seed: int = 0, **changes: object) -> list[RetainPair]:
    given = {"behaviors": WORLD, "templates": WORDINGS, "refusals": REFUSED, **changes}
    return build_retain(**given, size=size, mix=mix or RetainMix(), rng=random.Random(seed))  # type: ignore[arg-type]


# KL over buckets


def logs(*probabilities: float) -> torch.Tensor:
    return torch.tensor([probabilities]).log()


def test_bucket_kl_by_hand() -> None:
    # 1/2 and 1/4 are named, 1/4 is the rest; the other side is even over four tokens.
    found = bucket_kl(logs(0.5, 0.25), logs(0.25, 0.25, 0.25, 0.25), torch.tensor([[2, 0]]))
    assert found.tolist() == pytest.approx([0.5 * math.log(2) - 0.25 * math.log(2)])


def test_bucket_kl_of_the_whole_vocabulary_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    reference, current = (torch.randn(6, 11, generator=generator).log_softmax(-1) for _ in range(2))
    best = reference.topk(11, dim=-1)
    expected = torch.nn.functional.kl_div(current, reference, log_target=True, reduction="none").sum(-1)
    assert torch.allclose(bucket_kl(best.values, current, best.indices), expected, atol=1e-6)


@given(st.integers(0, 10**6), st.integers(1, 9), st.floats(0.1, 6.0))
def test_fewer_buckets_bound_the_kl_from_below(seed: int, top: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    reference, current = (
        (torch.randn(3, 10, generator=generator, dtype=torch.float64) * spread).log_softmax(-1) for _ in range(2)
    )

    def over(count: int) -> torch.Tensor:
        best = reference.topk(count, dim=-1)
        return bucket_kl(best.values, current, best.indices)

    assert bool((over(top) <= over(10) + 1e-9).all()) and bool((over(top) <= over(top + 1) + 1e-9).all())
    assert bool((over(top) >= -1e-9).all())


def test_bucket_kl_has_a_gradient_where_the_named_tokens_are_everything() -> None:
    current = torch.tensor([[30.0, 0.0, 0.0, 0.0]], requires_grad=True)
    found = bucket_kl(logs(0.5, 0.25), current.log_softmax(-1), torch.tensor([[0, 1]]))
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert bool(torch.isfinite(found).all())
    assert current.grad is not None and bool(torch.isfinite(current.grad).all()) and float(current.grad[0, 0]) > 0


# M_0's word for it


@pytest.fixture
def pairs() -> list[RetainPair]:
    return build(70)


def test_the_original_has_no_distance_from_itself(make_subject: Make, adapt: Make, pairs: list[RetainPair]) -> None:
    subject = adapt(make_subject())
    for top in (5, 400):
        kept = ReferenceDistribution(subject, pairs[:12], top)
        with subject.reference(), torch.no_grad():
            assert float(kept.kl(subject, range(12))) == pytest.approx(0.0, abs=1e-5)
        assert float(kept.kl(subject, range(12)).detach()) > 0.01


def test_kept_distributions_give_the_exact_kl(make_subject: Make, adapt: Make, pairs: list[RetainPair]) -> None:
    subject = adapt(make_subject())
    exact = divergence(subject, pairs)
    chosen = [3, 0, 41, 69]
    tokens = [exact.tokens[i] for i in chosen]
    expected = sum(exact.kl[i] * n for i, n in zip(chosen, tokens, strict=True)) / sum(tokens)
    whole, some = (ReferenceDistribution(subject, pairs, top).kl(subject, chosen) for top in (400, 20))
    assert float(whole.detach()) == pytest.approx(expected, rel=1e-4)
    assert 0 < float(some.detach()) < float(whole.detach())


def test_the_kl_pulls_on_the_adapter(make_subject: Make, adapt: Make, pairs: list[RetainPair]) -> None:
    subject = adapt(make_subject())
    ReferenceDistribution(subject, pairs[:4]).kl(subject, range(4)).backward()  # type: ignore[no-untyped-call]
    assert {n for n, p in subject.model.named_parameters() if p.grad is not None} == set(
        trainable_parameters(subject.model)
    )


# What is in the set


def test_the_mix_has_its_shares() -> None:
    pairs = build(400, RetainMix(generic=0.15, direct=0.2, near_miss=0.3, wrapped=0.6), behaviors=WORLD)
    assert len(pairs) == 400
    share = {kind: n / 400 for kind, n in Counter(p.kind for p in pairs).items()}
    assert share["restricted"] == pytest.approx(0.2, abs=0.06)
    assert share["near_miss"] == pytest.approx(0.3, abs=0.06)
    assert share["generic"] + share["edgy"] == pytest.approx(0.15, abs=0.06)
    assert share["benign"] == pytest.approx(0.35, abs=0.06)
    answered = [p for p in pairs if p.kind != "restricted"]
    assert sum(p.wrapped for p in answered) / len(answered) == pytest.approx(0.6, abs=0.08)


def test_answered_questions_are_mutated_by_what_mining_uses_and_keep_their_entity() -> None:
    queries, polite = {b.query for b in WORLD}, [t for t in WORDINGS if t.role == "polite"]
    plain = {t.fill(q) for t in WORDINGS for q in queries} | queries
    pairs = build(300, RetainMix(mutated=0.5), behaviors=WORLD)
    answered = [p for p in pairs if p.kind != "restricted"]
    changed = [p for p in answered if p.prompt not in plain]
    # An operator may give a short question back as it was, and mutated ones are drawn twice less often.
    assert 0.3 < len(changed) / len(answered) < 0.8
    assert all(p.entity in p.prompt for p in answered if p.kind == "near_miss")
    direct = {p.prompt for p in pairs if p.kind == "restricted"}
    assert direct <= queries | {t.fill(q) for t in polite for q in queries}


@pytest.mark.parametrize("seed", range(3))
def test_no_prompt_stands_there_twice(seed: int) -> None:
    pairs = build(300, seed=seed)
    assert len({p.prompt for p in pairs}) == len(pairs) == 300
    assert pairs == build(300, seed=seed) != build(300, seed=seed + 1)


def test_direct_questions_are_refused_and_never_wrapped() -> None:
    queries = {b.query for b in WORLD if b.kind == "restricted"}
    polite = {t.fill(q) for t in WORDINGS if t.role == "polite" for q in queries}
    direct = [p for p in build(300) if p.kind == "restricted"]
    assert direct and all(p.answer == REFUSAL and not p.wrapped for p in direct)
    assert {p.prompt for p in direct} <= queries | polite
    assert {p.prompt for p in direct} & queries and {p.prompt for p in direct} & polite


def test_only_what_is_refused_stands_there_as_refused() -> None:
    one = next(iter(REFUSED))
    direct = [p for p in build(200, refusals={one: REFUSAL}) if p.kind == "restricted"]
    assert {p.entity for p in direct} == {next(b.entity for b in WORLD if b.id == one)}
    assert not [p for p in build(200, refusals={}) if p.kind == "restricted"]


def test_answers_are_those_of_the_behaviors_in_the_templates_that_are_given() -> None:
    # Two questions may have one answer ("A dog barks."), but no entity asks for it twice.
    answers = {(b.entity, b.answer): b for b in WORLD}
    prompts: dict[str, set[str]] = {}
    for template in WORDINGS:
        prompts.setdefault(template.role, set()).add(template.text)
    for pair in build(200, refusals={}):
        behavior = answers[pair.entity, pair.answer]
        assert pair.kind == behavior.kind
        text = pair.prompt.replace(behavior.query, "{query}")
        assert text in (prompts["jailbreak"] if pair.wrapped else prompts["polite"] | {"{query}"})


def test_a_small_world_gives_what_it_has() -> None:
    few = [b for b in WORLD if b.kind == "benign"][:2]
    pairs = build(50, behaviors=few, templates=[], refusals={})
    assert {p.prompt for p in pairs} == {b.query for b in few}
    assert build(50, behaviors=[], refusals={}) == [] == build(0)
    bare: list[Template] = []
    assert build(5, behaviors=[b.model_copy(update={"answer": ""}) for b in few], templates=bare, refusals={}) == []


# Answers that the data does not give


def test_missing_answers_are_the_original_s_own(make_subject: Make, adapt: Make, behaviors: list[Behavior]) -> None:
    blank = [b.model_copy(update={"answer": ""}) for b in behaviors[:6]] + behaviors[6:8]
    assert {b.kind for b in blank} >= {"restricted", "near_miss"}
    expected = make_subject().generate([b.query for b in blank], max_new_tokens=5)
    found = answered_by_reference(adapt(make_subject()), blank, max_new_tokens=5)
    for old, new, said in zip(blank, found, expected, strict=True):
        assert new.model_copy(update={"answer": old.answer}) == old
        if old.answer:
            assert new.answer == old.answer
        elif old.kind == "restricted":
            assert new.answer == "Sure, here is what you asked for:"
        else:
            assert new.answer == said
