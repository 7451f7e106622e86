"""Measure the model before and after, on queries, families and operators that the defence never saw.

Run: python -m tasks.evaluate      (or: dvc repro evaluate)
Reads the subject and the last round's adapter; writes artifacts/evaluation: metrics.json, tables for the plots, and the
attempts without their texts. Registers the hardened adapter in MLflow. Goes on from the last finished piece after a
kill. Does not choose or tune anything.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jpu.attacks import Attack, Budget, choose_suite, get_attack
from jpu.data.schemas import Behavior, read_records
from jpu.evaluation.evaluate import Evaluation, Measured, Protocol, Report
from jpu.evaluation.names import name_of
from jpu.evaluation.stress import StressProtocol, stress
from jpu.files import atomic_folder, write_json, write_text
from jpu.mining.entry import Entry
from jpu.models import Subject
from jpu.unlearning.retain import answered_by_reference
from tasks.attack_suites import attempts_suite
from tasks.attackers import with_attackers
from tasks.card import make_card, write_card
from tasks.engine import SubjectCopy, copies
from tasks.layout import EVALUATION, PREPARED, SUBJECT, Prepared, RoundFolder, load_prepared
from tasks.progress import Progress
from tasks.protocol import attempts_folder, describe, finish
from tasks.results import Metrics, write_results
from tasks.sections import EvaluationSettings, Limits
from tasks.settings import Settings, chosen_engine, load_settings
from tasks.stage import run_stage
from tasks.tables import table
from tasks.tracking import stage_run
from tasks.validation import check


def main() -> None:
    """Run the stage."""
    settings = load_settings()
    last = RoundFolder(settings.last_round)
    with stage_run("evaluate") as run:
        run.inputs(PREPARED, SUBJECT, last.adapter, last.buffer, last.batch)
        run.params(settings.evaluation.model_dump())
        subject = Subject.load(SUBJECT, last.adapter, device=settings.subject.device, dtype=settings.subject.dtype)
        data, suite = load_prepared(), chosen_suite(settings.evaluation)
        ours = settings.data.source == "sandbox"
        attacks, attackers = with_attackers(settings.subject, data, ours=ours) if "pair" in suite else ({}, {})
        evaluation = build(data, subject, settings, suite=suite, attacks=attacks)
        protocols = {
            when: describe(subject, SUBJECT, adapter, evaluation, data) | {"attackers": attackers}
            for when, adapter in (("before", None), ("after", last.adapter))
        }
        kept = {when: attempts_folder(protocol, anew=True) for when, protocol in protocols.items()}
        with copies(chosen_engine(settings), SubjectCopy.of(SUBJECT, last.adapter, settings.subject)) as over:
            sides = {
                when: evaluation.measure(
                    subject, reference=when == "before", folder=folder, report=reporter(f"evaluating {when}"), over=over
                )
                for when, folder in kept.items()
            }
        train = [b for b in data.behaviors if b.split == "train"]
        rounded, trained = stress_protocols(settings.evaluation)
        with subject.reference():
            # It leaks already: there is nothing in it to be undone.
            sides["before"].metrics |= stress(subject, evaluation, train, rounded, progress=Progress("stress, before"))
        sides["after"].metrics |= stress(subject, evaluation, train, trained, progress=Progress("stress, after"))
        mined = {entry.prompt for path in (last.buffer, last.batch) for entry in read_records(path, Entry)}
        for measured in sides.values():
            guard(measured, evaluation, mined, settings.data.limits)
        with atomic_folder(EVALUATION) as folder:
            both = write_results(folder, sides)
            write_json(folder / "protocol.json", protocols)
            write_text(folder / "before_after.csv", comparison(both))
            rounds = [RoundFolder(number) for number in settings.on_the_way]
            write_card(
                make_card(sides, evaluation, protocols["after"], profile=settings.profile, rounds=rounds), folder
            )
        for folder in kept.values():
            finish(folder)
        run.metrics({f"{when}.{name}": figure for when, part in both.items() for name, figure in part.items()})
        run.metrics({f"{when}.seconds.{n}": s.seconds for when, m in sides.items() for n, s in m.spent.items()})
        run.artifact(EVALUATION)
        run.register()


def build(
    data: Prepared,
    subject: Subject | None,
    settings: Settings,
    *,
    suite: Mapping[str, Budget],
    attacks: Mapping[str, Attack] | None = None,
    required: bool = False,
) -> Evaluation:
    """The evaluation that the settings describe.

    Args:
        data: The prepared data.
        subject: Gives answers where the data has none; None for an endpoint, which is not asked for them.
        settings: Settings.
        suite: Attacks and budgets.
        attacks: Attacks in the place of the registered ones of their names.
        required: Whether an attack that cannot be run is an error.
    """
    behaviors: list[Behavior] = answered_by_reference(subject, data.behaviors) if subject else data.behaviors
    section = settings.evaluation
    protocol = Protocol(
        split=section.split,
        suite=suite,
        probe_wordings=section.probe_wordings,
        retain_pairs=section.retain_pairs,
        max_new_tokens=section.max_new_tokens,
        longest=settings.data.limits.prompt,
        resamples=section.resamples,
        confidence=section.confidence,
        seed=settings.seed,
    )
    return Evaluation(behaviors, data.templates, data.refusals, protocol, attacks=attacks, required=required)


def chosen_suite(section: EvaluationSettings) -> dict[str, Budget]:
    """Attacks and budgets that the settings name. Raises SettingsError for a name that is not known."""
    budgets = {name: Budget(b.queries, b.behaviors) for name, b in section.budgets.items()}
    return choose_suite(section.suite, budgets=budgets, scale=section.scale)


def stress_protocols(section: EvaluationSettings) -> tuple[StressProtocol, StressProtocol]:
    """What is done to the weights of the original, which are only rounded, and to those of the hardened model."""
    whole = StressProtocol(**section.stress.model_dump())
    return replace(whole, steps=()), whole


def guard(measured: Measured, evaluation: Evaluation, mined: set[str], limits: Limits) -> None:
    """Hold the attempts against what an evaluation may use: held-out behaviors, and no mined prompt.

    Raises:
        DataError: An expectation fails.
    """
    where = str(EVALUATION / "attempts.jsonl")
    restricted = {b.id for b in evaluation.restricted}
    wanted = {name: spent.behaviors for name, spent in measured.spent.items()}
    repeats = {name for name in wanted if get_attack(name).unit == "behavior"}
    attacked = [j.attempt for j in measured.attacked]
    rules: dict[str, Any] = {"where": where, "mined": mined, "limits": limits}
    check(*attempts_suite(attacked, behaviors=restricted, wanted=wanted, repeats=repeats, **rules))
    others = set(evaluation.behaviors) - restricted
    probes = [j.attempt for j in measured.probes]
    if probes:
        wanted = {attempt.attack: len(others) for attempt in probes}
        check(*attempts_suite(probes, behaviors=others, wanted=wanted, **rules))


def reporter(title: str) -> Report:
    """Progress of a measurement on the terminal, a line for each attack and the probes."""
    lines: dict[str, Progress] = {}
    last = time.monotonic()

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        # One begins where the last one ended: its first report is of a whole batch.
        lines.setdefault(what, Progress(f"{title}, {what}", since=last))(done, total)
        last = time.monotonic()

    return report


def comparison(both: Mapping[str, Metrics]) -> str:
    """The shares as rows for a plot; figures of other units do not stand on one axis with them."""
    rows = [
        {"when": when, "metric": name, **figure}
        for when, part in both.items()
        for name, figure in part.items()
        if name_of(name).unit == "rate" and not name.startswith("relearned_")
    ]
    return table(rows, ["when", "metric", "value", "low", "high", "n"])


if __name__ == "__main__":
    run_stage(main)
