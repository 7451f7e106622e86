"""Adaptive RMU: the length of what RMU steers to follows that of the stream which it replaces.

    L = E ‖h_θ(t) − β ‖h_0(t)‖ u‖² on leaks, plus α · E ‖h_θ(t) − h_0(t)‖² on the retain set

Dang et al., 2025, arXiv 2408.06223, section 5; β = 5, α = 1200, layer 7 of 32. A fixed c is too short in late layers,
whose streams are long, and does nothing there.

faithful: the losses. inferred: the norm is M_0's mean over a step's tokens; the authors' code takes that of the first
step for all. All else as in `rmu.py`.
"""

from __future__ import annotations

from torch import Tensor

from jpu.unlearning.defences.rmu import Misdirection
from jpu.unlearning.defences.settings import AdaptiveRmuSettings
from jpu.unlearning.streams import reference_streams


def adaptive_length(stream: Tensor, scale: float) -> float:
    """β times the mean length of M_0's streams (t, width)."""
    return scale * float(stream.norm(dim=-1).mean())


class AdaptiveRmu(Misdirection[AdaptiveRmuSettings]):
    """Steering to a vector that is β times as long as the stream was."""

    name = "adaptive_rmu"
    cite = "Dang et al., 2025, arXiv 2408.06223, section 5"

    def length(self, ids: Tensor, keep: Tensor) -> float:
        """β ‖h_0‖."""
        (stream,) = reference_streams(self.subject, self.stream_layers(), ids, keep)
        return adaptive_length(stream, self.settings.scale)
