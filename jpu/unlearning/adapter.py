"""The path adapter: an ordinary LoRA whose frozen factor is the choice of the path's units.

Training only the gate and up rows and the down columns of k neurons is a rank-k LoRA (docs/method.md 3):

    gate, up:   ΔW = E·A    E one-hot (d_ff, k), frozen;  A (k, d) trained from 0
    down:       ΔW = B·Eᵀ   Eᵀ one-hot (k, d_ff), frozen; B (d, k) trained from 0

A path's heads are rank-d_head blocks of the same form: rows of q, k and v, columns of o. With grouped queries the key
and value rows of a head are those of its group, and move for all heads of it. Beside the path or instead of it,
matrices of all layers or some can be trained by a plain LoRA, or densely, all of their units chosen
(jpu/unlearning/trained.py).

Every module's rank stands in ``rank_pattern`` under its full name, alpha = rank (scaling 1); modules without rank are
left out. So the adapter loads wherever LoRA loads and merges exactly, and M_0 is the same weights with it disabled.
Rounds join by union: units trained before keep what they have learned, new ones start from 0.
"""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from jpu.errors import ModelError
from jpu.paths.path import Path
from jpu.unlearning.adapter_check import WEIGHTS
from jpu.unlearning.adapter_folder import read_factors, write_factors
from jpu.unlearning.factors import Factors, joined, new_factors
from jpu.unlearning.trained import Trained

_NAME = "default"


def attach(
    model: Any,
    path: Path,
    trained: Trained = Trained(),  # noqa: B008 (frozen)
    *,
    previous: pathlib.Path | Mapping[str, Factors] | None = None,
    seed: int = 0,
) -> PeftModel:
    """Put a trainable path adapter on a bare model.

    Args:
        model: The bare Llama-like model; PEFT wraps its modules in place.
        path: Neurons and heads to train, if `trained` says so.
        trained: What is trained: the path alone by default.
        previous: Adapter folder of the round before (round 0's counts as none), or factors of `detach`, to join with.
        seed: Of a LoRA's start.

    Returns:
        The wrapped model; it computes what `previous` computed, or what the bare model does.

    Raises:
        ModelError: Nothing to train, a unit that the model does not have, weights trained in two ways, or a previous
            adapter that does not fit.
    """
    if isinstance(model, PeftModel):
        raise ModelError("the model already has an adapter", mend="Detach it first.")
    factors = new_factors(model, path, trained, seed)
    where = str(previous) if isinstance(previous, pathlib.Path) else None
    old = read_factors(previous) if isinstance(previous, pathlib.Path) else dict(previous or {})
    _check_fit(model, old, where)
    for name, before in old.items():
        factors[name] = joined(name, before, factors[name], where) if name in factors else before
    if not factors:
        raise ModelError(
            "nothing to train: no neurons, no heads, no LoRA", mend="Raise paths.neurons or unlearning.trained.rank."
        )
    return _wrap(model, factors, trainable=True)


def detach(model: PeftModel) -> tuple[Any, dict[str, Factors]]:
    """Take the adapter off: the bare model, and the factors to attach again with a larger path."""
    factors = adapter_factors(model)
    return model.unload(), factors


def save_adapter(model: PeftModel, folder: pathlib.Path) -> None:
    """Write the adapter as a PEFT folder, whole or not at all; equal adapters give equal bytes. Raises StorageError."""
    write_factors(folder, adapter_factors(model))


def load_adapter(model: Any, folder: pathlib.Path, *, trainable: bool = False) -> PeftModel:
    """Put a saved adapter on a bare model.

    Args:
        model: The bare model that the adapter was trained on.
        folder: Adapter folder, of this project or any plain LoRA.
        trainable: Whether to go on training; the one-hot factors stay frozen either way.

    Raises:
        ModelError: The folder is incomplete or corrupted, does not fit the model, or holds no adapter (round 0).
    """
    if isinstance(model, PeftModel):
        raise ModelError("the model already has an adapter", mend="Detach it first.")
    factors = read_factors(folder)
    if not factors:
        raise ModelError("no adapter in this folder", where=str(folder), mend="Use the model as it is.")
    _check_fit(model, factors, str(folder / WEIGHTS))
    return _wrap(model, factors, trainable=trainable)


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name → parameter of everything that training may change, in the order of the names."""
    return {name: part for name, part in sorted(model.named_parameters()) if part.requires_grad}


def adapter_factors(model: nn.Module) -> dict[str, Factors]:
    """Copies of the adapter's factors by the full names of their modules, on the CPU in float32."""
    factors = {}
    for name, module in _lora_modules(model).items():
        scaling = float(module.scaling[_NAME])
        a, b = module.lora_A[_NAME].weight, module.lora_B[_NAME].weight
        factors[name] = Factors(_copy(a), _copy(b), scaling * a.shape[0])
    return factors


def adapter_path(factors: Mapping[str, Factors]) -> Path:
    """The neurons that an adapter trains, read off its one-hot factors (heads and attention are not listed)."""
    suffix = ".mlp.gate_proj"
    return Path({int(name.split(".")[-3]): part.units for name, part in factors.items() if name.endswith(suffix)})


def _wrap(model: Any, factors: Mapping[str, Factors], *, trainable: bool) -> PeftModel:
    """Inject the factors; PEFT's own random start is overwritten, and its draw undone."""
    rank = max(part.rank for part in factors.values())
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=sorted(factors),
        rank_pattern={name: part.rank for name, part in factors.items()},
        alpha_pattern={name: part.alpha for name, part in factors.items()},
        task_type="CAUSAL_LM",
        inference_mode=not trainable,
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT asks transformers by a name that transformers 5 announces to retire.
        warnings.filterwarnings("ignore", message=".is_gradient_checkpointing", category=FutureWarning)
        wrapped: PeftModel = get_peft_model(model, config)
    for name, module in _lora_modules(wrapped).items():
        a, b = module.lora_A[_NAME].weight, module.lora_B[_NAME].weight
        with torch.no_grad():
            a.copy_(factors[name].a)
            b.copy_(factors[name].b)
        a.requires_grad_(trainable and factors[name].fixed != "a")
        b.requires_grad_(trainable and factors[name].fixed != "b")
    return wrapped


def _check_fit(model: Any, factors: Mapping[str, Factors], where: str | None) -> None:
    """Hold factors against the model's modules, before anything is changed."""
    modules = dict(model.named_modules())
    for name, part in factors.items():
        module = modules.get(name)
        if not isinstance(module, nn.Linear):
            raise ModelError(
                f"the model has no linear module {name!r}",
                where=where,
                mend="Use the model it was trained on.",
            )
        shape = (part.b.shape[0], part.a.shape[1])
        if tuple(module.weight.shape) != shape:
            raise ModelError(
                f"{name!r} changes a weight of shape {shape}, the model's is {tuple(module.weight.shape)}",
                where=where,
                mend="Use the model it was trained on.",
            )


def _lora_modules(model: nn.Module) -> dict[str, Any]:
    """Full name in the bare model → LoRA module of our adapter."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return {
        name: module
        for name, module in base.named_modules()
        if isinstance(module, LoraLayer) and _NAME in module.lora_A
    }


def _copy(weight: Tensor) -> Tensor:
    return weight.detach().to("cpu", torch.float32, copy=True)
