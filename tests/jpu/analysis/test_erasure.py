from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch

from jpu.analysis.causal import Case, respond
from jpu.analysis.erasure import Erasure, erase
from jpu.analysis.sensitivity import layer_weights
from jpu.data.schemas import Behavior
from jpu.models import Subject
from jpu.unlearning.defences.settings import DefenceSettings, GradientDifferenceSettings, NpoSettings
from jpu.unlearning.retain import RetainMix, build_retain


@pytest.mark.parametrize("defence", [NpoSettings(), GradientDifferenceSettings()], ids=lambda d: d.name)
def test_answers_to_bare_questions_are_unlearned(
    make_subject: Callable[..., Subject], behaviors: list[Behavior], defence: DefenceSettings
) -> None:
    subject, plain = make_subject(), make_subject()
    train = [b for b in behaviors if b.split == "train"]
    restricted = [b for b in train if b.kind == "restricted"]
    cases = [Case(b.query, b.answer, b.secret, b.id) for b in restricted]
    before = respond(subject, cases, 2).probability
    retain = build_retain(train, [], {}, 8, RetainMix(direct=0.0), random.Random(0))
    erasure = Erasure(defence, steps=12, batch=2, retain_batch=2, learning_rate=3e-3)
    done = erase(subject, restricted, {}, retain, erasure, "seed")
    assert [row["step"] for row in done.history] == list(range(1, 13))
    after = respond(subject, cases, 2).probability
    assert sum(after) < 0.5 * sum(before)
    # M_0 is still there, and every layer has moved; nothing is left to be trained.
    with subject.reference():
        assert respond(subject, cases, 2).probability == pytest.approx(before)
        assert torch.equal(layer_weights(subject, 0), layer_weights(plain, 0))
    for layer in (0, 1):
        assert (layer_weights(subject, layer) != layer_weights(plain, layer)).float().mean() > 0.9
    assert not any(p.requires_grad for p in subject.model.parameters())
