"""Measure the model before and after, on queries, families and operators that the defence never saw.

Run: python -m tasks.evaluate      (or: dvc repro evaluate)
Reads the subject and the last round's adapter; writes artifacts/evaluation: metrics.json, tables for the plots, and the
attempts without their texts. Registers the hardened adapter in MLflow. Does not choose or tune anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jpu.data.schemas import Behavior, read_records
from jpu.evaluation.evaluate import METRICS, Evaluation, Judged, Measured, Protocol, as_json, by_family
from jpu.files import atomic_folder, write_json, write_jsonl, write_text
from jpu.mining.entry import Entry
from jpu.models import Subject
from jpu.unlearning.retain import answered_by_reference
from tasks.attack_suites import attempts_suite
from tasks.layout import EVALUATION, PREPARED, SUBJECT, Prepared, RoundFolder, load_prepared
from tasks.progress import Progress
from tasks.sections import Limits
from tasks.settings import Settings, load_settings
from tasks.stage import run_stage
from tasks.tables import table
from tasks.tracking import stage_run
from tasks.validation import check

Metrics = dict[str, dict[str, float | int | None]]


def main() -> None:
    """Run the stage."""
    settings = load_settings()
    last = RoundFolder(settings.last_round)
    with stage_run("evaluate") as run:
        run.inputs(PREPARED, SUBJECT, last.adapter, last.buffer, last.batch)
        run.params(settings.evaluation.model_dump())
        subject = Subject.load(SUBJECT, last.adapter, device=settings.subject.device, dtype=settings.subject.dtype)
        evaluation = build(load_prepared(), subject, settings)

        before = measure(evaluation, subject, "before", reference=True)
        after = measure(evaluation, subject, "after")

        mined = {entry.prompt for path in (last.buffer, last.batch) for entry in read_records(path, Entry)}
        for measured in (before, after):
            guard(measured, evaluation, mined, settings.data.limits)
        both = {"before": as_json(before.metrics), "after": as_json(after.metrics)}
        with atomic_folder(EVALUATION) as folder:
            write_json(folder / "metrics.json", both)
            write_text(folder / "families.csv", families(before, after))
            write_text(folder / "before_after.csv", comparison(both))
            rows = (*redacted(before.judged, "before"), *redacted(after.judged, "after"))
            write_jsonl(folder / "attempts.jsonl", rows)
        run.metrics({f"{when}.{name}": figure for when, part in both.items() for name, figure in part.items()})
        run.artifact(EVALUATION)
        run.register()


def attack_folder(model: Path | str, adapter: Path | None = None) -> Metrics:
    """Evaluate any model folder on the prepared test split; nothing is written.

    Args:
        model: A model folder or hub name; or an adapter folder, which goes on the subject in artifacts/subject.
        adapter: An adapter folder to put on it.

    Returns:
        Name → value, low, high, n.

    Raises:
        ModelError: The model or the adapter cannot be used.
        DataError: The prepared data is missing or broken.
    """
    settings = load_settings()
    if adapter is None and (Path(model) / "adapter_config.json").is_file():
        model, adapter = SUBJECT, Path(model)
    subject = Subject.load(model, adapter, device=settings.subject.device, dtype=settings.subject.dtype)
    evaluation = build(load_prepared(), subject, settings)
    return as_json(measure(evaluation, subject, "attack").metrics)


def build(data: Prepared, subject: Subject, settings: Settings) -> Evaluation:
    """The evaluation that the settings describe."""
    behaviors: list[Behavior] = answered_by_reference(subject, data.behaviors)
    section = settings.evaluation.model_dump()
    protocol = Protocol(seed=settings.seed, longest=settings.data.limits.prompt, **section)
    return Evaluation(behaviors, data.templates, data.refusals, protocol)


def guard(measured: Measured, evaluation: Evaluation, mined: set[str], limits: Limits) -> None:
    """Hold the attempts against what an evaluation may use: held-out behaviors, all of them, and no mined prompt.

    Raises:
        DataError: An expectation fails.
    """
    restricted = {b.id for b in evaluation.restricted}
    for behaviors in (restricted, set(evaluation.behaviors) - restricted):
        attempts = [j.attempt for j in measured.judged if j.attempt.behavior in behaviors]
        if attempts:
            where = str(EVALUATION / "attempts.jsonl")
            check(*attempts_suite(attempts, where=where, behaviors=behaviors, mined=mined, limits=limits))


def measure(evaluation: Evaluation, subject: Subject, when: str, *, reference: bool = False) -> Measured:
    """Measure with progress on the terminal."""
    reports: dict[str, Progress] = {}

    def report(what: str, done: int, total: int) -> None:
        reports.setdefault(what, Progress(f"evaluating {when}, {what}"))(done, total)

    return evaluation.measure(subject, reference=reference, report=report)


def families(before: Measured, after: Measured) -> str:
    """ASR by attack and family, before and after."""
    rows = [
        {"when": when, **row} for when, part in (("before", before), ("after", after)) for row in by_family(part.judged)
    ]
    return table(rows, ["when", "attack", "family", "attempts", "through", "asr"])


def comparison(both: Mapping[str, Metrics]) -> str:
    """The headline figures as rows for a plot."""
    rows = [
        {"when": when, "metric": name, **part[name]} for when, part in both.items() for name in METRICS if name in part
    ]
    return table(rows, ["when", "metric", "value", "low", "high", "n"])


def redacted(judged: Iterable[Judged], when: str) -> Iterable[dict[str, Any]]:
    """Attempts without texts: a digest each, so that two runs can be compared."""
    for item in judged:
        attempt = item.attempt
        yield {
            "when": when,
            "attack": attempt.attack,
            "behavior": digest(attempt.behavior),
            "family": attempt.family,
            "template": attempt.template,
            "history": list(attempt.history),
            "scored": attempt.scored,
            "prompt": digest(attempt.prompt),
            "prefill": digest(attempt.prefill) if attempt.prefill else "",
            "completion": digest(attempt.completion),
            "kind": item.kind,
            "verdict": item.verdict.label,
        }


def digest(text: str) -> str:
    """First 12 hex digits of the text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


if __name__ == "__main__":
    run_stage(main)
