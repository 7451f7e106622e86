from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from jpu.evaluation.divergence import divergence
from jpu.models import Subject
from jpu.unlearning.retain import RetainPair

Make = Callable[..., Subject]

PAIRS = [
    RetainPair(prompt, answer, "benign", False, "e")
    for prompt, answer in (
        ("Hi", "Yes."),
        ("A longer question, is it?", "The code is amber."),
        ("x", "A"),
        ("Hi", "No."),
    )
]


def log_probabilities(subject: Subject, pair: RetainPair) -> torch.Tensor:
    head, tail = subject.prompt_ids(pair.prompt), subject.answer_ids(pair.answer)
    with torch.no_grad():
        logits: torch.Tensor = subject.model(input_ids=torch.tensor([head + tail]), use_cache=False).logits[0]
    return logits[len(head) - 1 : -1].double().log_softmax(-1)


@pytest.mark.parametrize("batch_tokens", [1, 60, 4096])
def test_each_pair_is_measured_as_if_alone(make_subject: Make, adapt: Make, batch_tokens: int) -> None:
    bare, moved = make_subject(), adapt(make_subject())
    found = divergence(moved, PAIRS, batch_tokens=batch_tokens)
    for i, pair in enumerate(PAIRS):
        reference, current = log_probabilities(bare, pair), log_probabilities(moved, pair)
        assert found.kl[i] == pytest.approx(float((reference.exp() * (reference - current)).sum(-1).mean()), abs=1e-4)
        assert found.tokens[i] == len(reference)
    prompts, answers = [p.prompt for p in PAIRS], [p.answer for p in PAIRS]
    assert found.nll == pytest.approx(moved.nll(prompts, answers).tolist(), abs=1e-4)
    assert found.nll_before == pytest.approx(bare.nll(prompts, answers).tolist(), abs=1e-4)


def test_logits_in_parts_are_measured_alike(make_subject: Make, adapt: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = adapt(make_subject())
    whole = divergence(subject, PAIRS)
    monkeypatch.setattr("jpu.models.scoring._LOGITS", 4 * len(subject.tokenizer))
    parts = divergence(subject, PAIRS)
    assert parts.kl == pytest.approx(whole.kl, abs=1e-6) and parts.nll == pytest.approx(whole.nll, abs=1e-6)


def test_a_model_has_not_moved_from_itself(make_subject: Make, adapt: Make) -> None:
    bare = divergence(make_subject(), PAIRS)
    assert bare.kl == [0.0] * 4 and bare.nll == bare.nll_before
    subject = adapt(make_subject())
    with subject.reference():
        assert divergence(subject, PAIRS) == bare


def test_nothing_to_measure(make_subject: Make) -> None:
    assert divergence(make_subject(), []).kl == []
