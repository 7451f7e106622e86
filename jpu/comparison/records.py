"""What a comparison comes to, as records: the content of comparison.json, which tables, plots and page show."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from jpu.card.figure import Figure
from jpu.comparison.statistics import Difference, Spread

VERSION: Literal[1] = 1
Kind = Literal["original", "ours", "baseline", "control", "ablation"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MetricRecord(_Record):
    """A figure: its words, on which side it is better, how it is shown, the table that it is in, and its limit."""

    key: str
    words: str
    better: Literal["low", "high", ""]
    style: Literal["share", "number", "count", "seconds"]
    group: Literal["attacks", "utility", "after", "cost"]
    limit: float | None


class EarlyRecord(_Record):
    """A training that ended before the last of its steps.

    Attributes:
        run: Its run.
        why: "kl": it could not keep the KL budget, and its last good weights were taken; "time": its seconds were over.
        steps: Steps whose weights were kept; 0 where the subject was left as it was, None where they were not counted.
        of: Steps that it might have made.
    """

    run: str
    why: Literal["kl", "time"]
    steps: int | None
    of: int


class MethodRecord(_Record):
    """One method on one group of subjects.

    Attributes:
        name: Its name.
        words: What it is.
        kind: What it stands in the table for.
        runs: Its runs.
        complete: Whether it has every run of the group; a mean over fewer may be of easier subjects.
        figures: Key → mean with its interval.
        by_run: Key → one value for each run; None where it was not measured.
        limited: Key → runs in which the limit stands for what was not reached.
        differences: Key → method − reference.
        curves: Lesson → (step, mean success of the template attack).
        early: Runs whose training ended before its last step.
    """

    name: str
    words: str
    kind: Kind
    runs: tuple[str, ...]
    complete: bool
    figures: dict[str, Figure]
    by_run: dict[str, tuple[float | None, ...]]
    limited: dict[str, int]
    differences: dict[str, Difference]
    curves: dict[str, tuple[tuple[int, float], ...]]
    early: tuple[EarlyRecord, ...] = ()


class AnswerRecord(_Record):
    """What the rows say to a question: does a method do better than another one?

    Attributes:
        words: The question.
        method: The method.
        against: The other one.
        runs: How many both have.
        differences: Key → method − the other one, corrected over the figures of this question.
        better: Figures on which the method is ahead by more than chance.
        worse: … behind.
    """

    words: str
    method: str
    against: str
    runs: int
    differences: dict[str, Difference]
    better: tuple[str, ...]
    worse: tuple[str, ...]


class GroupRecord(_Record):
    """Subjects that are averaged over.

    Attributes:
        name: Their name.
        runs: Runs that any method has: subject and seed.
        metrics: The figures.
        methods: In the order of the file.
        spread: Key → how far it tells defended models apart.
        frontier: Methods that no other one beats at once on the worst attack and on utility, of the complete ones.
        mixed: Method → subjects whose weights, taught on another machine, are not those that most methods have.
        answers: To the questions of which there are rows.
    """

    name: str
    runs: tuple[str, ...]
    metrics: tuple[MetricRecord, ...]
    methods: tuple[MethodRecord, ...]
    spread: dict[str, Spread]
    frontier: tuple[str, ...]
    mixed: dict[str, tuple[str, ...]]
    answers: tuple[AnswerRecord, ...] = ()


class TrialRecord(_Record):
    """One setting that was tried on a validation split."""

    subject: str
    method: str
    trial: int
    changes: dict[str, Any]
    worst: float | None
    utility: float | None
    chosen: bool


class Summary(_Record):
    """Everything that is reported.

    Attributes:
        reference: The method that the others are compared with.
        confidence: Coverage of the intervals.
        resamples: Draws of the bootstrap.
        groups: Groups of subjects.
        pooled: Answers over the runs of all groups, to the questions that more than one group answers.
        apart: Groups that are not among them: their subjects are in others.
        trials: Every setting that was tried.
        wanted: Runs that the file asks for, as far as they are known.
        missing: Runs of those that are not there.
        machines: Processors that runs were made on.
    """

    version: Literal[1] = VERSION
    reference: str
    confidence: float
    resamples: int
    groups: tuple[GroupRecord, ...]
    pooled: tuple[AnswerRecord, ...] = ()
    apart: tuple[str, ...] = ()
    trials: tuple[TrialRecord, ...]
    wanted: int
    missing: int
    machines: tuple[str, ...]
