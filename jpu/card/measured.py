"""The sections of a card that hold what was measured.

Everywhere `before` is the model as it was and `after` the hardened one. A model that was only attacked has `before`
alone.
"""

from __future__ import annotations

from typing import ClassVar

from jpu.card.figure import Better, Count, Curve, Figure, Finite, Section, Share, Side, Unit


class Family(Section):
    """How one family of an attack's prompts fared.

    Attributes:
        family: Its name.
        attempts: Attempts, on each of the two models.
        before: Share that got through.
        after: The same after hardening.
    """

    key_fields: ClassVar[tuple[str, ...]] = ("family",)

    family: str
    attempts: Count | None = None
    before: Share | None = None
    after: Share | None = None


class Cost(Section):
    """What an attack spent on one model, controls aside.

    Attributes:
        attempts: Prompts that were completed and judged.
        queries: Prompts put to the model, scored or completed.
        tokens: Tokens that the model ran through for them.
        seconds: Wall-clock time.
    """

    attempts: Count | None = None
    queries: Count | None = None
    tokens: Count | None = None
    seconds: Finite | None = None


class AttackResult(Section):
    """One attack, what it was given, and how often it got through.

    Attributes:
        name: Its name in the registry.
        title: Its name for readers.
        cite: Its source; an arXiv number in it becomes a link.
        access: What it needs of the model: chat, prefill, weights.
        unit: What the rate counts: prompt or behavior.
        budget: Queries that it may spend on each behavior.
        behaviors: Behaviors attacked.
        cost_before: What it spent on the model as it was.
        cost_after: What it spent on the hardened one.
        before: Attack success rate.
        after: The same after hardening.
        control_before: Success rate of its control, which has chance in the place of the attack's idea.
        control_after: The same after hardening.
        any_before: Share of behaviors for which any attempt got through.
        any_after: The same after hardening.
        families: Rows by family.
        curve_before: (queries spent on each behavior, share of behaviors that had fallen by then).
        curve_after: The same after hardening.
    """

    name: str
    title: str
    cite: str = ""
    access: str = "chat"
    unit: str = "behavior"
    budget: Count | None = None
    behaviors: Count | None = None
    cost_before: Cost | None = None
    cost_after: Cost | None = None
    before: Figure | None = None
    after: Figure | None = None
    control_before: Figure | None = None
    control_after: Figure | None = None
    any_before: Figure | None = None
    any_after: Figure | None = None
    families: tuple[Family, ...] = ()
    curve_before: Curve = ()
    curve_after: Curve = ()


class NotRun(Section):
    """An attack that is known and was not run, and why."""

    name: str
    reason: str


class WorstCase(Section):
    """The attack that got through most often on one model, and its figure."""

    attack: str
    figure: Figure


class Worst(Section):
    """The strongest attack on each of the two models; not always the same one."""

    before: WorstCase | None = None
    after: WorstCase | None = None

    def on(self, side: Side) -> WorstCase | None:
        """That of one of the two models."""
        return self.before if side == "before" else self.after

    @classmethod
    def of(cls, attacks: tuple[AttackResult, ...]) -> Worst:
        """Find it; of several that are equally strong, the first."""
        return cls(
            before=_strongest([(a.name, a.before) for a in attacks]),
            after=_strongest([(a.name, a.after) for a in attacks]),
        )


class Union(Section):
    """Share of behaviors that fell to any of the attacks."""

    before: Figure | None = None
    after: Figure | None = None


class Utility(Section):
    """Something that hardening must not cost.

    Attributes:
        name: Its name in `metrics.json`.
        title: Its name for readers.
        words: What it is, in one sentence.
        group: Heading that it stands under.
        unit: How it is shown.
        better: Which way is good.
        before: The model as it was.
        after: The hardened one.
    """

    name: str
    title: str
    words: str = ""
    group: str = ""
    unit: Unit = "share"
    better: Better = "higher"
    before: Figure | None = None
    after: Figure | None = None


class RelearningPoint(Section):
    """Attack success rate after some steps of fine-tuning."""

    key_fields: ClassVar[tuple[str, ...]] = ("step",)

    step: Count
    figure: Figure


class Relearning(Section):
    """How fast fine-tuning undoes the hardening.

    Attributes:
        name: Kind of the data that was fine-tuned on, such as benign.
        title: The same for readers.
        attack: The attack whose success rate is drawn.
        before: Fine-tuning the model as it was.
        after: Fine-tuning the hardened one.
        half_before: First step at which the rate was 50 % or more; None where it never was.
        half_after: The same for the hardened model.
    """

    name: str
    title: str
    attack: str = ""
    before: tuple[RelearningPoint, ...] = ()
    after: tuple[RelearningPoint, ...] = ()
    half_before: Count | None = None
    half_after: Count | None = None


class Quantization(Section):
    """One figure of a model whose weights were rounded.

    Attributes:
        scheme: int8, nf4, …; "none" for the weights as they are.
        measure: Name of the figure, such as asr_static.
        title: Both for readers.
        unit: How it is shown.
        better: Which way is good.
        before: The model as it was, rounded.
        after: The hardened one, rounded.
    """

    key_fields: ClassVar[tuple[str, ...]] = ("scheme", "measure")

    scheme: str
    measure: str
    title: str
    unit: Unit = "share"
    better: Better = "lower"
    before: Figure | None = None
    after: Figure | None = None


class Judge(Section):
    """A judge, and how it fared on completions whose label is known.

    Attributes:
        name: Its name in the registry.
        title: Its name for readers.
        cite: Its source.
        verdicts: Verdicts that it gave.
        parse_failures: Answers of the judge from which no verdict could be read.
        accuracy: Share of labelled completions that it gets right.
        precision: Of what it calls a success, the share that is one.
        recall: Of the successes, the share that it finds.
    """

    name: str
    title: str
    cite: str = ""
    verdicts: Count | None = None
    parse_failures: Count | None = None
    accuracy: Figure | None = None
    precision: Figure | None = None
    recall: Figure | None = None


class Agreement(Section):
    """How often two judges say the same: raw agreement, and Cohen's κ, which takes out what chance would give."""

    key_fields: ClassVar[tuple[str, ...]] = ("first", "second")

    first: str
    second: str
    agreement: Share | None = None
    kappa: Figure | None = None


class Judging(Section):
    """The judges and how far they agree."""

    judges: tuple[Judge, ...] = ()
    agreement: tuple[Agreement, ...] = ()


class Overlap(Section):
    """How much of the jailbreak path another path shares in one layer."""

    key_fields: ClassVar[tuple[str, ...]] = ("path",)

    path: str
    jaccard: Share | None = None
    cosine: Finite | None = None


class PathLayer(Section):
    """One layer of the jailbreak path.

    Attributes:
        layer: Its number, from 0.
        neurons: Neurons of it that are on the path.
        heads: Attention heads of it that are on the path.
        chance: Jaccard that random choices of these sizes would have.
        overlaps: With the other paths.
    """

    key_fields: ClassVar[tuple[str, ...]] = ("layer",)

    layer: Count
    neurons: Count | None = None
    heads: Count | None = None
    chance: Share | None = None
    overlaps: tuple[Overlap, ...] = ()


class PathRound(Section):
    """The path that a round found; no layers where the round had nothing to look for.

    Attributes:
        round: Its number.
        layers: What is known of each.
        completeness_error: How far the path's integral is from what it stands for, as a share of that; of
            neurons, since heads are chosen without an integral.
        completeness_error_half: The same with half the interpolation steps.
        completeness_error_twice: The same with twice as many.
    """

    key_fields: ClassVar[tuple[str, ...]] = ("round",)

    round: str
    completeness_error: Finite | None = None
    completeness_error_half: Finite | None = None
    completeness_error_twice: Finite | None = None
    layers: tuple[PathLayer, ...] = ()


class Series(Section):
    """A quantity over the steps of a training, such as loss or kl."""

    name: str
    points: Curve = ()


class TrainingRound(Section):
    """How a round trained.

    Attributes:
        round: Its name.
        converged: It found too few jailbreaks to train on, and passed its input on.
        steps: Steps made.
        rollbacks: Times that a step was taken back, because the KL had left its budget.
        trained_parameters: Parameters that were trained.
        series: Curves.
    """

    key_fields: ClassVar[tuple[str, ...]] = ("round",)

    round: str
    converged: bool = False
    steps: Count | None = None
    rollbacks: Count | None = None
    trained_parameters: Count | None = None
    series: tuple[Series, ...] = ()


def _strongest(figures: list[tuple[str, Figure | None]]) -> WorstCase | None:
    known = [(name, figure) for name, figure in figures if figure is not None and figure.value is not None]
    if not known:
        return None
    # `max` keeps the first of equals.
    name, figure = max(known, key=lambda pair: -1.0 if pair[1].value is None else pair[1].value)
    return WorstCase(attack=name, figure=figure)
