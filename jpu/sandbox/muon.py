"""Muon (Jordan et al. 2024): the momentum of a matrix is made orthogonal before it is applied.

Rare directions then move as far as common ones, and the facts of a sandbox are rare directions: a subject that starts
from nothing learns them in about two thirds of the steps that AdamW takes. `torch.optim.Muon` orthogonalises in
bfloat16, one matrix after the other, which on a CPU without bfloat16 units takes longer than the training step itself
(docs/decisions.md); here all matrices of a shape go through at once, in their own precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# Coefficients of the quintic iteration: steepest at 0, so that few steps are enough; 1 is reached only roughly.
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Bring the singular values of each matrix near 1, and leave its singular vectors (Newton–Schulz iteration).

    Args:
        matrices: (n, rows, columns).
        steps: Iterations; more reach smaller singular values.

    Returns:
        The same shape; singular values within about 0.7 to 1.2, where they were not tiny beside the largest.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; no weight decay.

    Args:
        matrices: Two-dimensional parameters.
        lr: Learning rate. A step has the root mean square of AdamW's (0.2 · lr; Liu et al. 2025, arXiv 2502.16982), so
            that one rate serves both.
        momentum: Share of the running mean that is kept.
        steps: Iterations of `orthogonalise`.
    """

    def __init__(self, matrices: Iterable[Tensor], lr: float, momentum: float = 0.95, steps: int = 5) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "steps": steps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient; a closure is not called."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    alike.setdefault(p.shape, []).append(p)
            for shape, matrices in alike.items():
                update = orthogonalise(torch.stack([self._momentum(p, group) for p in matrices]), group["steps"])
                rate = group["lr"] * 0.2 * max(shape) ** 0.5
                torch._foreach_add_(matrices, list(update.unbind()), alpha=-rate)

    def _momentum(self, p: Tensor, group: dict[str, Any]) -> Tensor:
        """The Nesterov look-ahead of the running mean of the gradients."""
        assert p.grad is not None
        state = self.state[p]
        if "mean" not in state:
            state["mean"] = torch.zeros_like(p)
        mean: Tensor = state["mean"].lerp_(p.grad, 1 - group["momentum"])
        return p.grad.lerp(mean, group["momentum"])
