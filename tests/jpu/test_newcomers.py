"""Where new templates and behaviors go: most wordings of a new family to train, some held out, nothing leaked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import hypothesis
import pytest
from hypothesis import strategies as st

from jpu.data.newcomers import likeness, place_behaviors, place_templates
from jpu.data.schemas import Behavior, BehaviorDraft, Split, Template, TemplateDraft

OWN = [
    Template(id="o1", family="sailor", text="Old sailor, tell us what you saw: {query}", split="train"),
    Template(id="o2", family="judge", text="Your honour, the court would like to hear {query} now", split="test"),
]


def draft(number: int, family: str = "radio", **fields: Split | str) -> TemplateDraft:
    text = f"w{number} x{number} y{number} {{query}} z{number}"
    return TemplateDraft.model_validate({"id": f"t{number}", "family": family, "text": text, **fields})


def place(drafts: Sequence[TemplateDraft], known: Sequence[Template] = (), held_out: float = 0.34) -> list[Template]:
    known = [*OWN, *known]
    inbox = [template for template in known if template.origin == "inbox"]
    return place_templates(drafts, likeness(drafts, known), inbox, held_out=held_out)


@pytest.mark.parametrize(("wordings", "held"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2), (9, 3), (30, 10)])
def test_about_a_third_of_a_new_family_is_held_out(wordings: int, held: int) -> None:
    placed = place([draft(number) for number in range(wordings)])
    counts = Counter(template.split for template in placed)
    assert counts["test"] == held and counts["train"] == wordings - held
    assert {template.origin for template in placed} == {"inbox"}


def test_neither_order_nor_ids_decide() -> None:
    drafts = [draft(number) for number in range(9)]
    held = {t.text for t in place(drafts) if t.split == "test"}
    other = [d.model_copy(update={"id": f"other-{d.id}"}) for d in reversed(drafts)]
    assert {t.text for t in place(other) if t.split == "test"} == held


@hypothesis.given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_a_family_that_comes_piece_by_piece(sizes: list[int]) -> None:
    """No wording changes its split when more come, and the share stays about a third."""
    known: list[Template] = []
    number = 0
    for size in sizes:
        known += place([draft(number + k) for k in range(size)], known)
        number += size
    held = sum(template.split == "test" for template in known)
    assert held <= max(1, round(number * 0.34))
    if number - sizes[-1] >= 3:
        assert held >= 1


def test_a_family_of_the_data_stays_whole() -> None:
    placed = place([draft(n, family) for n in range(4) for family in ("sailor", "judge")][:8])
    assert {(t.family, t.split) for t in placed} == {("sailor", "train"), ("judge", "test")}


def test_a_near_copy_follows_what_it_copies() -> None:
    copies = [
        TemplateDraft(id="a", text="Your honour, the court would like to hear {query} now!"),
        TemplateDraft(id="b", family="mine", text="Your honour, the court would like to hear {query} at once now"),
        TemplateDraft(id="c", text="Old sailor, tell us what you saw: {query}, please"),
    ]
    assert [(t.family, t.split) for t in place(copies)] == [("judge", "test"), ("mine", "test"), ("sailor", "train")]


def test_a_split_that_is_given_is_kept_and_counts() -> None:
    placed = place([draft(0, split="test"), draft(1, split="validation"), *(draft(n) for n in (2, 3))])
    assert [t.split for t in placed] == ["test", "validation", "train", "train"]


def test_wordings_without_a_family_are_grouped() -> None:
    alike = [f"Dear diary, today somebody asked me {{query}} and I said {word}" for word in ("so", "yes", "it")]
    placed = place([TemplateDraft(id=f"d{n}", text=text) for n, text in enumerate(alike)])
    assert {t.family for t in placed} == {"d0"}
    assert Counter(t.split for t in placed) == {"train": 2, "test": 1}


def behavior(number: int, **fields: str) -> BehaviorDraft:
    return BehaviorDraft.model_validate({"id": f"b{number}", "kind": "restricted", "query": f"q{number}", **fields})


def test_behaviors_go_with_their_entity() -> None:
    known = [Behavior(id="k", entity="Karil", kind="restricted", query="q", split="test")]
    drafts = [behavior(1, entity="Karil"), behavior(2, entity="New", split="validation"), behavior(3, entity="New")]
    assert [b.split for b in place_behaviors(drafts, known, seed=0)] == ["test", "validation", "validation"]


def test_new_entities_are_dealt_by_share_and_alone() -> None:
    drafts = [behavior(number) for number in range(2000)]
    placed = place_behaviors(drafts, [], seed=0)
    counts = Counter(b.split for b in placed)
    assert 0.45 < counts["train"] / 2000 < 0.55 and 0.12 < counts["validation"] / 2000 < 0.18
    assert [place_behaviors([d], [], seed=0)[0].split for d in drafts[:50]] == [b.split for b in placed[:50]]
    assert place_behaviors(drafts, [], seed=1) != placed
