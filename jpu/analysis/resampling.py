"""Bootstrap over behaviors for figures that are no means: overlaps of sets that are chosen anew in every resample.

A set of the largest of something is chosen from a mean over behaviors, so a resample draws behaviors with
replacement, weighs each by how often it was drawn, and chooses again. A resample holds fewer different behaviors than
the sample, its means are noisier, and sets chosen from noisier means agree less: resampled overlaps lie below the one
that was measured, as that one lies below the overlap that ever more behaviors would give. So intervals are the basic
ones of the bootstrap, reflected at the estimate (Davison and Hinkley, 1997, eq. 5.6), and not percentiles. [ours]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Interval:
    """A figure with its interval; without one where there was nothing to resample."""

    value: float
    low: float | None
    high: float | None


class Draws:
    """How often each behavior is drawn in each resample; the same draws for whatever is about the same behaviors.

    Args:
        groups: Names of behaviors that are drawn among each other; a name belongs to the first group that has it.
        resamples: R.
        seed: Seed of the draws.
    """

    def __init__(self, groups: Sequence[Sequence[str]], resamples: int, seed: int) -> None:
        self.resamples = resamples
        self._counts: dict[str, np.ndarray] = {}
        rng = np.random.default_rng(seed)
        for group in groups:
            names = [name for name in dict.fromkeys(group) if name not in self._counts]
            if names:
                drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
                self._counts |= {name: drawn[:, i] for i, name in enumerate(names)}

    def weights(self, names: Sequence[str]) -> Tensor:
        """(R + 1, names) float32, each row summing to 1; the first row weighs all alike and is the sample itself.

        A resample in which none of these behaviors was drawn weighs all alike as well.
        """
        counts = np.stack([self._counts[name] for name in names], 1).astype(np.float32)
        counts[counts.sum(1) == 0] = 1.0
        rows = np.concatenate([np.ones((1, len(names)), np.float32), counts])
        return torch.from_numpy(rows / rows.sum(1, keepdims=True))


def interval(figures: Tensor, confidence: float, *, bounds: tuple[float, float] | None = (0.0, 1.0)) -> Interval:
    """The first of (R + 1,) figures is the estimate, the others are those of the resamples.

    Args:
        figures: Estimate and resamples.
        confidence: Coverage.
        bounds: Where the figure can lie; None for anywhere.
    """
    value = float(figures[0])
    if len(figures) < 2:
        return Interval(value, None, None)
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(figures[1:].double().numpy(), [tail, 1 - tail])
    low, high = 2 * value - float(upper), 2 * value - float(lower)
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    # Reflected ends can lie on one side of the estimate, where nearly all resamples do.
    return Interval(value, min(low, value), max(high, value))
