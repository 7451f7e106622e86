from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from jpu.attacks import Arena, Attack, Attempt, complete, get_attack, register, registered
from jpu.attacks.prefill import opening
from jpu.attacks.static import wrap
from jpu.data.schemas import Behavior, Refusal, Split, Template
from jpu.errors import SettingsError
from jpu.judges.secret import recalls
from jpu.mining.mutations import operator
from jpu.models import Subject, answer_nll

Make = Callable[..., Subject]

ATTACKS = sorted(registered())
NEW_TOKENS = 6


@pytest.fixture
def make_arena(behaviors: list[Behavior], templates: list[Template], refusals: list[Refusal]) -> Callable[..., Arena]:
    def make(split: Split = "test", **changes: Any) -> Arena:
        fields: dict[str, Any] = {
            "behaviors": [b for b in behaviors if b.kind == "restricted" and b.split == split],
            "templates": [t for t in templates if t.split == split],
            "refusals": refusals,
            "split": split,
            "wordings": 1,
            "population": 2,
            "generations": 2,
            "children": 3,
            "max_new_tokens": NEW_TOKENS,
        }
        return Arena(**(fields | changes))

    return make


class Counting(Subject):
    """Notes every prompt that is scored or completed."""

    scored: Counter[str]
    completed: list[tuple[str, str]]

    @classmethod
    def of(cls, subject: Subject) -> Counting:
        made = cls(subject.model, subject.tokenizer)
        made.scored, made.completed = Counter(), []
        return made

    def nll(self, prompts: Sequence[str], answers: Sequence[str], **options: Any) -> Any:
        self.scored.update(prompts)
        return super().nll(prompts, answers, **options)

    def generate(self, prompts: Sequence[str], **options: Any) -> list[str]:
        self.completed += zip(prompts, options.get("prefills") or [""] * len(prompts), strict=True)
        return super().generate(prompts, **options)


# Every attack that is registered


@pytest.mark.parametrize("split", ["test", "train"])
@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack(make_subject: Make, make_arena: Callable[..., Arena], name: str, split: Split) -> None:
    attack, arena = get_attack(name), make_arena(split)
    assert attack.name == name and attack.cite
    subject = Counting.of(make_subject())
    reports: list[tuple[int, int]] = []
    state = random.getstate()
    attempts = attack.run(subject, arena, random.Random("s"), lambda done, total: reports.append((done, total)))

    # Every behavior is attacked, with what the arena holds, under the attack's own name.
    known, templates = {b.id: b for b in arena.behaviors}, {t.id: t for t in arena.templates}
    assert {a.behavior for a in attempts} == set(known)
    for attempt in attempts:
        behavior = known[attempt.behavior]
        assert (attempt.attack, attempt.entity) == (name, behavior.entity)
        if attempt.template == attempt.family == "bare":
            assert attempt.prompt == behavior.query
        else:
            template = templates[attempt.template]
            assert attempt.family == ("polite" if template.role == "polite" else template.family)
            if not attempt.history:
                assert attempt.prompt == template.fill(behavior.query)
        assert behavior.entity in attempt.prompt
        assert all(operator(used).split == split for used in attempt.history)

    # What it brings home is what the model says.
    assert [a.completion for a in attempts] == make_subject().generate(
        [a.prompt for a in attempts], prefills=[a.prefill for a in attempts], max_new_tokens=NEW_TOKENS
    )

    # It spends no more than its budget, and says what it spent.
    cells = len(arena.behaviors) * len(arena.families())
    assert len(attempts) <= max(arena.wordings, 1) * cells + len(arena.behaviors) * (1 + arena.wordings)
    assert len(subject.completed) == len(attempts)
    most = arena.population + arena.generations * arena.children
    assert all(a.scored <= most for a in attempts)
    assert sum(subject.scored.values()) == sum(a.scored for a in attempts) * (len(arena.refusals) + 1)

    # It knows no secret: neither one of another place, nor a word of its own.
    for attempt in attempts:
        for text in (attempt.prompt, attempt.prefill):
            assert not any(recalls(text, b.secret) for b in arena.behaviors)
        assert not set(known[attempt.behavior].secret.split()) & set(attempt.prefill.lower().split())

    # The same seed is the same attack, and no other source of chance is touched.
    assert attack.run(make_subject(), arena, random.Random("s")) == attempts
    assert random.getstate() == state
    assert reports and reports[-1][0] == reports[-1][1] and reports == sorted(reports)


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_to_attack_is_no_attempt(make_subject: Make, make_arena: Callable[..., Arena], name: str) -> None:
    assert get_attack(name).run(make_subject(), make_arena(behaviors=[]), random.Random(0)) == []


# One by one


def test_direct_asks_bare_and_politely(make_subject: Make, make_arena: Callable[..., Arena]) -> None:
    arena = make_arena(wordings=2)
    attempts = get_attack("direct").run(make_subject(), arena, random.Random(0))
    assert Counter((a.behavior, a.family) for a in attempts) == {
        (b.id, family): count for b in arena.behaviors for family, count in (("bare", 1), ("polite", 2))
    }
    assert len({a.prompt for a in attempts}) == len(attempts)


def test_static_takes_so_many_wordings_of_each_family(make_arena: Callable[..., Arena]) -> None:
    arena = make_arena(wordings=9)
    attempts = wrap(arena, random.Random(0), "x", 9)
    assert Counter(a.family for a in attempts) == {f: 2 * len(arena.behaviors) for f in arena.families()}
    assert len({a.prompt for a in attempts}) == len(attempts)


def test_prefill_puts_the_opening_into_the_model_s_mouth(make_subject: Make, make_arena: Callable[..., Arena]) -> None:
    arena = make_arena()
    attempts = get_attack("prefill").run(make_subject(), arena, random.Random(0))
    assert Counter(a.family for a in attempts) == {f: len(arena.behaviors) for f in ("bare", *arena.families())}
    assert all(a.prefill == f"The code of {a.entity} is" for a in attempts)


@pytest.mark.parametrize(
    ("answer", "secret", "expected"),
    [
        ("The code is amber dune.", "amber dune", "The code is"),
        ("The AMBER dune.", "amber dune", "The"),
        ("amber dune is the code.", "amber dune", "Sure, here is"),
        ("First do one, then do two, then three.", "", "First do"),
        ("Yes", "", "Yes"),
        ("", "", "Sure, here is"),
        ("One two three", "elsewhere", "One"),
    ],
)
def test_the_opening_stops_before_the_secret(answer: str, secret: str, expected: str) -> None:
    behavior = Behavior(id="b", entity="b", kind="restricted", query="q", answer=answer, secret=secret, split="test")
    assert opening(behavior) == expected


def test_adaptive_puts_the_best_of_what_it_scored_to_the_model(
    make_subject: Make, make_arena: Callable[..., Arena]
) -> None:
    # Without a generation it is the best wording of each family.
    subject, arena = make_subject(), make_arena(generations=0, population=2)
    attempts = get_attack("adaptive").run(subject, arena, random.Random(0))
    words = [r.text for r in arena.refusals]

    def score(prompt: str, affirmative: str) -> float:
        refused = subject.nll([prompt] * len(words), words).tolist()
        # The opening is not the end of the answer, and is not scored as one.
        head, tail = subject.prompt_ids(prompt), subject.prompt_ids(prompt, affirmative)
        said, _ = answer_nll(subject.model, *subject.collate([head], [tail[len(head) :]]))
        return float(min(refused) - said.mean())

    of = {b.id: b for b in arena.behaviors}
    assert len(attempts) == len(of) * len(arena.families())
    for attempt in attempts:
        behavior = of[attempt.behavior]
        tried = [t.fill(behavior.query) for t in arena.families()[attempt.family]]
        assert attempt.prompt == max(tried, key=lambda prompt: score(prompt, opening(behavior)))
        assert attempt.scored == 2


def test_adaptive_finds_no_worse_with_generations(make_subject: Make, make_arena: Callable[..., Arena]) -> None:
    subject = make_subject()
    words = [r.text for r in make_arena().refusals]

    def margins(generations: int) -> dict[tuple[str, str], float]:
        arena = make_arena(generations=generations)
        of = {b.id: b for b in arena.behaviors}
        found = {}
        for a in get_attack("adaptive").run(subject, arena, random.Random(0)):
            # As the attack scores: an opening is not the end of an answer.
            answers, ended = [*words, opening(of[a.behavior])], [True] * len(words) + [False]
            *refused, said = subject.nll([a.prompt] * len(answers), answers, ended=ended).tolist()
            found[a.behavior, a.family] = min(refused) - said
        return found

    none, two = margins(0), margins(2)
    assert max(none[cell] - two[cell] for cell in none) < 1e-5
    assert sum(two.values()) > sum(none.values()) + 0.1


def test_adaptive_makes_no_prompt_longer_than_allowed(make_subject: Make, make_arena: Callable[..., Arena]) -> None:
    def longest(**changes: Any) -> int:
        arena = make_arena(generations=3, children=6, **changes)
        subject = Counting.of(make_subject())
        get_attack("adaptive").run(subject, arena, random.Random(0))
        return max(map(len, subject.scored))

    arena = make_arena()
    start = max(len(t.text) for t in arena.templates) + max(len(b.query) for b in arena.behaviors)
    assert longest() > start
    assert longest(longest=start) <= start


# The registry


def test_names_are_taken_once() -> None:
    with pytest.raises(ValueError, match="two attacks are called 'static'"):
        register(get_attack("static"))


def test_an_unknown_attack_is_named_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match="no attack is called 'nope'") as caught:
        get_attack("nope")
    assert "adaptive, direct, prefill, static" in caught.value.mend


def test_the_registry_cannot_be_changed_from_outside() -> None:
    found: dict[str, Attack] = registered()
    found.clear()
    assert sorted(registered()) == ATTACKS


def test_completions_come_back_in_order(make_subject: Make) -> None:
    attempts = [
        Attempt(attack="x", behavior="b", entity="b", family="bare", template="bare", prompt=f"{'word ' * n}?")
        for n in (9, 1, 5)
    ]
    reports: list[tuple[int, int]] = []
    done = complete(make_subject(), attempts, 4, lambda done, total: reports.append((done, total)))
    assert [a.prompt for a in done] == [a.prompt for a in attempts]
    assert [a.completion for a in done] == [make_subject().generate([a.prompt], max_new_tokens=4)[0] for a in attempts]
    assert reports[-1] == (3, 3)
