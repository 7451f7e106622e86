"""A campaign: a suite of attacks on one model, in pieces that are kept, so that a killed run goes on where it was.

A piece is one attack on a few behaviors. Its draws depend on the seed, the attack and the behaviors' place alone, so a
run that was stopped and a run that was not end with the same attempts.

Does not judge: attempts are stored as they came back, prompts and completions in plain text, for a second pass.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from jpu.attacks.base import Arena, Attack, Attempt, Budget, get_attack
from jpu.data.schemas import Behavior
from jpu.errors import DataError, SettingsError
from jpu.files import read_json, write_json
from jpu.models import Subject, Target
from jpu.spread import Spread

# Told the attack, the behaviors that are done, and how many there are.
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Spent:
    """What an attack cost, all behaviors together.

    Attributes:
        behaviors: Behaviors attacked.
        attempts: Prompts completed.
        queries: Prompts put to the model, scored or completed.
        tokens: Tokens run through for them.
        seconds: Time on the machine that ran them.
    """

    behaviors: int
    attempts: int
    queries: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Piece:
    """One attack, or its control, on a few behaviors.

    Attributes:
        attack: The attack's name.
        start: Place of the first behavior among those of the attack.
        behaviors: The behaviors.
        control: Whether it is the control.
    """

    attack: str
    start: int
    behaviors: tuple[Behavior, ...]
    control: bool


# The attempts of a piece, and the seconds that they took.
Made = tuple[list[Attempt], float]


@dataclass
class Outcome:
    """What a campaign brought home.

    Attributes:
        attempts: Attack → its attempts.
        spent: Attack → its cost.
        not_run: Attack → why it was left out.
    """

    attempts: dict[str, list[Attempt]] = field(default_factory=dict)
    spent: dict[str, Spent] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)


class Campaign:
    """A suite of attacks, ready to be run on models.

    Args:
        arena: Behaviors, wordings and limits.
        suite: Attack → budget, in the order in which they are run.
        seed: Seed of every draw.
        attacks: Attacks to use in the place of the registered ones of their names (one that was given an attacker).
        required: Whether an attack that cannot be run is an error; else it is left out, with its reason.
    """

    def __init__(
        self,
        arena: Arena,
        suite: Mapping[str, Budget],
        *,
        seed: int,
        attacks: Mapping[str, Attack] | None = None,
        required: bool = False,
    ) -> None:
        self.arena, self.suite, self.seed, self.required = arena, dict(suite), seed, required
        self.attacks = {name: (attacks or {}).get(name) or get_attack(name) for name in self.suite}

    def run(
        self, target: Target, *, folder: Path | None = None, control: bool = False, report: Report | None = None
    ) -> Outcome:
        """Run every attack of the suite, or its control.

        Args:
            target: The model.
            folder: Where the pieces are kept, and found again; None to keep none.
            control: Run the controls.
            report: Told how far each attack is.

        Raises:
            SettingsError: An attack cannot be run on this target, and all are required.
        """
        outcome = Outcome(not_run=self._left_out(target))
        for name in self.attacks:
            if name in outcome.not_run:
                continue
            found: list[Attempt] = []
            seconds = 0.0
            pieces = self.pieces(name, control)
            total = sum(len(piece.behaviors) for piece in pieces)
            for piece in pieces:
                progress = None if report is None else _within(report, piece, total)
                kept = self._kept(folder, piece)
                known = read_piece(kept) if kept else None
                attempts, took = known if known is not None else self.attempt(target, piece, progress)
                if kept and known is None:
                    keep_piece(kept, attempts, took)
                found += attempts
                seconds += took
                if report is not None:
                    report(name, piece.start + len(piece.behaviors), total)
            outcome.attempts[name] = found
            outcome.spent[name] = Spent(
                behaviors=total,
                attempts=len(found),
                queries=sum(a.queries for a in found),
                tokens=sum(a.tokens for a in found),
                seconds=seconds,
            )
        return outcome

    def spread(
        self,
        over: Spread[Subject],
        target: Target,
        folder: Path,
        *,
        control: bool = False,
        report: Report | None = None,
    ) -> None:
        """Have the pieces that are not kept yet made elsewhere, each kept as it comes; `run` then finds all of them.

        The pieces of all attacks go out together, so that nobody waits for the last of one. What a stopped run loses
        is the pieces that were under way.

        Args:
            over: Copies of the model.
            target: The model, to tell which attacks can be run on it.
            folder: Where the pieces are kept.
            control: Run the controls.
            report: Told how far each attack is.
        """
        left_out = self._left_out(target)
        pieces = [piece for name in self.attacks if name not in left_out for piece in self.pieces(name, control)]
        waiting = [piece for piece in pieces if read_piece(self._place(folder, piece)) is None]
        sizes = {name: sum(len(p.behaviors) for p in pieces if p.attack == name) for name in self.attacks}
        left = {name: sum(len(p.behaviors) for p in waiting if p.attack == name) for name in self.attacks}

        def arrived(place: int, made: Made) -> None:
            piece = waiting[place]
            keep_piece(self._place(folder, piece), *made)
            left[piece.attack] -= len(piece.behaviors)
            if report is not None:
                report(piece.attack, sizes[piece.attack] - left[piece.attack], sizes[piece.attack])

        over(self.attempt, waiting, arrived)

    def pieces(self, name: str, control: bool = False) -> list[Piece]:
        """The pieces of an attack, in their order."""
        behaviors, size = self._chosen(self.suite[name]), self.attacks[name].shard
        starts = range(0, len(behaviors), size)
        return [Piece(name, start, tuple(behaviors[start : start + size]), control) for start in starts]

    def attempt(self, target: Target, piece: Piece, progress: Callable[[int, int], None] | None = None) -> Made:
        """Run one piece: its attempts, and the seconds that they took."""
        attack = self.attacks[piece.attack]
        rng = random.Random(f"{self.seed}-{piece.attack}-{'control-' * piece.control}{piece.start}")
        arena = replace(self.arena, behaviors=piece.behaviors)
        began = time.monotonic()
        budget = self.suite[piece.attack]
        attempts = attack.run(target, arena, budget, rng, control=piece.control, progress=progress)
        return attempts, time.monotonic() - began

    def _left_out(self, target: Target) -> dict[str, str]:
        """Attacks that cannot be run on this target, and why."""
        reasons = {name: unfit(attack, target, self.arena) for name, attack in self.attacks.items()}
        left_out = {name: why for name, why in reasons.items() if why}
        if left_out and self.required:
            name, why = next(iter(left_out.items()))
            raise SettingsError(
                f"the attack {name!r} cannot be run: {why}",
                where=target.name,
                mend="Give what it needs, or leave the attack out.",
            )
        return left_out

    def _chosen(self, budget: Budget) -> list[Behavior]:
        """The behaviors of a budget: the first of one order for all attacks, so that small sets lie in large ones."""
        behaviors = list(self.arena.behaviors)
        if budget.behaviors is None or budget.behaviors >= len(behaviors):
            return behaviors
        order = random.Random(f"{self.seed}-behaviors").sample(range(len(behaviors)), len(behaviors))
        return [behaviors[i] for i in sorted(order[: budget.behaviors])]

    def _kept(self, folder: Path | None, piece: Piece) -> Path | None:
        return self._place(folder, piece) if folder else None

    def _place(self, folder: Path, piece: Piece) -> Path:
        return folder / _label(piece.attack, self.suite[piece.attack], piece.control) / f"{piece.start:04d}.json"


def unfit(attack: Attack, target: Target, arena: Arena) -> str:
    """Why an attack cannot be run on a target, with what there is in the arena; "" where it can."""
    if attack.access == "weights" and not isinstance(target, Subject):
        return "it needs the model's weights"
    if attack.access == "prefill" and not isinstance(target, Subject) and not getattr(target, "prefill", False):
        return "it needs a model whose answer can be begun"
    if attack.contrast and not arena.benign:
        return "it needs questions that are answered, with their answers"
    return attack.missing()


def keep_piece(path: Path, attempts: Sequence[Attempt], seconds: float) -> None:
    """Keep a piece. Raises StorageError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"seconds": seconds, "attempts": [a.model_dump(mode="json") for a in attempts]})


def read_piece(path: Path) -> tuple[list[Attempt], float] | None:
    """A kept piece; None where there is none, or a damaged one: it is made again."""
    if not path.is_file():
        return None
    try:
        held: dict[str, Any] = read_json(path)
        return [Attempt.model_validate(a) for a in held["attempts"]], float(held["seconds"])
    except (DataError, ValidationError, KeyError, TypeError, ValueError):
        return None


def read_attempts(folder: Path, suite: Mapping[str, Budget], *, control: bool = False) -> dict[str, list[Attempt]]:
    """The kept attempts of a suite, for judging them again.

    Raises:
        DataError: There are none of an attack.
    """
    found: dict[str, list[Attempt]] = {}
    for name, budget in suite.items():
        pieces = sorted((folder / _label(name, budget, control)).glob("*.json"))
        read = [read_piece(path) for path in pieces]
        if not pieces or any(piece is None for piece in read):
            raise DataError(
                f"the attempts of {name!r} are not there, or damaged", where=str(folder), mend="Run the attack again."
            )
        found[name] = [attempt for piece in read if piece for attempt in piece[0]]
    return found


def _label(attack: str, budget: Budget, control: bool) -> str:
    """A folder's name that says what its pieces were made with."""
    behaviors = "all" if budget.behaviors is None else str(budget.behaviors)
    return f"{attack}{'-control' * control}-{budget.queries}x{behaviors}"


def _within(report: Report, piece: Piece, total: int) -> Callable[[int, int], None]:
    """Progress inside a piece as behaviors done of all; that a piece is done is said when it is kept."""
    size = len(piece.behaviors)

    def progress(done: int, of: int) -> None:
        report(piece.attack, piece.start + min(size - 1, size * done // max(1, of)), total)

    return progress
