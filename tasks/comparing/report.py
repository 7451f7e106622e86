"""Rows and the file of experiments as tables, plots and a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jpu.comparison.answers import Question
from jpu.comparison.metrics import UTILITY, WORST
from jpu.comparison.page import render
from jpu.comparison.plot_file import plot_file
from jpu.comparison.records import GroupRecord, Summary, TrialRecord
from jpu.comparison.rows import Row
from jpu.comparison.statistics import Bootstrap, point
from jpu.comparison.summary import pooled_answers, summarise_group
from jpu.comparison.tables import as_csv, markdown
from jpu.files import atomic_folder, write_json, write_text
from tasks.comparing.plan import Plan
from tasks.tracking import flatten

COMPARISON = Path("artifacts/comparison")
PAGE = COMPARISON / "comparison.html"


def summarise(plan: Plan, rows: Mapping[str, Row]) -> Summary:
    """What the rows of a plan show together; rows that it does not ask for are left out.

    Args:
        plan: What is asked for.
        rows: Key → row.
    """
    report = plan.experiments.report
    bootstrap = Bootstrap(report.resamples, report.confidence)
    questions = [Question(asked.words, asked.method, asked.against) for asked in report.questions]
    methods = {name: (entry.words, entry.kind) for name, entry in plan.experiments.methods.items()}
    groups: dict[str, dict[str, dict[str, Row]]] = {}
    for run in plan.finals:
        row = rows.get(run.key)
        if row is not None:
            several = len(plan.experiments.seeds_on(run.subject.name)) > 1
            name = f"{run.subject.name} seed {run.seed}" if several else run.subject.name
            groups.setdefault(run.subject.group, {}).setdefault(run.method, {})[name] = row
    apart = {entry.group for entry in plan.experiments.subjects.values() if not entry.pooled}
    keys = {run.key for run in plan.runs}
    later = sum(len(plan.experiments.seeds_on(name)) for _, name in plan.waiting)
    return Summary(
        reference=report.reference,
        confidence=report.confidence,
        resamples=report.resamples,
        groups=tuple(
            summarise_group(name, found, methods, report.reference, bootstrap, questions)
            for name, found in groups.items()
        ),
        pooled=pooled_answers([of for name, of in groups.items() if name not in apart], questions, bootstrap),
        apart=tuple(name for name in groups if name in apart),
        trials=tuple(_trials(plan, rows)),
        # A run whose settings are not chosen yet is wanted all the same.
        wanted=len(keys) + later,
        missing=len(keys - rows.keys()) + later,
        machines=tuple(sorted({rows[r.key].cost.machine for r in plan.runs if r.key in rows} - {""})),
    )


def write(summary: Summary, folder: Path = COMPARISON) -> None:
    """Write everything, whole or not at all. Raises StorageError."""
    with atomic_folder(folder) as new:
        write_json(new / "comparison.json", summary.model_dump(mode="json"))
        write_text(new / "comparison.md", markdown(summary))
        write_text(new / "comparison.csv", as_csv(summary))
        write_text(new / "comparison.html", render(summary))
        for group in summary.groups:
            drawn = plot_file(group)
            if drawn:
                write_text(new / f"pareto-{group.name}.svg", drawn + "\n")


def metrics(summary: Summary) -> dict[str, float]:
    """The reference's means, and how much is there, for DVC and MLflow."""
    found: dict[str, float] = {"runs": summary.wanted - summary.missing, "missing": summary.missing}
    for group in summary.groups:
        found |= _means(group, summary.reference)
    return found


def _means(group: GroupRecord, reference: str) -> dict[str, float]:
    means = {}
    for method in group.methods:
        if method.name == reference:
            for key, figure in method.figures.items():
                if figure.value is not None:
                    means[f"{group.name}.{key}"] = figure.value
    return means


def _trials(plan: Plan, rows: Mapping[str, Row]) -> list[TrialRecord]:
    taken = {run.key for run in plan.chosen.values()}
    records = []
    for run in plan.trials:
        if run.key not in rows:
            continue
        row = rows[run.key]
        changes = {k: v for k, v in plan.experiments.methods[run.method].tune[run.setting].model_dump().items() if v}
        if run.multiplier != 1.0:
            changes["learning_rate_multiplier"] = run.multiplier
        records.append(
            TrialRecord(
                subject=run.subject.name,
                method=run.method,
                trial=run.trial,
                changes=flatten(changes),
                worst=point(WORST, row),
                utility=point(UTILITY, row),
                chosen=run.key in taken,
            )
        )
    return records
