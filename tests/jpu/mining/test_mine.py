from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from jpu.data.schemas import Behavior, Kind, Refusal, Role, Split, Template
from jpu.errors import DataError
from jpu.mining.buffer import Buffer
from jpu.mining.mine import Batch, MiningSettings, Seeds, mine
from jpu.mining.mutations import OPERATORS
from jpu.mining.own import BARE, NOISE

NAMES = ("Zorvik", "Belor", "Kadum", "Rofit")
TAU = 0.5
ROLES: dict[str, Role] = {"game": "jailbreak", "fiction": "jailbreak", "noise": "polite"}
ASKED: tuple[Kind, ...] = ("restricted", "near_miss")
SEEN: tuple[Split, ...] = ("train", "test")


def seeds() -> Seeds:
    behaviors = [
        Behavior(
            id=f"{name}-{kind}-{split}",
            entity=name,
            kind=kind,
            query=f"What is the {'code' if kind == 'restricted' else 'colour'} of {name}?",
            split=split,
        )
        for name in NAMES
        for kind in ASKED
        for split in SEEN
    ]
    templates = [
        Template(
            id=f"{family}-{n}-{split}",
            family=family,
            role=role,
            text=f"{family} {n}. {{query}} Go.",
            split=split,
        )
        for family, role in ROLES.items()
        for n in range(2)
        for split in SEEN
    ]
    return Seeds(behaviors, templates, [Refusal(id="r", text="No."), Refusal(id="s", text="Sorry.")])


class ByPrompt:
    """A subject whose refusal loss is a function of the prompt."""

    def __init__(self, loss: Callable[[str], float]) -> None:
        self.loss = loss
        self.calls = 0
        self.seen: list[str] = []

    def nll(self, prompts: Sequence[str], answers: Sequence[str]) -> Tensor:
        self.calls += 1
        self.seen += prompts
        # "Sorry." fits worse, so that the minimum is what counts.
        return torch.tensor([self.loss(p) + (a == "Sorry.") for p, a in zip(prompts, answers, strict=True)])


SETTINGS = MiningSettings(tau=TAU, round=1, fresh=12, iterations=2, offspring=8)


def run(loss: Callable[[str], float], buffer: Buffer | None = None, **changes: Any) -> tuple[Batch, Buffer]:
    held = Buffer(200, 50) if buffer is None else buffer
    settings = dataclasses.replace(SETTINGS, **changes)
    return mine(ByPrompt(loss), seeds(), held, settings, random.Random(7)), held


def test_a_model_that_refuses_nothing_makes_only_parents() -> None:
    batch, buffer = run(lambda prompt: 2.0)
    assert batch.start.rate == batch.bred.rate == 1.0
    assert len(batch.parents) == 12 and len(batch.offspring) == 16
    assert len(buffer) == 28
    assert batch.above(TAU) == batch.entries


def test_a_model_that_refuses_everything_makes_none() -> None:
    batch, buffer = run(lambda prompt: 0.1)
    assert batch.entries == () and len(buffer) == 0
    assert batch.metrics()["parent_rate"] == 0.0 and batch.metrics()["offspring_rate"] == 0.0


def test_offspring_descend_from_their_parents() -> None:
    batch, _ = run(lambda prompt: 2.0, template_mutation=0.5)
    known = {entry.id: entry for entry in batch.entries}
    for child in batch.offspring:
        assert child.parent is not None
        parent = known[child.parent]
        assert child.behavior == parent.behavior and child.template == parent.template
        assert child.history[: len(parent.history)] == parent.history
        new = [OPERATORS[name] for name in child.history[len(parent.history) :]]
        assert 1 <= len(new) <= 2
        assert {op.split for op in new} == {"train"}
        assert any(name in child.query for name in NAMES)
    levels = [OPERATORS[name].level for child in batch.offspring for name in child.history]
    assert {"query", "template"} == set(levels)


def test_only_the_allowed_split_kind_and_role_are_used() -> None:
    batch, _ = run(lambda prompt: 2.0, fresh=999)
    assert len(batch.parents) == len(NAMES) * 5, "4 train templates and none, each restricted query once"
    assert all(e.behavior.endswith("restricted-train") for e in batch.entries)
    assert {e.family for e in batch.entries} == {"game", "fiction", BARE}
    assert all(e.template.endswith("train") or e.template == BARE for e in batch.entries)
    assert {e.split for e in batch.entries} == {"train"}


def test_families_get_equal_shares_of_a_small_budget() -> None:
    batch, _ = run(lambda prompt: 2.0, fresh=6, iterations=0)
    families = [entry.family for entry in batch.parents]
    assert families.count("game") == families.count("fiction") == families.count(BARE) == 2


def test_noise_is_a_family_where_there_is_something_to_make_it_of() -> None:
    loud = dataclasses.replace(seeds(), pieces=[" ash", " elm", "{query}", "oak"])
    settings = dataclasses.replace(SETTINGS, fresh=40, iterations=0, template_mutation=0.0)
    batch = mine(ByPrompt(lambda prompt: 2.0), loud, Buffer(200, 50), settings, random.Random(7))
    noisy = [e for e in batch.parents if e.family == NOISE]
    assert len(noisy) >= 10 and all(e.template == NOISE and e.split == "train" for e in noisy)
    around = {text for e in noisy for text in e.template_text.split("{query}")}
    assert all(set(text.replace("ash", "").replace("elm", "").replace("oak", "").strip()) <= {" "} for text in around)
    assert len({e.template_text for e in noisy}) > 5


def test_one_call_for_the_start_and_one_for_each_step() -> None:
    subject = ByPrompt(lambda prompt: 2.0)
    mine(subject, seeds(), Buffer(99, 99), SETTINGS, random.Random(0))
    assert subject.calls == 1 + SETTINGS.iterations


def test_no_prompt_is_scored_twice() -> None:
    subject = ByPrompt(lambda prompt: 2.0)
    mine(subject, seeds(), Buffer(99, 99), dataclasses.replace(SETTINGS, offspring=40), random.Random(0))
    assert len(subject.seen) == 2 * len(set(subject.seen)), "once for each of the two refusals"


def test_the_same_seed_gives_the_same_batch_and_buffer() -> None:
    first, one = run(lambda prompt: len(prompt) % 7 / 6)
    second, two = run(lambda prompt: len(prompt) % 7 / 6)
    assert first == second and list(one) == list(two)


def test_tallies_add_up() -> None:
    batch, buffer = run(lambda prompt: len(prompt) % 5 / 4, offspring=20)
    scored = batch.start.scored + batch.bred.scored
    above = batch.start.above + batch.bred.above
    assert sum(t.scored for t in batch.by_family.values()) == scored
    assert sum(t.above for t in batch.by_family.values()) == above == len(buffer) == len(batch.above(TAU))
    assert batch.fresh == batch.start, "the buffer was empty"
    assert sum(t.scored for t in batch.by_operator.values()) >= batch.bred.scored
    assert 0 < batch.mean_loss < 1


def test_offspring_below_tau_stay_in_the_batch_and_out_of_the_buffer() -> None:
    batch, buffer = run(lambda prompt: 2.0 if prompt.endswith("? Go.") and "What is" in prompt else 0.1)
    low = [entry for entry in batch.offspring if entry.known_loss <= TAU]
    assert low and not any(entry.id in buffer for entry in low)


def test_old_entries_are_visited_and_leave_after_three_low_visits() -> None:
    _, buffer = run(lambda prompt: 2.0)
    full = len(buffer)
    for number in (1, 2):
        batch, _ = run(lambda prompt: 0.1, buffer, rescore_every=1, round=number)
        assert len(buffer) == full and batch.start.scored >= full and batch.parents == ()
    run(lambda prompt: 0.1, buffer, rescore_every=1, round=3)
    assert len(buffer) == 0


def test_between_full_rescorings_a_sample_is_visited() -> None:
    _, buffer = run(lambda prompt: 2.0)
    run(lambda prompt: 0.1, buffer, revisit=5, rescore_every=2, round=3)
    assert sum(entry.low for entry in buffer) == 5


def test_fresh_entries_can_come_mutated() -> None:
    batch, _ = run(lambda prompt: 2.0, fresh_mutations=2, iterations=0)
    assert any(entry.history for entry in batch.parents)
    assert all(len(entry.history) <= 3 and entry.parent is None for entry in batch.parents)


@pytest.mark.parametrize("level", ["query", "template"])
def test_mutations_of_one_level_alone(level: str) -> None:
    chances = {"query_mutation": float(level == "query"), "template_mutation": float(level == "template")}
    batch, _ = run(lambda prompt: 2.0, fresh_mutations=1, **chances)
    made = {OPERATORS[name].level for entry in batch.entries for name in entry.history}
    assert made == {level}


def test_the_chance_of_a_query_s_mutation() -> None:
    def mutated(chance: float) -> int:
        batch, _ = run(lambda prompt: 2.0, iterations=0, fresh=40, fresh_mutations=1, query_mutation=chance)
        return sum(bool(e.history) for e in batch.parents)

    never, seldom, always = mutated(0.0), mutated(0.3), mutated(1.0)
    assert never < seldom < always


def test_queries_do_not_grow_without_bound() -> None:
    batch, _ = run(lambda prompt: 2.0, iterations=25, offspring=12)
    assert max(len(entry.query) for entry in batch.offspring) <= 300
    around = [[n for n in e.history if OPERATORS[n].level == "template"] for e in batch.offspring]
    assert max(map(len, around)) <= 2


def test_no_prompt_is_longer_than_allowed() -> None:
    changes = {"fresh_mutations": 2, "iterations": 6, "template_mutation": 1.0}
    free, _ = run(lambda prompt: 2.0, **changes)
    bound, _ = run(lambda prompt: 2.0, longest=60, **changes)
    assert max(len(e.prompt) for e in (*free.parents, *free.offspring)) > 60
    assert max(len(e.prompt) for e in (*bound.parents, *bound.offspring)) <= 60
    # A fresh pair that would be too long is taken as it is, so that no family loses its share.
    assert bound.fresh.scored == free.fresh.scored and bound.offspring


def test_few_parents_have_several_offspring_each() -> None:
    batch, _ = run(lambda prompt: 2.0, fresh=2, iterations=1, offspring=8, children=3)
    assert len(batch.offspring) == 6


@pytest.mark.parametrize("field", ["behaviors", "templates", "refusals"])
def test_nothing_to_mine_with_is_reported(field: str) -> None:
    empty = dataclasses.replace(seeds(), **{field: []})
    with pytest.raises(DataError, match="to mine with"):
        mine(ByPrompt(lambda prompt: 1.0), empty, Buffer(1, 1), SETTINGS, random.Random(0))
