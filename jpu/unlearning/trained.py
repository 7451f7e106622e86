"""What of a model a defence may move: a path's units, other weights as a LoRA or densely, or both. Knows no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
Modules = Literal[
    "attention", "mlp", "linear",
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
]  # fmt: skip
_GROUPS: dict[str, tuple[str, ...]] = {"attention": ATTENTION, "mlp": MLP, "linear": (*ATTENTION, *MLP)}


@dataclass(frozen=True)
class Trained:
    """The trained part of a model.

    Every form is an ordinary LoRA: the rows or columns of a path's units are one with a frozen one-hot factor, and the
    whole of a matrix is the same with all of its units chosen. So M_0 is always the same weights with the adapter
    disabled, and what is saved always loads, merges and joins in one way. Embeddings, norms and the head stay.

    Attributes:
        path: Whether the units of the identified path move, each with all of its weights.
        modules: What the LoRA is on, besides: a group of a layer's matrices, or one of them.
        rank: Its rank; 0 for none, "dense" for the matrices themselves, every entry of them.
        layers: Layers that it is in; None for all.
    """

    path: bool = True
    modules: Modules = "attention"
    rank: int | Literal["dense"] = 0
    layers: Sequence[int] | None = None

    @property
    def named(self) -> tuple[str, ...]:
        """The matrices of a layer by name; none where the rank is 0."""
        return _GROUPS.get(self.modules, (self.modules,)) if self.rank else ()


def at_depth(depth: float, layers: int) -> int:
    """The layer that lies as deep in a model of so many layers as layer `depth` · 32 lies in one of 32."""
    return min(layers - 1, round(depth * layers))
