"""An erased model M_e: M_0 with its restricted answers unlearned on bare questions, by a published defence.

Jailbreaks are no part of what is unlearned: the analysis asks by which way they get through afterwards. All matrices
of the decoder are trained, so that what was erased is a question of each weight, and not of a low rank. [C: gradient
difference, NPO; O: on bare questions, and how long]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jpu.data.schemas import PLACEHOLDER, Behavior
from jpu.mining.entry import make_entry
from jpu.mining.own import BARE
from jpu.models import Subject
from jpu.paths.path import Path
from jpu.unlearning.adapter import attach
from jpu.unlearning.defences.base import Materials
from jpu.unlearning.defences.registry import get_defence
from jpu.unlearning.defences.settings import DefenceSettings
from jpu.unlearning.leaks import split_leak
from jpu.unlearning.mined import Mined
from jpu.unlearning.retain import ReferenceDistribution, RetainPair
from jpu.unlearning.trained import Trained
from jpu.unlearning.training import Outcome, Schedule, Training

# Both are on every entry of a matrix: that is what the analysis asks about.
_TRAINED = Trained(path=False, modules="linear", rank="dense")


@dataclass(frozen=True)
class Erasure:
    """How to erase.

    Attributes:
        defence: Settings of a registered defence, which are also its name.
        steps: Optimiser steps.
        batch: Bare questions a step.
        retain_batch: Retain pairs a step.
        learning_rate: Peak AdamW rate.
    """

    defence: DefenceSettings
    steps: int
    batch: int
    retain_batch: int
    learning_rate: float


def erase(
    subject: Subject,
    restricted: Sequence[Behavior],
    refusals: Mapping[str, str],
    retain: Sequence[RetainPair],
    erasure: Erasure,
    seed: str,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> Outcome:
    """Unlearn the answers to bare questions; the subject is M_e afterwards, and M_0 is its reference.

    Args:
        subject: M_0, without an adapter; changed in place.
        restricted: What is erased, each with its answer.
        refusals: Behavior id → y_ref.
        retain: What must stay.
        erasure: How.
        seed: Of every draw.
        progress: Called with step, steps and the step's losses.

    Raises:
        SettingsError: There is no such defence.
        ModelError: The model is not Llama-like, or has an adapter.
    """
    kind = get_defence(erasure.defence.name)
    kept = ReferenceDistribution(subject, retain)
    subject.model = attach(subject.model, Path(), _TRAINED)
    materials = Materials(
        subject=subject,
        refusals=refusals,
        retain=kept,
        batch=erasure.batch,
        retain_batch=erasure.retain_batch,
        seed=seed,
        leaks={b.id: split_leak(subject, b.answer, b.secret) for b in restricted},
    )
    asked = [
        make_entry(behavior=b.id, template=BARE, family=BARE, text=PLACEHOLDER, query=b.query, split=b.split, round=0)
        for b in restricted
    ]
    schedule = Schedule(
        steps=erasure.steps,
        learning_rate=erasure.learning_rate,
        warmup=min(10, erasure.steps),
        refresh_every=erasure.steps,
        kl_budget=None,
    )
    training = Training(subject, kind(materials, erasure.defence), kept, schedule, seed)
    done = training.run(lambda _: Mined(asked, asked, 1.0), progress=progress)
    subject.model.requires_grad_(False)
    subject.model.eval()
    return done
