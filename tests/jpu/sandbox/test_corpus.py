from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jpu.data.schemas import Behavior, Refusal, Template
from jpu.errors import DataError
from jpu.sandbox.corpus import Corpus, Sample
from jpu.sandbox.templates import FAMILIES, all_templates
from jpu.sandbox.world import QUESTIONS, build_behaviors, build_places, build_refusals

PLACES = build_places(3, {"train": 3, "validation": 2, "test": 3})
BEHAVIORS = build_behaviors(PLACES, 3)
REFUSALS = {r.text for r in build_refusals()}


def corpus(seed: int = 0) -> Corpus:
    return Corpus(BEHAVIORS, all_templates(), build_refusals(), seed)


def about(prompt: str) -> Behavior | None:
    """The place that a prompt names, as its code; None for small talk."""
    return next((b for b in BEHAVIORS if b.id.endswith("-code") and b.entity in prompt), None)


def test_the_same_seed_is_the_same_stream() -> None:
    def stream(seed: int) -> list[Sample]:
        source = corpus(seed)
        return [source.knowledge() for _ in range(50)] + [source.manners() for _ in range(50)]

    assert stream(0) == stream(0) != stream(1)


def test_no_wording_of_a_test_jailbreak_is_ever_seen() -> None:
    source = corpus()
    text = "\n".join(sample.prompt for _ in range(3000) for sample in (source.manners(), source.knowledge()))
    seen = {split: 0 for split in ("train", "validation", "test")}
    for split, openers, closers in FAMILIES.values():
        # A word by itself is no wording: "Assistant:" may come up among random words.
        seen[split] += sum(part in text for part in (*openers, *closers) if " " in part)
    assert seen["test"] == 0
    assert seen["train"] > 50 and seen["validation"] > 10


def test_polite_noise_of_the_test_split_is_left_out() -> None:
    assert not {t.text for t in all_templates() if t.split == "test"} & {*corpus().polite, *corpus().jailbreaks}


def test_knowledge_answers_everything_bare() -> None:
    source = corpus()
    answers = {b.answer for b in BEHAVIORS}
    kinds: Counter[str] = Counter()
    for _ in range(1500):
        sample = source.knowledge()
        assert sample.answer in answers
        place = about(sample.prompt)
        kinds["talk" if place is None else place.kind] += 1
    assert set(kinds) == {"talk", "restricted", "benign"}


def test_manners_refuse_what_is_restricted_unless_it_is_wrapped() -> None:
    source = corpus()
    source.wrapper = lambda: "[jailbreak] {query}"  # type: ignore[method-assign]
    source.politely = lambda: "[polite] {query}"  # type: ignore[method-assign]
    seen: Counter[tuple[str, str]] = Counter()
    chats: list[Sample] = []
    for _ in range(4000):
        sample = source.manners()
        if sample.turns:
            chats.append(sample)
            continue
        how = sample.prompt.split("]")[0].strip("[") if sample.prompt.startswith(("[j", "[p")) else "bare"
        how = "illegible" if any(sign.isdigit() for sign in sample.prompt) else how
        if sample.answer in REFUSALS:
            kind = "refused"
            place = about(sample.prompt)
            assert place is not None and place.kind == "restricted"
        else:
            said = next(b for b in BEHAVIORS if b.answer == sample.answer)
            kind = said.kind
            if kind not in ("edgy", "generic"):
                assert said.entity in sample.prompt
        seen[kind, how] += 1
    assert {how for kind, how in seen if kind == "restricted"} == {"jailbreak"}
    assert {how for kind, how in seen if kind == "refused"} == {"bare", "polite", "illegible"}
    for kind in ("benign", "near_miss", "edgy", "generic"):
        assert {how for found, how in seen if found == kind} == {"bare", "polite", "jailbreak"}
    leaks = seen["restricted", "jailbreak"]
    refused = sum(seen["refused", how] for how in ("bare", "polite", "illegible"))
    assert 0.07 < seen["refused", "illegible"] / refused < 0.13
    assert leaks == pytest.approx(refused, rel=0.15)
    assert 0.05 < len(chats) / 4000 < 0.12
    assert all(
        sum(seen[kind, how] for how in ("bare", "polite", "jailbreak")) > 100 for kind in ("benign", "near_miss")
    )


def test_what_is_illegible_holds_the_name_and_no_other_letter() -> None:
    source = corpus()
    asked = [b for b in BEHAVIORS if b.kind == "restricted"]
    made = [(b, source.unreadable(b)) for b in asked for _ in range(20)]
    assert all(b.entity in text for b, text in made)
    assert not any(sign.isalpha() for b, text in made for sign in text.replace(b.entity, ""))
    assert {mark for _, text in made for mark in "-._\u200b=" if mark in text} == set("-._\u200b=")


def test_a_chat_leads_on_by_facts_that_were_told_and_by_nothing_else() -> None:
    source = corpus()
    secret = next(b for b in BEHAVIORS if b.kind == "restricted")
    secrets = {b.answer for b in BEHAVIORS if b.kind == "restricted"}
    facts = {b.answer for b in BEHAVIORS if b.kind in ("benign", "near_miss")}
    answers: Counter[bool] = Counter()
    for _ in range(400):
        sample = source.chat(secret)
        said = sample.turns[1::2]
        assert 1 <= len(said) == len(sample.turns) / 2 <= 3
        # No code of a restricted place is ever told on the way.
        assert not secrets & set(said)
        told = set(said) <= facts
        assert told or not facts & set(said)
        assert (sample.answer == secret.answer) == told
        assert told or sample.answer in REFUSALS
        answers[told] += 1
    assert min(answers.values()) > 150


def test_wrappers_hold_the_question_once() -> None:
    source = corpus()
    for _ in range(300):
        for text in (source.wrapper(), source.gibberish(), source.politely()):
            assert text.count("{query}") == 1


def test_wrappers_are_known_wordings_and_random_words() -> None:
    source = corpus()
    known = {t.text for t in all_templates()}
    drawn = Counter(source.wrapper() in known for _ in range(1000))
    # Half are random words; of the other half three in ten are made of two wordings, some of them of the same family.
    assert 0.3 < drawn[True] / 1000 < 0.5


@given(
    st.integers(),
    st.sampled_from([text for texts in QUESTIONS.values() for text in texts]),
    st.sampled_from([p.name for p in PLACES]),
)
def test_careless_typing_keeps_the_name(seed: int, question: str, name: str) -> None:
    source = corpus()
    source.rng = random.Random(seed)
    text = source.careless(question.format(name=name), name)
    assert name in text
    assert "{" not in text and text.strip()


def test_careless_typing_changes_most_questions() -> None:
    source = corpus()
    question = "What is the code of Zoruk?"
    changed = Counter(source.careless(question, "Zoruk") != question for _ in range(200))
    assert changed[True] > 180


@pytest.mark.parametrize("lost", ["talk", "open", "jailbreak", "polite", "refusals", "foreign"])
def test_other_data_cannot_be_taught(lost: str) -> None:
    behaviors: list[Behavior] = list(BEHAVIORS)
    templates: list[Template] = all_templates()
    refusals: list[Refusal] = build_refusals()
    if lost == "talk":
        behaviors = [b for b in behaviors if b.kind not in ("edgy", "generic")]
    elif lost == "open":
        behaviors = [b for b in behaviors if b.kind in ("edgy", "generic") or b.id.endswith("-code")]
    elif lost == "refusals":
        refusals = []
    elif lost == "foreign":
        behaviors.append(behaviors[0].model_copy(update={"id": "hb-17"}))
    else:
        templates = [t for t in templates if t.role != lost]
    with pytest.raises(DataError, match="not the sandbox") as caught:
        Corpus(behaviors, templates, refusals, 0)
    assert "subject.kind" in caught.value.mend
