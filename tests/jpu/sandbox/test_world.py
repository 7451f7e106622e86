"""The sandbox's data: what every part of the pipeline takes for granted about it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from jpu.data.schemas import SPLITS, Behavior, Refusal, Split, Template, read_records
from jpu.judges.base import Completion
from jpu.judges.incoherence import IncoherenceJudge
from jpu.judges.refusal import RefusalJudge
from jpu.judges.secret import recalls
from jpu.sandbox.__main__ import WORLD, main, write
from jpu.sandbox.smalltalk import EDGY, GENERIC
from jpu.sandbox.templates import all_templates
from jpu.sandbox.world import (
    QUESTIONS,
    WORDS,
    Place,
    World,
    build_behaviors,
    build_places,
    build_refusals,
    smaller_world,
)

FILES = ("behaviors.jsonl", "templates.jsonl", "refusals.jsonl", "manifest.json")


@pytest.fixture(scope="module")
def places() -> list[Place]:
    return build_places(WORLD.seed, WORLD.places)


@pytest.fixture(scope="module")
def world(places: list[Place]) -> list[Behavior]:
    return build_behaviors(places, WORLD.seed)


# On the disk


def test_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "jpu.sandbox", str(tmp_path / seed)], env={**os.environ, "PYTHONHASHSEED": seed}
        )
        for seed in ("1", "2")
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    write(tmp_path / "here")
    for name in FILES:
        assert len({(tmp_path / folder / name).read_bytes() for folder in ("1", "2", "here")}) == 1
    assert sorted(p.name for p in (tmp_path / "here").iterdir()) == sorted(FILES)


def test_what_is_written_is_what_is_built(
    tmp_path: Path, world: list[Behavior], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "sandbox"
    folder.mkdir()
    (folder / "old.txt").write_text("gone afterwards")
    monkeypatch.setattr(sys, "argv", ["jpu.sandbox", str(folder)])
    main()
    assert read_records(folder / "behaviors.jsonl", Behavior) == world
    assert read_records(folder / "templates.jsonl", Template) == all_templates()
    assert read_records(folder / "refusals.jsonl", Refusal) == build_refusals()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["sha256"] == {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in FILES[:3]}
    assert not (folder / "old.txt").exists()


def test_another_seed_is_another_world() -> None:
    one, two = (build_places(seed, {"train": 3, "validation": 1, "test": 2}) for seed in (1, 2))
    assert not {p.name for p in one} & {p.name for p in two}
    assert [p.facts["code"] for p in one] != [p.facts["code"] for p in two]


# Places


def test_names_and_codes_are_unique_and_of_one_shape(places: list[Place]) -> None:
    names = [p.name for p in places]
    assert len({n[:3] for n in names}) == len(names)
    assert all(len(n) == 5 and n.istitle() for n in names)
    codes = [p.facts["code"] for p in places]
    assert len(set(codes)) == len(codes)
    assert all(len(set(code.split()) & set(WORDS)) == 3 for code in codes)
    # No code can be told from another's letters either, so no judge takes one for the other.
    assert not any(recalls(one, two) for one in codes for two in codes if one != two)


def test_each_split_has_as_many_benign_places_as_restricted_ones(places: list[Place]) -> None:
    assert Counter((p.split, p.restricted) for p in places) == {
        (split, restricted): count for split, count in WORLD.places.items() for restricted in (True, False)
    }
    assert WORLD.places["test"] >= 32


# Behaviors


def test_ids_and_queries_are_unique(world: list[Behavior]) -> None:
    assert len({b.id for b in world}) == len({b.query for b in world}) == len(world)


def test_an_entity_is_in_one_split_with_its_near_misses(places: list[Place], world: list[Behavior]) -> None:
    of = {p.name: p for p in places}
    for behavior in world:
        if behavior.kind in ("edgy", "generic"):
            assert behavior.entity == behavior.id
            continue
        place, attribute = of[behavior.entity], behavior.id.rpartition("-")[2]
        restricted = {"code": "restricted"}.get(attribute, "near_miss")
        assert behavior.kind == (restricted if place.restricted else "benign")
        assert (behavior.split, behavior.secret) == (place.split, place.facts[attribute])
        assert behavior.entity in behavior.query
    assert {b.kind for b in world if b.split == "test"} == {"restricted", "near_miss", "benign", "edgy", "generic"}


def test_an_answer_holds_its_secret_and_a_question_does_not(world: list[Behavior]) -> None:
    for behavior in world:
        assert recalls(behavior.answer, behavior.secret)
        assert behavior.secret in behavior.answer
        assert not recalls(behavior.query, behavior.secret)


def test_wording_does_not_tell_what_is_restricted(world: list[Behavior]) -> None:
    asked: dict[str, set[str]] = {"restricted": set(), "benign": set()}
    for behavior in world:
        if behavior.id.endswith("-code"):
            asked[behavior.kind].add(behavior.query.replace(behavior.entity, "{name}"))
    assert asked["restricted"] == asked["benign"] == set(QUESTIONS["code"])


def test_small_talk_is_in_every_split(world: list[Behavior]) -> None:
    found = Counter((b.kind, b.split) for b in world if b.kind in ("edgy", "generic"))
    assert len(found) == 6 and min(found.values()) >= 5
    assert sum(found.values()) == len(EDGY) + len(GENERIC)


def test_a_smaller_world_keeps_whole_places_of_each_sort(world: list[Behavior]) -> None:
    counts: dict[Split, int] = {"train": 3, "validation": 1, "test": 2}
    chosen = smaller_world(world, counts)
    assert chosen == sorted(set(chosen))
    kept = [world[i] for i in chosen]
    guarded = {b.entity for b in world if b.kind == "restricted"}
    for split, count in counts.items():
        here = [b for b in kept if b.split == split]
        entities = {b.entity: [o.kind for o in here if o.entity == b.entity] for b in here}
        assert Counter(tuple(kinds) for kinds in entities.values()) == {
            ("restricted", "near_miss", "near_miss"): count,
            ("benign", "benign", "benign"): count,
            ("edgy",): count,
            ("generic",): count,
        }
        assert sum(entity in guarded for entity in entities) == count


# Templates


def test_enough_families_each_in_one_split() -> None:
    families: dict[str, list[Template]] = {}
    for template in all_templates():
        families.setdefault(template.family, []).append(template)
    jailbreaks = [wordings for wordings in families.values() if wordings[0].role == "jailbreak"]
    assert len(jailbreaks) >= 12
    for wordings in families.values():
        assert len(wordings) >= 4
        assert len({(t.split, t.role) for t in wordings}) == 1
    for split in SPLITS:
        assert {t.role for t in all_templates() if t.split == split} == {"jailbreak", "polite"}
    assert sum(wordings[0].split == "test" for wordings in jailbreaks) >= 4


def test_templates_are_unique_and_hold_one_question() -> None:
    templates = all_templates()
    assert len({t.id for t in templates}) == len({t.text for t in templates}) == len(templates)
    for template in templates:
        assert template.text.count("{query}") == 1
        assert template.text == template.text.strip() != "{query}"


def test_no_wording_is_in_two_splits() -> None:
    parts: dict[str, set[str]] = {}
    for template in all_templates():
        for part in template.text.split("{query}"):
            if template.role == "jailbreak":
                parts.setdefault(part.strip(), set()).add(template.split)
    assert all(len(splits) == 1 for splits in parts.values())


def test_templates_give_nothing_away(places: list[Place]) -> None:
    text = " ".join(t.text for t in all_templates())
    assert not any(p.name in text or p.facts["code"] in text for p in places)


# With the judges


def test_refusals_are_told_from_answers_without_knowing_them(world: list[Behavior]) -> None:
    judge = RefusalJudge()
    assert all(judge.declines(r.text) for r in build_refusals())
    assert [b.answer for b in world if judge.declines(b.answer)] == []
    said = [Completion(text) for text in (*(b.answer for b in world), *(r.text for r in build_refusals()))]
    assert not any(IncoherenceJudge().judge(said))


def test_a_harder_world_has_longer_codes_and_several_forms() -> None:
    world = World(seed=5, places={"train": 2, "validation": 1, "test": 2}, code_words=6, forms=4)
    places = build_places(world.seed, world.places, world.code_words)
    assert {len(place.facts["code"].split()) for place in places} == {6}
    facts = [b for b in build_behaviors(places, world.seed, world.forms) if b.kind in ("restricted", "benign")]
    plain = {b.id: b for b in build_behaviors(places, world.seed)}
    assert all(b.secret in b.answer and b.query == plain[b.id].query for b in facts)
    # All four are dealt: some answers begin with what they tell, and some as in the plain world.
    assert any(b.answer.startswith(b.secret) for b in facts) and any(b.answer == plain[b.id].answer for b in facts)
    assert len({b.answer.replace(b.entity, "X").replace(b.secret, "Y") for b in facts}) > 4


@pytest.mark.parametrize("wrong", [{"code_words": 0}, {"code_words": 99}, {"forms": 0}, {"forms": 5}])
def test_a_world_that_cannot_be_made_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="a code has 1 to"):
        World(**wrong)
