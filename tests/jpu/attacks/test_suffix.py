from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from jpu.adversary.suffix_loss import SuffixLoss
from jpu.attacks import Arena, Attempt, Budget
from jpu.attacks.gcg import GCG, exchanges
from jpu.attacks.prefill import opening
from jpu.attacks.random_search import RandomSearch, redrawn
from jpu.attacks.suffix import Point, SuffixSearch
from jpu.attacks.suffix_tokens import SuffixTokens
from jpu.data.schemas import Behavior, Refusal, Template
from jpu.errors import ModelError
from jpu.models import Subject, plain_tokens

Make = Callable[..., Subject]
SEARCHES: list[SuffixSearch] = [GCG(), RandomSearch()]


@pytest.fixture
def arena(behaviors: list[Behavior], templates: list[Template], refusals: list[Refusal]) -> Arena:
    """Behaviors whose questions and openings are of different lengths."""
    chosen = [b for b in behaviors if b.kind in ("restricted", "benign")][:4]
    longer = chosen[0].model_copy(
        update={"id": "longer", "query": f"Good morning. {chosen[0].query}", "answer": "Yes."}
    )
    return Arena([*chosen, longer], templates, refusals, max_new_tokens=4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(tokens: SuffixTokens, arena: Arena, length: int = 4) -> torch.Tensor:
    return tokens.draw(range(len(arena.behaviors)), length, generator())


# Tokens


def test_suffixes_are_of_plain_text(make_subject: Make) -> None:
    subject = make_subject()
    texts = [subject.tokenizer.decode([i]) for i in plain_tokens(subject)]
    assert all(t.isascii() and t.isprintable() for t in texts)
    assert not any("<|" in t for t in texts)
    # Nothing plain is left out: every letter, digit and mark that ASCII has is there.
    assert {chr(c) for c in range(32, 127)} <= set(texts)
    assert not set(plain_tokens(subject).tolist()) & set(subject.encode("".join(subject.frame)))


def test_the_prompt_of_a_drawn_suffix_is_read_as_the_tokens_that_are_scored(make_subject: Make, arena: Arena) -> None:
    subject = make_subject()
    tokens = SuffixTokens(subject, arena)
    suffixes = drawn(tokens, arena)
    for b, (prompt, suffix) in enumerate(zip(tokens.prompts(range(5), suffixes), suffixes.tolist(), strict=True)):
        parts = tokens.layouts[b]
        assert subject.prompt_ids(prompt) == [*parts.before, *suffix, *parts.after]
        assert subject.tokenizer.decode(parts.target) == opening(arena.behaviors[b])
    assert torch.equal(drawn(tokens, arena), suffixes)


def test_a_suffix_that_is_read_otherwise_is_dropped(make_subject: Make, arena: Arena) -> None:
    subject = make_subject()
    tokens = SuffixTokens(subject, arena)
    # " the" is one token, and is not read as its letters.
    word = subject.encode(" the")
    apart = subject.tokenizer.convert_tokens_to_ids(["Ġ", "t", "h", "e"])
    assert len(word) == 1
    assert tokens.come_back([0], torch.tensor([apart])).tolist() == [False]
    assert tokens.come_back([0, 1], torch.tensor([word * 4, word * 4])).tolist() == [True, True]
    assert tokens.come_back([], torch.empty(0, 4, dtype=torch.long)).tolist() == []


def test_prompts_that_are_too_long_are_dropped_and_said(make_subject: Make, arena: Arena) -> None:
    short = Arena(arena.behaviors, arena.templates, arena.refusals, longest=10)
    tokens = SuffixTokens(make_subject(), short)
    with pytest.raises(ModelError, match="no random suffix of 2 tokens"):
        tokens.draw([0], 2, generator())


# Loss and gradient


def plain_loss(subject: Subject, tokens: SuffixTokens, behavior: int, embedded: torch.Tensor) -> torch.Tensor:
    """The definition: one row, no cache, no padding."""
    parts, model = tokens.layouts[behavior], subject.base
    table = model.get_input_embeddings().weight
    row = torch.cat([table[list(parts.before)], embedded, table[[*parts.after, *parts.target]]])[None]
    lines = model(inputs_embeds=row).logits[0].log_softmax(-1)
    target = torch.tensor(parts.target)
    return -lines[-len(target) - 1 : -1].gather(1, target[:, None]).mean()


@pytest.mark.parametrize("batch_tokens", [1, 100, 8192])
def test_loss_with_kept_tokens_is_the_loss_without(make_subject: Make, arena: Arena, batch_tokens: int) -> None:
    subject = make_subject()
    tokens = SuffixTokens(subject, arena)
    assert len({len(x.before) for x in tokens.layouts}) > 1 and len({len(x.target) for x in tokens.layouts}) > 1
    loss = SuffixLoss(subject.base, tokens.layouts, subject.pad_id, batch_tokens=batch_tokens)
    behaviors = [3, 0, 4, 1, 2, 0]
    suffixes = tokens.draw(behaviors, 4, generator())
    table = subject.base.get_input_embeddings().weight
    wanted = torch.stack([plain_loss(subject, tokens, b, table[s]) for b, s in zip(behaviors, suffixes, strict=True)])
    torch.testing.assert_close(loss.losses(behaviors, suffixes), wanted, atol=1e-5, rtol=1e-5)
    # It is also what the subject says of the written prompt.
    prompts = tokens.prompts(behaviors, suffixes)
    said = subject.nll(prompts, [opening(arena.behaviors[b]) for b in behaviors], ended=[False] * 6)
    torch.testing.assert_close(loss.losses(behaviors, suffixes), said, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 8192])
def test_slopes_are_the_gradient_by_the_one_hot_tokens(make_subject: Make, arena: Arena, batch_tokens: int) -> None:
    subject = make_subject()
    tokens = SuffixTokens(subject, arena)
    loss = SuffixLoss(subject.base, tokens.layouts, subject.pad_id, batch_tokens=batch_tokens)
    suffixes = drawn(tokens, arena)
    losses, slopes = loss.slopes(range(5), suffixes)
    torch.testing.assert_close(losses, loss.losses(range(5), suffixes), atol=1e-5, rtol=1e-5)
    table = subject.base.get_input_embeddings().weight
    for b in (0, 4):
        hot = torch.nn.functional.one_hot(suffixes[b], len(table)).float().requires_grad_()
        (wanted,) = torch.autograd.grad(plain_loss(subject, tokens, b, hot @ table), hot)
        torch.testing.assert_close(slopes[b], wanted, atol=1e-5, rtol=1e-3)


def test_slopes_are_finite_differences(make_subject: Make, arena: Arena) -> None:
    subject = make_subject()
    tokens = SuffixTokens(subject, arena)
    suffixes = drawn(tokens, arena)
    _, slopes = SuffixLoss(subject.base, tokens.layouts, subject.pad_id).slopes(range(5), suffixes)
    table, step = subject.base.get_input_embeddings().weight, 1e-2
    hot = torch.nn.functional.one_hot(suffixes[1], len(table)).float()
    for place, token in ((0, 7), (2, 300), (3, int(suffixes[1, 3]))):
        up, down = hot.clone(), hot.clone()
        up[place, token] += step
        down[place, token] -= step
        pair = [float(plain_loss(subject, tokens, 1, x @ table)) for x in (up, down)]
        assert float(slopes[1, place, token]) == pytest.approx((pair[0] - pair[1]) / (2 * step), abs=1e-4, rel=1e-2)


# Candidates


def test_exchanges_are_of_the_steepest_allowed_tokens() -> None:
    slopes = torch.randn(2, 3, 20, generator=generator(1))
    allowed = torch.tensor([2, 3, 5, 8, 13, 17])
    suffixes = torch.tensor([[0, 1, 4], [6, 7, 9]])
    steepest = {
        (b, p): set(sorted(allowed.tolist(), key=lambda t: slopes[b, p, t])[:2]) for b in (0, 1) for p in range(3)
    }
    found = exchanges(suffixes, slopes, allowed, width=300, topk=2, replaced=1, generator=generator())
    assert found.shape == (2, 300, 3)
    seen: set[tuple[int, int, int]] = set()
    for b in (0, 1):
        for row in found[b]:
            (place,) = (row != suffixes[b]).nonzero()[:, 0].tolist()
            seen.add((b, place, int(row[place])))
    # Every one of them is met, and no other.
    assert seen == {(b, p, t) for (b, p), chosen in steepest.items() for t in chosen}
    several = exchanges(suffixes, slopes, allowed, width=50, topk=9, replaced=2, generator=generator())
    assert ((several != suffixes[:, None]).sum(-1) == 2).all()


def test_a_window_is_drawn_anew() -> None:
    suffixes = torch.full((3, 5), 99)
    allowed = torch.tensor([1, 2])
    found = redrawn(suffixes, torch.tensor([1, 3, 8]), allowed, 200, generator())
    changed = found != 99
    assert changed.sum(-1).unique(dim=1).tolist() == [[1], [3], [5]]
    # Side by side, and everywhere.
    assert {tuple(row.nonzero()[:, 0].tolist()) for row in changed[1]} == {(0, 1, 2), (1, 2, 3), (2, 3, 4)}
    assert set(found[changed].tolist()) == {1, 2}


def test_the_less_likely_the_opening_the_wider_the_window(make_subject: Make, arena: Arena) -> None:
    subject = make_subject()
    tokens = SuffixTokens(subject, arena)
    loss = SuffixLoss(subject.base, tokens.layouts, subject.pad_id)
    # Tokens that cannot be drawn, so that each change is seen.
    point = Point([0, 1, 2], torch.zeros(3, 6, dtype=torch.long), torch.tensor([torch.inf, 0.6, 0.1]))
    found = RandomSearch().propose(point, loss, tokens.allowed, generator())
    assert found.shape == (3, RandomSearch.width, 6)
    assert [(found[b] != 0).sum(-1).unique().tolist() for b in range(3)] == [[4], [2], [1]]


# The search


class Exhaustive(GCG):
    """Proposes every exchange of one token that is allowed."""

    name = "exhaustive"
    length, tries, enough = 2, 1, 0.0

    def propose(
        self, point: Point, loss: SuffixLoss, allowed: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        rows = point.suffixes[:, None].repeat(1, 2 * len(allowed), 1)
        rows[:, : len(allowed), 0] = allowed
        rows[:, len(allowed) :, 1] = allowed
        return rows


def test_a_step_goes_to_the_best_of_all_candidates(make_subject: Make, arena: Arena) -> None:
    subject = make_subject()
    one = Arena(arena.behaviors[:1], arena.templates, arena.refusals, max_new_tokens=2)
    tokens = SuffixTokens(subject, one)
    # The budget of one step: the smallest that a step is taken with.
    (attempt,) = Exhaustive().run(subject, one, Budget(GCG.width + 3), random.Random(3))
    start = tokens.draw([0], 2, torch.Generator().manual_seed(random.Random(3).getrandbits(63)))
    rows = Exhaustive().propose(Point([0], start, torch.tensor([0.0])), None, tokens.allowed, generator())[0]
    back = tokens.come_back([0] * len(rows), rows)
    prompts = [p for p, whole in zip(tokens.prompts([0] * len(rows), rows), back, strict=True) if whole]
    losses = subject.nll(prompts, [opening(one.behaviors[0])] * len(prompts), ended=[False] * len(prompts))
    assert attempt.prompt == prompts[int(losses.argmin())]
    assert attempt.queries == len(prompts) + 1 + 1


@pytest.mark.parametrize("attack", SEARCHES, ids=lambda a: a.name)
def test_a_longer_try_ends_no_higher(make_subject: Make, arena: Arena, attack: SuffixSearch) -> None:
    """With the same seed a longer search of a behavior is the shorter one, gone on with: its loss never rises."""

    class Once(type(attack)):  # type: ignore[misc]
        tries, enough = 1, 0.0

    subject = make_subject()
    curves = []
    for behavior in arena.behaviors[:3]:
        alone = Arena([behavior], (), (), max_new_tokens=1)
        prompts = [Once().run(subject, alone, Budget(q), random.Random(1))[0].prompt for q in (45, 90, 180)]
        curves.append(subject.nll(prompts, [opening(behavior)] * 3, ended=[False] * 3))
    curve = torch.stack(curves)
    assert (curve[:, 1:] <= curve[:, :-1] + 1e-5).all()
    assert (curve[:, 2] < curve[:, 0] - 0.01).any()


@pytest.mark.parametrize("attack", SEARCHES, ids=lambda a: a.name)
@pytest.mark.parametrize("queries", [1, 2, 3, 30, 150])
def test_the_budget_is_kept(make_subject: Make, arena: Arena, attack: SuffixSearch, queries: int) -> None:
    attempts = attack.run(make_subject(), arena, Budget(queries), random.Random(0))
    spent, times = Counter[str](), Counter(a.behavior for a in attempts)
    for a in attempts:
        spent[a.behavior] += a.queries
    assert set(spent) == {b.id for b in arena.behaviors}
    assert max(spent.values()) <= queries and max(times.values()) <= min(attack.tries, queries)
    if queries == 150:
        # A random model says no secret: every try is used, and each begins at another suffix.
        hidden = [b.id for b in arena.behaviors if b.secret]
        assert all(times[b] == attack.tries and spent[b] > 60 for b in hidden)
        assert len({a.prompt for a in attempts}) == len(attempts)


@pytest.mark.parametrize("attack", SEARCHES, ids=lambda a: a.name)
def test_it_says_what_it_scored(
    make_subject: Make, arena: Arena, attack: SuffixSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = Counter[int]()

    def counting(name: str) -> None:
        run: Any = getattr(SuffixLoss, name)

        def counted(self: SuffixLoss, behaviors: Any, suffixes: torch.Tensor) -> Any:
            scored.update(behaviors)
            return run(self, behaviors, suffixes)

        monkeypatch.setattr(SuffixLoss, name, counted)

    counting("losses")
    counting("slopes")
    attempts = attack.run(make_subject(), arena, Budget(150), random.Random(0))
    for b, behavior in enumerate(arena.behaviors):
        own = [a.queries - 1 for a in attempts if a.behavior == behavior.id]
        assert sum(own) == scored[b]


@pytest.mark.parametrize("attack", SEARCHES, ids=lambda a: a.name)
def test_who_is_through_is_left_alone(make_subject: Make, arena: Arena, attack: SuffixSearch) -> None:
    class Through(Arena):
        def through(self, attempts: Sequence[Attempt]) -> list[bool]:
            return [a.behavior == self.behaviors[1].id for a in attempts]

    some = Through(arena.behaviors[:3], (), (), max_new_tokens=1)
    attempts = attack.run(make_subject(), some, Budget(150), random.Random(0))
    assert Counter(a.behavior for a in attempts) == {
        some.behaviors[0].id: attack.tries,
        some.behaviors[1].id: 1,
        some.behaviors[2].id: attack.tries,
    }


@pytest.mark.parametrize("attack", SEARCHES, ids=lambda a: a.name)
def test_a_likely_opening_ends_a_try(make_subject: Make, arena: Arena, attack: SuffixSearch) -> None:
    class Content(type(attack)):  # type: ignore[misc]
        enough = 100.0

    attempts = Content().run(make_subject(), arena, Budget(900), random.Random(0))
    # One step, and no more.
    assert all(a.queries <= 1 + attack.width + attack.gradients for a in attempts)
    assert all(a.queries > 1 + attack.gradients for a in attempts)


@pytest.mark.parametrize("attack", SEARCHES, ids=lambda a: a.name)
def test_control_is_random_and_scores_nothing(
    make_subject: Make, arena: Arena, attack: SuffixSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("jpu.attacks.suffix.SuffixLoss")
    subject = make_subject()
    attempts = attack.run(subject, arena, Budget(90), random.Random(0), control=True)
    assert Counter(a.behavior for a in attempts) == {b.id: attack.tries for b in arena.behaviors}
    assert all(a.queries == 1 for a in attempts)
    # Of the same length and tokens as what the search makes, and the same for any model with this tokenizer.
    allowed = set(plain_tokens(subject).tolist())
    tokens, queries = SuffixTokens(subject, arena), {b.id: i for i, b in enumerate(arena.behaviors)}
    for a in attempts:
        parts = tokens.layouts[queries[a.behavior]]
        suffix = subject.prompt_ids(a.prompt)[len(parts.before) : -len(parts.after)]
        assert len(suffix) == attack.length and set(suffix) <= allowed
    other = attack.run(make_subject(seed=5), arena, Budget(90), random.Random(0), control=True)
    assert [a.prompt for a in other] == [a.prompt for a in attempts]


@pytest.mark.parametrize("attack", SEARCHES, ids=lambda a: a.name)
def test_nothing_of_the_model_is_touched(make_subject: Make, adapt: Make, arena: Arena, attack: SuffixSearch) -> None:
    subject = adapt(make_subject())
    weights = {name: p.clone() for name, p in subject.model.named_parameters()}
    flags = {name: p.requires_grad for name, p in subject.model.named_parameters()}
    assert len(set(flags.values())) == 2
    state, enabled = torch.get_rng_state(), torch.is_grad_enabled()
    first = attack.run(subject, arena, Budget(150), random.Random(7))
    assert torch.equal(torch.get_rng_state(), state) and torch.is_grad_enabled() == enabled
    for name, p in subject.model.named_parameters():
        assert torch.equal(p, weights[name]) and p.grad is None and p.requires_grad == flags[name]
    with torch.no_grad():
        assert attack.run(subject, arena, Budget(150), random.Random(7)) == first
    assert attack.run(subject, arena, Budget(150), random.Random(8)) != first


@pytest.mark.parametrize("attack", SEARCHES, ids=lambda a: a.name)
@pytest.mark.parametrize("control", [False, True])
def test_no_behavior_is_no_attempt(make_subject: Make, attack: SuffixSearch, control: bool) -> None:
    assert attack.run(make_subject(), Arena([], (), ()), Budget(9), random.Random(0), control=control) == []
