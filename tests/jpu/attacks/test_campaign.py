"""Campaigns on a tiny model: an attack of the tests' own counts how often it is really run."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from jpu.attacks import SUITES, Arena, Attack, Attempt, Budget, Campaign, choose_suite, complete, get_attack, registered
from jpu.attacks.attacker_loop import Pair
from jpu.attacks.base import Progress, made_attempt
from jpu.attacks.campaign import Made, Piece, keep_piece, read_attempts, read_piece, unfit
from jpu.data.schemas import Behavior, Refusal, Template
from jpu.errors import DataError, SettingsError
from jpu.models import Subject, Target
from jpu.sandbox.world import build_behaviors, build_places
from jpu.spread import Here

Make = Callable[..., Subject]


class Stopped(BaseException):
    """What ends a run from outside."""


class Numbered(Attack):
    """Asks each question with random numbers behind it, as often as the budget says."""

    name = "numbered"
    cite = "ours"
    chance = "negative numbers"
    unit = "prompt"
    shard = 3

    def __init__(self, stop_before: int | None = None) -> None:
        self.stop_before = stop_before
        self.ran: list[tuple[bool, tuple[str, ...]]] = []

    def run(
        self,
        target: Target,
        arena: Arena,
        budget: Budget,
        rng: random.Random,
        *,
        control: bool = False,
        progress: Progress | None = None,
    ) -> list[Attempt]:
        if len(self.ran) == self.stop_before:
            raise Stopped
        self.ran.append((control, tuple(b.id for b in arena.behaviors)))
        return complete(
            target,
            [
                made_attempt(self.name, b, f"{b.query} {'-' * control}{rng.randrange(10**6)}", "numbers")
                for b in arena.behaviors
                for _ in range(budget.queries)
            ],
            arena.max_new_tokens,
            progress,
        )


class Other(Numbered):
    name = "other"
    shard = 16


class Answering:
    """A model that only answers, as an endpoint does: no weights to be had."""

    name = "somewhere else"

    def __init__(self, subject: Subject, *, prefill: bool = False) -> None:
        self.subject, self.prefill = subject, prefill

    def generate(self, prompts: Sequence[str], **options: Any) -> list[str]:
        return self.subject.generate(prompts, **options)

    def tokens(self, text: str) -> int:
        return self.subject.tokens(text)


@pytest.fixture(scope="module")
def subject(make_subject: Make) -> Subject:
    return make_subject()


@pytest.fixture(scope="module")
def arena(templates: list[Template], refusals: list[Refusal]) -> Arena:
    """Seven restricted behaviors."""
    every = build_behaviors(build_places(7, {"train": 1, "validation": 1, "test": 7}), 7)
    chosen: list[Behavior] = [b for b in every if b.kind == "restricted" and b.split == "test"]
    assert len(chosen) == 7
    return Arena(chosen, templates, refusals, max_new_tokens=3)


def campaign(
    arena: Arena,
    attack: Attack | None = None,
    *,
    queries: int = 2,
    behaviors: int | None = None,
    seed: int = 5,
    required: bool = False,
) -> Campaign:
    chosen = attack or Numbered()
    suite = {chosen.name: Budget(queries, behaviors)}
    return Campaign(arena, suite, seed=seed, attacks={chosen.name: chosen}, required=required)


def ids(pieces: Sequence[Piece]) -> list[list[str]]:
    return [[b.id for b in piece.behaviors] for piece in pieces]


def kept(folder: Path) -> dict[str, str]:
    """What is kept in each piece but for the seconds, which no two runs share; attempts in the bytes of the file."""
    found = {}
    for path in sorted(folder.rglob("*.json")):
        held = json.loads(path.read_text())
        assert held.keys() == {"attempts", "seconds"} and held["seconds"] >= 0.0
        found[str(path.relative_to(folder))] = json.dumps(held["attempts"])
    return found


# Pieces


def test_a_piece_is_as_large_as_the_attack_says(arena: Arena) -> None:
    all_ids = [b.id for b in arena.behaviors]
    pieces = campaign(arena).pieces("numbered")
    assert [(p.attack, p.start, p.control) for p in pieces] == [("numbered", start, False) for start in (0, 3, 6)]
    assert ids(pieces) == [all_ids[:3], all_ids[3:6], all_ids[6:]]
    assert ids(campaign(arena, Other()).pieces("other")) == [all_ids]
    # Exactly full pieces leave no empty one behind them.
    assert ids(campaign(arena, behaviors=6).pieces("numbered"))[2:] == []
    controls = campaign(arena).pieces("numbered", control=True)
    assert [p.control for p in controls] == [True] * 3 and ids(controls) == ids(pieces)


def test_few_behaviors_lie_in_many_and_keep_their_order(arena: Arena) -> None:
    all_ids = [b.id for b in arena.behaviors]

    def chosen(count: int | None, seed: int = 5, attack: Attack | None = None) -> list[str]:
        made = campaign(arena, attack, behaviors=count, seed=seed)
        return [i for piece in ids(made.pieces(next(iter(made.suite)))) for i in piece]

    sets = [chosen(count) for count in range(1, 8)]
    for count, found in enumerate(sets, 1):
        assert len(set(found)) == count and found == sorted(found, key=all_ids.index)
    assert all(set(few) < set(many) for few, many in pairwise(sets))
    assert chosen(None) == chosen(7) == chosen(100) == all_ids
    # Drawn, not the first ones; by the seed alone, so that all attacks meet the same behaviors.
    assert any(found != all_ids[:count] for count, found in enumerate(sets, 1))
    assert chosen(3, attack=Other()) == chosen(3)
    assert len({tuple(chosen(3, seed=seed)) for seed in range(8)}) > 1


# Runs


def test_a_run_one_from_kept_pieces_and_one_that_was_spread_are_the_same(
    arena: Arena, subject: Subject, tmp_path: Path
) -> None:
    whole = campaign(arena).run(subject)
    assert [a.behavior for a in whole.attempts["numbered"]] == [b.id for b in arena.behaviors for _ in range(2)]
    assert len({a.prompt for a in whole.attempts["numbered"]}) == 14

    first = Numbered()
    written = campaign(arena, first).run(subject, folder=tmp_path / "one")
    again = campaign(arena, first).run(subject, folder=tmp_path / "one")
    assert written.attempts == again.attempts == whole.attempts
    assert len(first.ran) == 3 and again.spent == written.spent

    def over(
        function: Callable[[Subject, Piece], Made],
        pieces: Sequence[Piece],
        arrived: Callable[[int, Made], None] | None = None,
    ) -> list[Made]:
        # As workers do it: each piece by itself, in any order, put back in theirs.
        made = {}
        for place in reversed(range(len(pieces))):
            made[place] = function(subject, pieces[place])
            assert arrived is not None
            arrived(place, made[place])
        return [made[place] for place in range(len(pieces))]

    second = Numbered()
    spread = campaign(arena, second)
    told: list[tuple[str, int, int]] = []
    spread.spread(over, subject, tmp_path / "two", report=lambda *what: told.append(what))
    # Behaviors, as in a run, and not pieces.
    assert told == [("numbered", 1, 7), ("numbered", 4, 7), ("numbered", 7, 7)]
    assert [ids_ for _, ids_ in second.ran] == [tuple(one) for one in reversed(ids(spread.pieces("numbered")))]
    assert spread.run(subject, folder=tmp_path / "two").attempts == whole.attempts
    assert len(second.ran) == 3
    assert kept(tmp_path / "one") == kept(tmp_path / "two") and len(kept(tmp_path / "one")) == 3

    # What is kept already is not made elsewhere again.
    (tmp_path / "two/numbered-2xall/0003.json").unlink()
    spread.spread(over, subject, tmp_path / "two")
    assert len(second.ran) == 4 and kept(tmp_path / "one") == kept(tmp_path / "two")
    spread.spread(over, subject, tmp_path / "two")
    assert len(second.ran) == 4

    # Each is kept as it comes: what a stopped run loses is what was under way.
    stopping = Numbered(stop_before=2)
    with pytest.raises(Stopped):
        campaign(arena, stopping).spread(Here(subject), subject, tmp_path / "three")
    assert list(kept(tmp_path / "three")) == list(kept(tmp_path / "two"))[:2]


def test_the_draws_hang_on_seed_attack_and_place_alone(arena: Arena, subject: Subject) -> None:
    suite = {"numbered": Budget(1), "other": Budget(1)}
    own = {"numbered": Numbered(), "other": Other()}
    both = Campaign(arena, suite, seed=5, attacks=own).run(subject)
    turned = Campaign(arena, dict(reversed(suite.items())), seed=5, attacks=own).run(subject)
    assert list(both.attempts) == ["numbered", "other"] and list(turned.attempts) == ["other", "numbered"]
    assert both.attempts == turned.attempts
    for name, budget in suite.items():
        alone = Campaign(arena, {name: budget}, seed=5, attacks=own).run(subject)
        assert alone.attempts == {name: both.attempts[name]}
    prompts = {name: [a.prompt for a in items] for name, items in both.attempts.items()}
    assert not set(prompts["numbered"]) & set(prompts["other"])
    elsewhere = Campaign(arena, suite, seed=6, attacks=own).run(subject)
    assert not {a.prompt for a in elsewhere.attempts["numbered"]} & set(prompts["numbered"])


def test_a_stopped_run_goes_on_where_it_was(arena: Arena, subject: Subject, tmp_path: Path) -> None:
    whole = campaign(arena).run(subject)
    stopping = Numbered(stop_before=2)
    with pytest.raises(Stopped):
        campaign(arena, stopping).run(subject, folder=tmp_path)
    assert list(kept(tmp_path)) == ["numbered-2xall/0000.json", "numbered-2xall/0003.json"]
    going_on = Numbered()
    assert campaign(arena, going_on).run(subject, folder=tmp_path).attempts == whole.attempts
    assert going_on.ran == [(False, (arena.behaviors[6].id,))]


def test_without_a_folder_nothing_is_kept(
    arena: Arena, subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    attack = Numbered()
    for _ in range(2):
        campaign(arena, attack).run(subject)
    assert len(attack.ran) == 6 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b'{"attempts": [',
        b"\xff\xfe",
        b"null",
        b"[]",
        b'{"attempts": []}',
        b'{"seconds": 1.0}',
        b'{"attempts": [], "seconds": "long"}',
        b'{"attempts": [], "seconds": null}',
        b'{"attempts": 3, "seconds": 1.0}',
        b'{"attempts": [{"attack": "numbered"}], "seconds": 1.0}',
    ],
)
def test_a_damaged_piece_is_made_again(damage: bytes, arena: Arena, subject: Subject, tmp_path: Path) -> None:
    small = replace(arena, behaviors=arena.behaviors[:4])
    whole = campaign(small).run(subject, folder=tmp_path)
    before, place = kept(tmp_path), tmp_path / "numbered-2xall/0003.json"
    place.write_bytes(damage)
    assert read_piece(place) is None
    with pytest.raises(DataError, match="'numbered' are not there, or damaged"):
        read_attempts(tmp_path, {"numbered": Budget(2)})
    attack = Numbered()
    assert campaign(small, attack).run(subject, folder=tmp_path).attempts == whole.attempts
    assert attack.ran == [(False, (small.behaviors[3].id,))]
    assert kept(tmp_path) == before


def test_control_and_budgets_have_pieces_of_their_own(arena: Arena, subject: Subject, tmp_path: Path) -> None:
    small = replace(arena, behaviors=arena.behaviors[:3])
    attack = Numbered()
    budgets: list[dict[str, Any]] = [{"queries": 1}, {"queries": 2}, {"queries": 2, "behaviors": 2}]
    found = {}
    for control in (False, True):
        for place, budget in enumerate(budgets):
            outcome = campaign(small, attack, **budget).run(subject, folder=tmp_path, control=control)
            found[control, place] = outcome.attempts["numbered"]
    assert len(attack.ran) == 6
    assert [len(items) for items in found.values()] == [3, 6, 4] * 2
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("numbered-1xall", "numbered-2x2", "numbered-2xall"),
        *("numbered-control-1xall", "numbered-control-2x2", "numbered-control-2xall"),
    ]
    # Each finds its own again, and so does who judges them.
    for (control, place), items in found.items():
        made = campaign(small, attack, **budgets[place])
        assert made.run(subject, folder=tmp_path, control=control).attempts["numbered"] == items
        assert read_attempts(tmp_path, made.suite, control=control) == {"numbered": items}
    assert len(attack.ran) == 6
    # Draws of their own, too: chance is not the attack with a sign before it.
    assert not {a.prompt.replace("-", "") for a in found[True, 0]} & {a.prompt for a in found[False, 0]}


def test_attempts_that_are_not_there_are_missed(arena: Arena, subject: Subject, tmp_path: Path) -> None:
    campaign(replace(arena, behaviors=arena.behaviors[:1])).run(subject, folder=tmp_path)
    assert list(read_attempts(tmp_path, {"numbered": Budget(2)})) == ["numbered"]
    for suite in ({"numbered": Budget(3)}, {"numbered": Budget(2), "other": Budget(2)}):
        with pytest.raises(DataError, match="are not there") as caught:
            read_attempts(tmp_path, suite)
        assert caught.value.where == str(tmp_path) and "again" in caught.value.mend
    shutil.rmtree(tmp_path / "numbered-2xall")
    with pytest.raises(DataError):
        read_attempts(tmp_path, {"numbered": Budget(2)})


def test_a_kept_piece_comes_back_as_it_was(tmp_path: Path, arena: Arena) -> None:
    attempt = made_attempt("numbered", arena.behaviors[0], 'quotes " and \u2028 \ud7ff', "numbers", "one", "two")
    full = attempt.model_copy(update={"turns": ("a", "b"), "prefill": "Sure", "completion": "", "queries": 3})
    keep_piece(tmp_path / "deep/piece.json", [full, attempt], 0.125)
    assert read_piece(tmp_path / "deep/piece.json") == ([full, attempt], 0.125)
    assert read_piece(tmp_path / "none.json") is None


# What cannot be run


def test_why_an_attack_is_left_out(arena: Arena, subject: Subject, behaviors: list[Behavior]) -> None:
    closed, opened = Answering(subject), Answering(subject, prefill=True)
    weights, prefill, pair, contrast = get_attack("gcg"), get_attack("prefill"), Pair(), get_attack("ablation")
    assert pair.missing() and contrast.contrast
    assert unfit(weights, closed, arena) == unfit(weights, opened, arena) == "it needs the model's weights"
    assert unfit(prefill, closed, arena) == "it needs a model whose answer can be begun"
    assert unfit(pair, closed, arena) == unfit(pair, subject, arena) == pair.missing()
    assert unfit(contrast, subject, arena) == "it needs questions that are answered, with their answers"
    for attack, target in ((weights, subject), (prefill, subject), (prefill, opened), (Pair(subject), closed)):
        assert unfit(attack, target, arena) == ""
    open_facts = [b for b in behaviors if b.kind == "benign"]
    assert unfit(contrast, subject, replace(arena, benign=open_facts)) == ""


def test_what_cannot_be_run_is_left_out_with_its_reason(arena: Arena, subject: Subject, tmp_path: Path) -> None:
    own = Numbered()
    small = replace(arena, behaviors=arena.behaviors[:1])
    suite = {"gcg": Budget(4), "numbered": Budget(1), "prefill": Budget(1), "pair": Budget(1)}
    target = Answering(subject)
    made = Campaign(small, suite, seed=0, attacks={"numbered": own})
    said: list[str] = []
    outcome = made.run(target, folder=tmp_path, report=lambda name, done, total: said.append(name))
    assert outcome.not_run == {
        "gcg": "it needs the model's weights",
        "prefill": "it needs a model whose answer can be begun",
        "pair": Pair().missing(),
    }
    assert list(outcome.attempts) == list(outcome.spent) == ["numbered"] and set(said) == {"numbered"}
    assert made.run(target, control=True).not_run == outcome.not_run

    shutil.rmtree(tmp_path)
    made.spread(Here(subject), target, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["numbered-1xall"]

    required = Campaign(small, suite, seed=0, attacks={"numbered": own}, required=True)
    before = len(own.ran)
    with pytest.raises(SettingsError, match="'gcg' cannot be run: it needs the model's weights") as caught:
        required.run(target)
    # Said before anything is spent.
    assert caught.value.where == "somewhere else" and len(own.ran) == before
    with pytest.raises(SettingsError):
        required.spread(Here(subject), target, tmp_path)


def test_an_attack_that_nobody_knows_is_refused(arena: Arena) -> None:
    with pytest.raises(SettingsError, match="'nonesuch'") as caught:
        Campaign(arena, {"nonesuch": Budget(1)}, seed=0)
    assert "gcg" in caught.value.mend


# Costs and progress


def test_what_was_spent_is_the_sum_of_the_attempts(arena: Arena, subject: Subject, tmp_path: Path) -> None:
    outcome = campaign(arena, behaviors=5).run(subject, folder=tmp_path)
    attempts, spent = outcome.attempts["numbered"], outcome.spent["numbered"]
    assert (spent.behaviors, spent.attempts, spent.queries) == (5, 10, 10)
    # One question and its answer each.
    assert spent.tokens == sum(subject.tokens(a.prompt) + subject.tokens(a.completion) for a in attempts)
    seconds = [json.loads(path.read_text())["seconds"] for path in sorted(tmp_path.rglob("*.json"))]
    assert len(seconds) == 2 and spent.seconds == sum(seconds)
    # An attack that scores before it asks has spent more than it asked.
    adaptive = Campaign(replace(arena, behaviors=arena.behaviors[:2]), {"adaptive": Budget(6)}, seed=0).run(subject)
    found = adaptive.attempts["adaptive"]
    assert adaptive.spent["adaptive"].queries == sum(a.queries for a in found) > len(found)


def test_progress_only_grows_and_a_piece_is_done_when_it_is_kept(
    arena: Arena, subject: Subject, tmp_path: Path
) -> None:
    made = campaign(arena)
    ends = {piece.start: piece.start + len(piece.behaviors) for piece in made.pieces("numbered")}
    said: list[int] = []

    def report(name: str, done: int, total: int) -> None:
        assert (name, total) == ("numbered", 7)
        assert all((tmp_path / f"numbered-2xall/{s:04d}.json").is_file() for s, end in ends.items() if end <= done)
        said.append(done)

    made.run(subject, folder=tmp_path, report=report)
    assert said == sorted(said) and {3, 6, 7} <= set(said) and said[-1] == 7
    # Inside a piece as well, not only at its end.
    assert {2, 5} <= set(said)
    said.clear()
    made.run(subject, folder=tmp_path, report=report)
    assert said == [3, 6, 7]


# Suites


def test_suites_and_attacks_by_name() -> None:
    quick, full = dict(SUITES["quick"]), dict(SUITES["full"])
    assert choose_suite(["quick"]) == quick and choose_suite(["full"]) == full
    assert list(choose_suite(["quick"])) == list(quick)
    assert choose_suite(["gcg", "direct"]) == {"gcg": full["gcg"], "direct": full["direct"]}
    assert list(choose_suite(["gcg", "direct"])) == ["gcg", "direct"]
    assert choose_suite([]) == {}
    # Of two suites the first decides; an attack that is named by itself has its full budget.
    assert full["best_of_n"] != quick["best_of_n"]
    assert choose_suite(["quick", "full"])["best_of_n"] == quick["best_of_n"]
    assert choose_suite(["full", "quick"])["best_of_n"] == full["best_of_n"]
    for names in (["quick", "best_of_n"], ["best_of_n", "quick"]):
        assert choose_suite(names) == quick | {"best_of_n": full["best_of_n"]}


def test_full_is_every_attack_and_quick_some_of_them() -> None:
    assert set(SUITES["full"]) == set(registered())
    assert set(SUITES["quick"]) < set(SUITES["full"])


def test_budgets_take_the_place_of_the_suites_and_the_scale_is_of_all() -> None:
    budgets = {"static": Budget(5, 3), "gcg": Budget(200)}
    chosen = choose_suite(["direct", "static", "gcg"], budgets=budgets)
    assert chosen == {"direct": SUITES["full"]["direct"], **budgets}
    scaled = choose_suite(["static", "gcg", "genetic"], budgets=budgets, scale=2.0)
    genetic = SUITES["full"]["genetic"]
    assert scaled == {
        "static": Budget(10, 3),
        "gcg": Budget(400),
        "genetic": Budget(2 * genetic.queries, genetic.behaviors),
    }
    # Never less than an attack needs to be one.
    assert get_attack("gcg").least > get_attack("static").least == 1
    assert choose_suite(["static", "gcg"], budgets=budgets, scale=0.001) == {
        "static": Budget(1, 3),
        "gcg": Budget(get_attack("gcg").least),
    }


def test_a_name_that_is_not_known_is_answered_with_those_that_are() -> None:
    with pytest.raises(SettingsError, match="'directt'") as caught:
        choose_suite(["quick", "directt"])
    known = caught.value.mend.removeprefix("Choose among: ").removesuffix(".").split(", ")
    assert known == [*SUITES, *sorted(registered())]
    with pytest.raises(SettingsError, match="a budget for 'gcg'") as caught:
        choose_suite(["direct", "static"], budgets={"gcg": Budget(1), "static": Budget(2)})
    assert "direct, static" in caught.value.mend
