"""Safety against utility: what of the safety gradient undoes the retain gradient, taken out.

agem: g_s ← g_s − (g_s·g_r / g_r·g_r) g_r where g_s·g_r < 0, and g_r is added to it.
      A-GEM's projection (Chaudhry et al., 2019, arXiv 1812.00420, eq. 11); that g_r is added is ours: the retain term
      is a loss here, not only a bound.
pcgrad: both are projected so, each against the other as it was, and added.
      PCGrad for two tasks (Yu et al., 2020, arXiv 2001.06782, algorithm 1). [faithful]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Conflict = Literal["none", "agem", "pcgrad"]


def joined(safety: Sequence[Tensor], retain: Sequence[Tensor], how: Conflict) -> list[Tensor]:
    """The gradient that is stepped along.

    Args:
        safety: Gradient of all but the retain term, one tensor for each parameter.
        retain: Gradient of the retain term.
        how: How a conflict between them is resolved.
    """
    product = _dot(safety, retain)
    if how == "none" or product >= 0:
        return [s + r for s, r in zip(safety, retain, strict=True)]
    of_retain = product / _dot(retain, retain)
    of_safety = product / _dot(safety, safety) if how == "pcgrad" else torch.zeros_like(product)
    return [s - of_retain * r + r - of_safety * s for s, r in zip(safety, retain, strict=True)]


def _dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a.float() * b.float()).sum() for a, b in zip(one, other, strict=True)]).sum()
