"""experiments/compare.yaml, typed: subjects, methods, budgets and what is measured. Unknown keys are refused.

What a key means is written beside it there. Settings of data, subject, mining, paths and unlearning are those of a
profile of params.yaml, with the changes that a subject or a method names.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from tasks.sections import AttackBudget, Count, Places, Positive, Section, Share, Weight, Whole, wrong

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
Kind = Literal["original", "ours", "baseline", "control", "ablation"]
Attacks = Annotated[dict[str, AttackBudget], Field(min_length=1)]


class BudgetSection(Section):
    """What every method may spend: steps, CPU seconds of one training, and settings that it may try."""

    steps: Count
    seconds: Positive
    trials: Count


class TuningSection(Section):
    """How settings are chosen: on the validation split, by worst ASR + utility_weight × utility loss."""

    attacks: Attacks
    probe_wordings: Count
    retain_pairs: Count
    utility_weight: Weight


class AfterSection(Section):
    """What is done to copies of the weights (`jpu.comparison.after_attacks.AfterProtocol`)."""

    bits: tuple[Literal[4, 8], ...]
    prune: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...]
    steps: tuple[Count, ...]
    threshold: Share
    pairs: Count
    learning_rate: Positive
    queries: Count


class EvaluationSection(Section):
    """What is measured on the test split, once for each run."""

    attacks: Attacks
    probe_wordings: Count
    retain_pairs: Count
    max_new_tokens: Count
    after: AfterSection


class QuestionSection(Section):
    """Whether one method does better than another: what is asked, in words."""

    words: Annotated[str, Field(min_length=1)]
    method: str
    against: str


class ReportSection(Section):
    """How intervals are made, which method the others are compared with, and what is asked of the rows."""

    reference: str
    questions: tuple[QuestionSection, ...] = ()
    resamples: Annotated[int, Field(ge=100)]
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)]


class WorldSection(Section):
    """The invented world (`jpu.sandbox.world.World`); the default is the pipeline's own."""

    seed: Whole = 2601
    places: Places = Places(train=24, validation=8, test=32)
    code_words: Annotated[int, Field(ge=1, le=30)] = 3
    forms: Annotated[int, Field(ge=1, le=4)] = 1


class SubjectEntry(Section):
    """A subject: a profile of params.yaml with changes.

    `unlearning` is what is changed in that section for all methods, their number of steps among it; `seconds`, where
    they may spend another number of those. `tuned_on` names the subject on whose validation split settings for this
    one are chosen; one that is only tuned on is `measured: false`. `learning_rate_multipliers`, for a model of another
    size: what the learning rate of a setting that was chosen there is multiplied by, each tried on this subject's own
    validation split. `seeds`: of the defences on it, in the place of the file's. `pooled: false` leaves its group out
    of the answers over all groups: another group has the same subjects.
    """

    group: Name
    seed: Whole
    profile: str = "sandbox"
    tuned_on: Name
    measured: bool = True
    seconds: Positive | None = None
    learning_rate_multipliers: tuple[Positive, ...] = ()
    seeds: tuple[Whole, ...] = ()
    pooled: bool = True
    unlearning: dict[str, Any] = Field(default_factory=dict)
    world: WorldSection = WorldSection()
    data: dict[str, Any] = Field(default_factory=dict)
    subject: dict[str, Any] = Field(default_factory=dict)


class Changes(Section):
    """Other values in the sections of a profile."""

    mining: dict[str, Any] = Field(default_factory=dict)
    paths: dict[str, Any] = Field(default_factory=dict)
    unlearning: dict[str, Any] = Field(default_factory=dict)


class MethodEntry(Changes):
    """A method: what is changed in a profile's settings, its defence among them.

    It tries the settings of `tune`, as many as every method, or takes those that were chosen for the method of
    `tuned_as`, whose changes it builds on: an ablation. The kind `original` is the subject as it is.
    `groups` names the groups of subjects that it is run on; none for all.
    """

    words: Annotated[str, Field(min_length=1)]
    kind: Kind
    groups: tuple[Name, ...] = ()
    tune: tuple[Changes, ...] = ()
    tuned_as: Name | None = None


class Experiments(Section):
    """The whole file."""

    seeds: Annotated[tuple[Whole, ...], Field(min_length=1)]
    budget: BudgetSection
    tuning: TuningSection
    evaluation: EvaluationSection
    report: ReportSection
    subjects: Annotated[dict[Name, SubjectEntry], Field(min_length=1)]
    methods: Annotated[dict[Name, MethodEntry], Field(min_length=1)]

    def seeds_on(self, subject: str) -> tuple[int, ...]:
        """Seeds of the defences on a subject."""
        return self.subjects[subject].seeds or self.seeds

    @model_validator(mode="after")
    def _names_are_there(self) -> Self:
        for name, entry in self.subjects.items():
            if entry.tuned_on not in self.subjects:
                raise wrong(f"there is no subject {entry.tuned_on!r}", "subjects", name, "tuned_on")
            if self.subjects[entry.tuned_on].learning_rate_multipliers:
                raise wrong("settings are chosen first where nothing is multiplied", "subjects", name, "tuned_on")
            if len(set(entry.seeds)) < len(entry.seeds):
                raise wrong("a seed stands there twice, and would be counted twice", "subjects", name, "seeds")
            if not entry.pooled and any(s.pooled for s in self.subjects.values() if s.group == entry.group):
                raise wrong(f"a group is pooled or it is not: {entry.group!r} is both", "subjects", name, "pooled")
        if len(set(self.seeds)) < len(self.seeds):
            raise wrong("a seed stands there twice, and would be counted twice", "seeds")
        if self.report.reference not in self.methods:
            raise wrong(f"there is no method {self.report.reference!r}", "report", "reference")
        for asked in self.report.questions:
            for name in (asked.method, asked.against):
                if name not in self.methods:
                    raise wrong(f"{asked.words!r} names {name!r}, which is no method", "report", "questions")
        words = [asked.words for asked in self.report.questions]
        if twice := sorted({one for one in words if words.count(one) > 1}):
            raise wrong(f"{twice[0]!r} is asked twice: give each question words of its own", "report", "questions")
        return self

    @model_validator(mode="after")
    def _every_method_tries_as_many(self) -> Self:
        for name, entry in self.methods.items():
            where = ("methods", name)
            unknown = sorted(set(entry.groups) - {subject.group for subject in self.subjects.values()})
            if unknown:
                raise wrong(f"there is no group of subjects {unknown[0]!r}", *where, "groups")
            if entry.kind == "original" or entry.tuned_as is not None:
                if entry.tune:
                    raise wrong("this method has no trials of its own: leave tune out", *where, "tune")
            elif len(entry.tune) != self.budget.trials:
                raise wrong(f"every method tries {self.budget.trials} settings, not {len(entry.tune)}", *where, "tune")
            other = self.methods.get(entry.tuned_as) if entry.tuned_as is not None else None
            if entry.tuned_as is not None and (other is None or not other.tune):
                raise wrong(f"{entry.tuned_as!r} is no method with trials of its own", *where, "tuned_as")
        return self
