from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from jpu.errors import ModelError, SubjectError
from jpu.mining.refusal import calibrate_tau, refusal_loss


class Scripted:
    """Losses by (prompt, answer); counts calls and notices whether M_0 was asked."""

    def __init__(self, losses: dict[tuple[str, str], float]) -> None:
        self.losses = losses
        self.calls = 0
        self.as_reference = False
        self.asked_reference: list[bool] = []

    def nll(self, prompts: Sequence[str], answers: Sequence[str]) -> Tensor:
        self.calls += 1
        self.asked_reference.append(self.as_reference)
        return torch.tensor([self.losses[pair] for pair in zip(prompts, answers, strict=True)])

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        self.as_reference = True
        yield
        self.as_reference = False


def test_least_loss_over_the_wordings_in_one_call() -> None:
    subject = Scripted({("p", "no"): 2.0, ("p", "sorry"): 0.25, ("q", "no"): 1.0, ("q", "sorry"): 3.0})
    assert refusal_loss(subject, ["p", "q"], ["no", "sorry"]).tolist() == [0.25, 1.0]
    assert subject.calls == 1


def test_no_prompts_give_no_losses_and_no_call() -> None:
    subject = Scripted({})
    assert refusal_loss(subject, [], ["no"]).shape == (0,)
    assert subject.calls == 0


def test_no_refusals_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one refusal"):
        refusal_loss(Scripted({}), ["p"], [])


def test_broken_weights_are_reported() -> None:
    with pytest.raises(ModelError, match="not finite"):
        refusal_loss(Scripted({("p", "no"): float("nan")}), ["p"], ["no"])


def test_tau_is_the_quantile_over_refused_queries_under_the_reference() -> None:
    subject = Scripted({(q, "no"): loss for q, loss in zip("abcd", (0.1, 0.2, 0.3, 9.0), strict=True)})
    found = calibrate_tau(subject, "abcd", ["no"], refused=[True, True, True, False], quantile=0.5, floor=0.0)
    assert found.tau == pytest.approx(0.2)
    assert (found.queries, found.refused) == (4, 3)
    assert subject.asked_reference == [True]


def test_tau_has_a_floor() -> None:
    subject = Scripted({("a", "no"): 0.001})
    found = calibrate_tau(subject, ["a"], ["no"], refused=[True], floor=0.05)
    assert found.tau == 0.05 and found.quantile_loss == pytest.approx(0.001)


def test_a_subject_that_refuses_nothing_is_reported() -> None:
    with pytest.raises(SubjectError, match="refuses none of 2"):
        calibrate_tau(Scripted({}), ["a", "b"], ["no"], refused=[False, False])


@pytest.mark.parametrize("options", [{"quantile": 1.5, "refused": [True]}, {"refused": [True, False]}])
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        calibrate_tau(Scripted({("a", "no"): 1.0}), ["a"], ["no"], **options)
