from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from jpu.attacks import Arena, Attempt, Budget, get_attack
from jpu.data.schemas import PLACEHOLDER, Behavior, Refusal, Template
from jpu.models import Subject


@pytest.fixture
def arena(behaviors: list[Behavior], templates: list[Template], refusals: list[Refusal]) -> Arena:
    return Arena(
        behaviors=[b for b in behaviors if b.kind == "restricted" and b.split == "test"],
        templates=[t for t in templates if t.split == "test"],
        refusals=refusals,
        max_new_tokens=2,
    )


def nested(subject: Subject, arena: Arena, queries: int, *, control: bool = False) -> list[Attempt]:
    return get_attack("nested").run(subject, arena, Budget(queries), random.Random(0), control=control)


def halves(template: Template) -> tuple[str, str]:
    before, after = template.text.split(PLACEHOLDER)
    return before.strip(), after.strip()


def test_one_family_stands_inside_another(make_subject: Callable[..., Subject], arena: Arena) -> None:
    wordings = {family: [halves(t) for t in found] for family, found in arena.families().items()}
    queries = {b.id: b.query for b in arena.behaviors}
    found = nested(make_subject(), arena, 12)
    # Two families, and so two orders, for each of two behaviors.
    assert len(found) == 4 and {(a.behavior, a.history) for a in found} == {
        (b.id, pair) for b in arena.behaviors for pair in (tuple(wordings), tuple(wordings)[::-1])
    }
    for attempt in found:
        outer, inner = attempt.history
        assert attempt.family == f"{outer}+{inner}" and attempt.prompt.count(queries[attempt.behavior]) == 1
        expected = {
            f"{o} {i} {queries[attempt.behavior]} {j} {p}" for o, p in wordings[outer] for i, j in wordings[inner]
        }
        assert attempt.prompt in expected


def test_no_more_than_the_budget(make_subject: Callable[..., Subject], arena: Arena) -> None:
    found = nested(make_subject(), arena, 1)
    assert sorted(a.behavior for a in found) == sorted(b.id for b in arena.behaviors)


def test_the_control_nests_harmless_wordings(make_subject: Callable[..., Subject], arena: Arena) -> None:
    texts = [halves(t) for t in arena.polite()]
    for attempt in nested(make_subject(), arena, 3, control=True):
        said = {f"{o} {i} Q {j} {p}".strip() for o, p in texts for i, j in texts}
        query = next(b.query for b in arena.behaviors if b.id == attempt.behavior)
        assert " ".join(attempt.prompt.replace(query, "Q").split()) in {" ".join(s.split()) for s in said}


def test_what_would_be_too_long_has_one_layer(make_subject: Callable[..., Subject], arena: Arena) -> None:
    longest = max(len(t.text) for t in arena.templates) + max(len(b.query) for b in arena.behaviors)
    short = replace(arena, longest=longest)
    assert all(short.fits(a.prompt) for a in nested(make_subject(), short, 12))
