from __future__ import annotations

import pytest
import torch

from jpu.unlearning.conflict import Conflict, joined

SAFETY, RETAIN = [torch.tensor([1.0]), torch.tensor([0.0])], [torch.tensor([-1.0]), torch.tensor([1.0])]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        # g_s·g_r = -1, |g_r|² = 2, |g_s|² = 1.
        ("none", [0.0, 1.0]),
        # g_s + g_r/2 = (1/2, 1/2), and g_r.
        ("agem", [-0.5, 1.5]),
        # … and g_r + g_s = (0, 1).
        ("pcgrad", [0.5, 1.5]),
    ],
)
def test_a_conflict_by_hand(how: Conflict, expected: list[float]) -> None:
    assert torch.cat(joined(SAFETY, RETAIN, how)).tolist() == expected


@pytest.mark.parametrize("how", ["none", "agem", "pcgrad"])
def test_gradients_at_peace_are_added(how: Conflict) -> None:
    assert torch.cat(joined(SAFETY, [-r for r in RETAIN], how)).tolist() == [2.0, -1.0]
    nothing = [torch.zeros(1), torch.zeros(1)]
    assert torch.cat(joined(SAFETY, nothing, how)).tolist() == [1.0, 0.0]
