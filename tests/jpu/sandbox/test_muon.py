from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jpu.sandbox.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (8, 3), (1, 4)])
def test_singular_vectors_stay_and_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    batch = torch.randn(4, *shape, dtype=torch.float64)
    found = orthogonalise(batch)
    for before, after in zip(batch, found, strict=True):
        u, s, vt = torch.linalg.svd(before, full_matrices=False)
        values = u.T @ after @ vt.T
        assert torch.allclose(values, torch.diag(values.diagonal()), atol=1e-9)
        known = values.diagonal()[s / s.norm() > 0.02]
        assert len(known) and ((known > 0.6) & (known < 1.25)).all()


def test_one_iteration_by_hand() -> None:
    # Singular values 3 and 4, divided by their norm 5; then 3.4445 s − 4.775 s³ + 2.0315 s⁵.
    s = torch.tensor([0.6, 0.8], dtype=torch.float64)
    expected = torch.diag(3.4445 * s - 4.775 * s**3 + 2.0315 * s**5)
    found = orthogonalise(torch.diag(torch.tensor([3.0, 4.0], dtype=torch.float64))[None], steps=1)[0]
    assert torch.allclose(found, expected)


def test_a_matrix_without_gradient_direction_stays_finite() -> None:
    assert orthogonalise(torch.zeros(2, 3, 3)).abs().sum() == 0


def test_a_step_by_hand() -> None:
    p, idle = torch.nn.Parameter(torch.zeros(2, 8)), torch.nn.Parameter(torch.ones(2, 8))
    optimizer = Muon([p, idle], lr=0.5, momentum=0.75)
    mean = torch.zeros(2, 8)
    expected = torch.zeros(2, 8)
    torch.manual_seed(1)
    for _ in range(3):
        gradient = torch.randn(2, 8)
        p.grad = gradient.clone()
        optimizer.step()
        mean = 0.75 * mean + 0.25 * gradient
        expected = expected - 0.5 * 0.2 * 8**0.5 * orthogonalise((0.25 * gradient + 0.75 * mean)[None])[0]
        assert torch.allclose(p.detach(), expected, atol=1e-6)
    assert torch.equal(idle.detach(), torch.ones(2, 8))


def test_matrices_of_one_shape_do_not_touch_each_other() -> None:
    torch.manual_seed(2)
    gradients = [torch.randn(4, 6) for _ in range(3)]

    def moved(chosen: list[Tensor]) -> list[Tensor]:
        parameters = [torch.nn.Parameter(torch.zeros(4, 6)) for _ in chosen]
        for p, gradient in zip(parameters, chosen, strict=True):
            p.grad = gradient.clone()
        Muon(parameters, lr=0.1).step()
        return [p.detach() for p in parameters]

    together = moved(gradients)
    for gradient, one in zip(gradients, together, strict=True):
        assert torch.allclose(moved([gradient])[0], one, atol=1e-6)
