"""Each published loss on numbers small enough to be worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from jpu.unlearning.defences.adaptive_rmu import adaptive_length
from jpu.unlearning.defences.circuit_breakers import coefficients, keeping_loss, rerouting_loss
from jpu.unlearning.defences.dpo import dpo_loss
from jpu.unlearning.defences.eraser import capped_loss
from jpu.unlearning.defences.gradient_difference import ascent_loss
from jpu.unlearning.defences.lat import away_loss, projected, toward_loss
from jpu.unlearning.defences.npo import npo_loss
from jpu.unlearning.defences.refusal_sft import supervised_loss
from jpu.unlearning.defences.rmu import steering_loss
from jpu.unlearning.defences.safe_unlearning import unlearning_loss

LN2, LN3 = math.log(2), math.log(3)


def logs(*probabilities: float) -> Tensor:
    return torch.tensor(probabilities).log()


def slope(loss: Tensor, at: Tensor) -> list[float]:
    found: list[float] = torch.autograd.grad(loss, at)[0].tolist()
    return found


def test_refusal_sft_is_the_mean_nll_of_the_refusals() -> None:
    # Tokens of probability 1/2, 1/2 and 1/4: (ln 2 + ln 2 + 2 ln 2) / 3.
    assert float(supervised_loss(-logs(0.5, 0.5, 0.25))) == pytest.approx(4 / 3 * LN2)


def test_gradient_difference_is_its_negative_on_the_leaks() -> None:
    assert float(ascent_loss(-logs(0.5, 0.5, 0.25))) == pytest.approx(-4 / 3 * LN2)


def test_npo_is_eq_3() -> None:
    # π_θ/π_0 = 4 and β = 1/2: (2/β) ln(1 + 4^β) = 4 ln 3; π_θ = π_0: 4 ln 2. Their mean is 2 ln 6.
    now = (logs(0.2, 0.3)).requires_grad_()
    loss = npo_loss(now, logs(0.05, 0.3), 0.5)
    assert loss.item() == pytest.approx(2 * (LN3 + LN2), rel=1e-5)
    # dL/dlog π = (2/n) r^β / (1 + r^β): 1 · 2/3 and 1 · 1/2, less the less likely a leak has become.
    assert slope(loss, now) == pytest.approx([2 / 3, 1 / 2], rel=1e-5)


def test_npo_becomes_gradient_ascent_for_a_small_beta() -> None:
    now, before = logs(0.2, 0.3).requires_grad_(), logs(0.05, 0.6)
    tiny = npo_loss(now, before, 1e-3)
    # (2/β) ln 2 + mean log-ratio + O(β)
    ascent = (now - before).mean().item()
    assert tiny.item() - 2e3 * LN2 == pytest.approx(ascent, abs=2e-3)
    assert slope(tiny, now) == pytest.approx([0.5, 0.5], rel=1e-3)


def test_dpo_is_eq_7() -> None:
    # Ratios 2 for the refusal and 1/4 for the leak, β = 1/3: -ln σ(ln 8 / 3) = -ln σ(ln 2) = ln 3/2. Equal ones: ln 2.
    preferred, rejected = logs(2.0, 0.7).requires_grad_(), logs(0.25, 0.7)
    loss = dpo_loss(preferred, rejected, 1 / 3)
    assert loss.item() == pytest.approx((math.log(1.5) + LN2) / 2, rel=1e-5)
    # -β σ(-β Δ) / n: -(1/3)(1/3)/2 and -(1/3)(1/2)/2
    assert slope(loss, preferred) == pytest.approx([-1 / 18, -1 / 12], rel=1e-5)


def test_eraser_ends_at_its_threshold() -> None:
    near, far = -logs(0.5, 0.125), -logs(0.01)
    # The mean NLL is 2 ln 2 = 1.386.
    assert float(capped_loss(near, 1.8)) == pytest.approx(1.8 - 2 * LN2)
    assert float(capped_loss(far, 1.8)) == 0.0


def test_safe_unlearning_counts_tokens_and_not_answers() -> None:
    # Two answers: 3 tokens with a log-ratio of ln 27 together, and one unchanged. Per token ln 3: -ln σ(-ln 3) = ln 4.
    total, tokens = torch.tensor([math.log(27.0), 0.0]), torch.tensor([3, 2])
    loss = unlearning_loss(total / tokens, torch.zeros(2), 1.0)
    assert loss.item() == pytest.approx((math.log(4) + LN2) / 2, rel=1e-5)


def test_rmu_steers_to_a_vector() -> None:
    # (1, 0) and (0, 3) to (2, 2): squares (1 + 4) and (4 + 1), over two tokens and a width of 2.
    stream = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    assert float(steering_loss(stream, torch.tensor([2.0, 2.0]))) == pytest.approx(10 / 4)


def test_adaptive_rmu_steers_as_far_as_the_stream_is_long() -> None:
    # Lengths 5 and 1: a mean of 3.
    assert adaptive_length(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), 5.0) == pytest.approx(15.0)


def test_circuit_breakers_are_algorithm_1() -> None:
    # Cosines 1, 0 (orthogonal) and -1, which the ReLU leaves out; lengths do not matter.
    before = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    now = torch.tensor([[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    assert float(rerouting_loss(now, before)) == pytest.approx(1 / 3)
    # Distances 5 and 0.
    moved = torch.tensor([[3.0, 4.0], [1.0, 1.0]])
    assert float(keeping_loss(moved, torch.tensor([[0.0, 0.0], [1.0, 1.0]]))) == pytest.approx(2.5, abs=1e-5)
    assert [coefficients(step, 150, 10.0) for step in (0, 75, 150)] == [(10.0, 0.0), (7.5, 2.5), (5.0, 5.0)]


def test_the_distance_that_is_kept_has_a_gradient_where_there_is_none() -> None:
    now = torch.zeros(1, 2, requires_grad=True)
    assert slope(keeping_loss(now, torch.zeros(1, 2)), now)[0] == [0.0, 0.0]


def test_the_cosine_is_stationary_where_nothing_has_moved() -> None:
    """Why a LoRA that starts at zero has to be perturbed."""
    before = torch.tensor([[0.6, 0.8]])
    still, moved = before.clone().requires_grad_(), (before + torch.tensor([[0.01, 0.0]])).requires_grad_()
    (flat,), (steep,) = slope(rerouting_loss(still, before), still), slope(rerouting_loss(moved, before), moved)
    assert max(map(abs, flat)) < 1e-6 < 1e-3 < max(map(abs, steep))


def test_lat_is_eq_1_to_3() -> None:
    log_p = logs(0.5, 0.25)
    assert float(toward_loss(log_p)) == pytest.approx(1.5 * LN2)
    # -(ln 1/2 + ln 3/4) / 2
    assert float(away_loss(log_p)) == pytest.approx((LN2 + math.log(4 / 3)) / 2)
    assert math.isfinite(float(away_loss(torch.zeros(1))))


def test_lat_projects_each_token_to_its_ball() -> None:
    delta = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    expected = torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]])
    assert torch.allclose(projected(delta, torch.tensor(1.0)), expected)
