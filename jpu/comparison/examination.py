"""Everything that is measured of one defended model, as counts and numbers of a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jpu.comparison.after_attacks import AfterProtocol, after_attacks
from jpu.comparison.outcomes import Entities, attack_outcomes, utility_outcomes
from jpu.comparison.rows import Outcome, named
from jpu.data.schemas import Behavior
from jpu.evaluation.evaluate import Evaluation
from jpu.models import Subject

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Examined:
    """What was found.

    Attributes:
        entities: Name → digests of entities.
        outcomes: Name of a share → its counts.
        figures: Name → other numbers.
        not_run: Attack → why it was left out.
    """

    entities: dict[str, tuple[str, ...]]
    outcomes: dict[str, Outcome]
    figures: dict[str, float | None]
    not_run: dict[str, str]


def examine(
    subject: Subject,
    evaluation: Evaluation,
    train: Sequence[Behavior],
    after: AfterProtocol | None,
    *,
    reference: bool = False,
    report: Report | None = None,
) -> Examined:
    """Attack, probe and judge a model, and copies of its weights.

    Args:
        subject: The defended model.
        evaluation: Data and attacks.
        train: Behaviors that copies may be fine-tuned on.
        after: What is done to copies; None for nothing.
        reference: Measure M_0, the same subject with its adapter disabled.
        report: Called with what is being done, done and total.
    """
    if reference:
        with subject.reference():
            return examine(subject, evaluation, train, after, report=report)
    entities = Entities.of(list(evaluation.behaviors.values()))
    measured = evaluation.measure(subject, report=report)
    outcomes = attack_outcomes(measured.judged, entities) | utility_outcomes(measured.probes, measured.judged, entities)
    figures: dict[str, float | None] = {}
    for name in ("kl", "perplexity"):
        estimate = measured.metrics[name]
        figures[name] = None if estimate is None else estimate.value
    if after is not None:
        told = None if report is None else lambda what: report(what, 1, 1)
        found = after_attacks(subject, evaluation, train, after, entities, told=told)
        outcomes |= found.outcomes
        figures |= found.figures
    lists = {name: named(members) for name, members in entities.as_dict().items()}
    return Examined(lists, outcomes, figures, measured.not_run)
