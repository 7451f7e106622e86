"""The low-rank factors of one module: a frozen choice of units, or a plain LoRA; made new, and joined over rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from jpu.errors import ModelError
from jpu.paths.activations import columns, decoder_layers, unit_size
from jpu.paths.path import Path
from jpu.unlearning.trained import ATTENTION, MLP, Trained

# Their columns are a unit's own, of all others the rows.
_COLUMNS = ("mlp.down_proj", "self_attn.o_proj")
_ROUND_MEND = "Start this round from round 0, or keep what the previous round trained (unlearning.trained)."


@dataclass(frozen=True)
class Factors:
    """One module's low-rank update ΔW = (alpha / rank) · B·A.

    Attributes:
        a: (rank, inputs) float32.
        b: (outputs, rank) float32.
        alpha: Numerator of the scaling.
    """

    a: Tensor
    b: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """Columns of B."""
        return self.a.shape[0]

    @cached_property
    def fixed(self) -> Literal["a", "b"] | None:
        """Which factor is a one-hot choice of units, and so frozen; None for a LoRA that is trained whole."""
        if _one_hot(self.b):
            return "b"
        return "a" if _one_hot(self.a.T) else None

    @property
    def units(self) -> list[int]:
        """Rows (fixed B) or columns (fixed A) of the weight that are trained, in the order of the rank; else none."""
        if self.fixed is None:
            return []
        chosen = self.b if self.fixed == "b" else self.a.T
        found: list[int] = chosen.argmax(0).tolist()
        return found


def new_factors(model: Any, path: Path, trained: Trained, seed: int) -> dict[str, Factors]:
    """Factors that change nothing yet, for a path's units and for what is trained beside them.

    Args:
        model: The bare model.
        path: Neurons and heads to train; passed over where `trained` has no path.
        trained: What to train.
        seed: Of a LoRA's random factor.

    Returns:
        Module, named in full, → its factors.

    Raises:
        ModelError: A layer or unit that the model does not have, or weights that are to be trained in two ways.
    """
    path = path if trained.path else Path()
    for units, group in ((path.neurons, MLP), (path.heads, ATTENTION)):
        if units and set(group) & set(trained.named):
            what = "path heads and an attention LoRA" if group is ATTENTION else "path neurons and a LoRA on the MLP"
            raise ModelError(
                f"both {what} were asked for",
                mend="Set unlearning.trained.rank to 0, or leave the units of that kind out of the path.",
            )
    layers = decoder_layers(model)
    generator = torch.Generator().manual_seed(seed)
    factors: dict[str, Factors] = {}

    def add(layer: int, module: str, units: Sequence[int], side: Literal["a", "b"]) -> None:
        outputs, inputs = _shape(layers[layer], module)
        limit = outputs if side == "b" else inputs
        if max(units) >= limit:
            raise ModelError(
                f"layer {layer} has no unit {max(units)} in {module}",
                mend="Identify the path on this model again.",
            )
        factors[f"model.layers.{layer}.{module}"] = _at(units, outputs, inputs, side)

    for layer in {*path.neurons, *path.heads, *(trained.layers or ())}:
        if layer >= len(layers):
            raise ModelError(f"the model has no layer {layer}", mend="Identify the path on this model again.")
    for layer, neurons in path.neurons.items():
        add(layer, "mlp.gate_proj", neurons, "b")
        add(layer, "mlp.up_proj", neurons, "b")
        add(layer, "mlp.down_proj", neurons, "a")
    size, groups = unit_size(model, "heads"), _queries_per_key(model)
    for layer, heads in path.heads.items():
        keys = sorted({head // groups for head in heads})
        add(layer, "self_attn.q_proj", columns(heads, size), "b")
        add(layer, "self_attn.k_proj", columns(keys, size), "b")
        add(layer, "self_attn.v_proj", columns(keys, size), "b")
        add(layer, "self_attn.o_proj", columns(heads, size), "a")
    for layer in range(len(layers)) if trained.layers is None else sorted(trained.layers):
        for name in trained.named:
            outputs, inputs = _shape(layers[layer], name)
            if trained.rank == "dense":
                side: Literal["a", "b"] = "a" if name in _COLUMNS else "b"
                add(layer, name, range(inputs if side == "a" else outputs), side)
            else:
                start = torch.empty(trained.rank, inputs)
                nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
                factors[f"model.layers.{layer}.{name}"] = Factors(
                    start, torch.zeros(outputs, trained.rank), trained.rank
                )
    return factors


def _at(units: Sequence[int], outputs: int, inputs: int, side: Literal["a", "b"]) -> Factors:
    """Factors for chosen rows (fixed B) or columns (fixed A) of a weight, the trained one 0."""
    count = len(units)
    choice = torch.zeros(outputs if side == "b" else inputs, count)
    choice[list(units), range(count)] = 1.0
    if side == "b":
        return Factors(torch.zeros(count, inputs), choice, count)
    return Factors(choice.T.contiguous(), torch.zeros(outputs, count), count)


def joined(name: str, before: Factors, new: Factors, where: str | None) -> Factors:
    """The union of two choices of units, or of two plain LoRAs; what was trained before stays.

    Raises:
        ModelError: The two are of different kinds, or the older one is scaled.
    """
    if before.fixed != new.fixed:
        raise ModelError(f"{name} was trained in another way in the previous round", where=where, mend=_ROUND_MEND)
    if not math.isclose(before.alpha, before.rank):
        raise ModelError(f"{name} has a scaling other than 1", where=where, mend=_ROUND_MEND)
    outputs, inputs = before.b.shape[0], before.a.shape[1]
    if before.fixed is None:
        if new.rank <= before.rank:
            return before
        start = torch.cat([before.a, new.a[before.rank :]])
        return Factors(start, torch.cat([before.b, new.b[:, before.rank :]], 1), new.rank)
    units = sorted({*before.units, *new.units})
    joined = _at(units, outputs, inputs, before.fixed)
    kept = [units.index(unit) for unit in before.units]
    if before.fixed == "b":
        joined.a[kept] = before.a
    else:
        joined.b[:, kept] = before.b
    return joined


def _shape(layer: nn.Module, name: str) -> tuple[int, int]:
    module: Any = layer.get_submodule(name)
    outputs, inputs = module.weight.shape
    return int(outputs), int(inputs)


def _queries_per_key(model: Any) -> int:
    config = model.config
    return int(
        config.num_attention_heads // (getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    )


def _one_hot(matrix: Tensor) -> bool:
    """Whether every column is a 1 in a row of its own and 0 elsewhere."""
    single = bool(((matrix == 1).sum(0) == 1).all() and ((matrix != 0).sum(0) == 1).all())
    return single and len(set(matrix.argmax(0).tolist())) == matrix.shape[1]
