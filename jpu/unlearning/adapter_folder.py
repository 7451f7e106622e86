"""LoRA factors on disk: an ordinary PEFT folder, read and written without a model.

The configuration that is written names every module in full with its rank, and nothing of the machine it was made on;
equal factors give equal bytes. Reading trusts nothing: any option that would change the arithmetic, any tensor too
many, too few or of another shape, is refused before a model is touched. Pickled adapters are not read: what may be in
the folder at all is told first (jpu/unlearning/adapter_check.py).
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from jpu.errors import DataError, ModelError
from jpu.files import atomic_folder, read_bytes, read_json, write_bytes, write_json
from jpu.unlearning.adapter_check import CONFIG, KEY, ROUND_ZERO, WEIGHTS, check_adapter
from jpu.unlearning.factors import Factors

_MEND = "Bring the adapter back with `dvc checkout`, or run the unlearn stage of this round again."
# Fields that say nothing about the arithmetic, or that are read here.
_READ = {"peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules"}
_IDLE = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "lora_dropout", "peft_version", "qalora_group_size",
    "revision", "task_type", "megatron_core", "init_lora_weights", "runtime_config", "fan_in_fan_out",
}  # fmt: skip


def write_factors(folder: pathlib.Path, factors: Mapping[str, Factors]) -> None:
    """Write an adapter folder that ``peft.PeftModel.from_pretrained`` reads.

    Args:
        folder: Replaced whole.
        factors: Module, named in full from the bare model, → its factors.

    Raises:
        StorageError: It cannot be written.
    """
    names = sorted(factors)
    # The largest rank with an alpha to match: engines that know no rank_pattern then scale by the same 1.
    rank = max(factors[name].rank for name in names)
    config = {
        "base_model_name_or_path": None,
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {name: factors[name].rank for name in names},
        "alpha_pattern": {name: _number(factors[name].alpha) for name in names},
        "target_modules": names,
        "task_type": "CAUSAL_LM",
    }
    tensors = {}
    for name in names:
        tensors[f"base_model.model.{name}.lora_A.weight"] = factors[name].a.detach().cpu().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = factors[name].b.detach().cpu().contiguous()
    with atomic_folder(folder) as new:
        write_json(new / CONFIG, config)
        write_bytes(new / WEIGHTS, save(tensors))


def read_factors(folder: pathlib.Path) -> dict[str, Factors]:
    """Read an adapter folder; none at all for round 0, whose ``round.json`` says rank 0.

    Raises:
        ModelError: A file is missing, corrupted, or asks for more than a plain LoRA.
        StorageError: A file cannot be read.
    """
    where = str(folder / CONFIG)
    check_adapter(folder, cached=True)
    try:
        if not (folder / CONFIG).exists() and (folder / ROUND_ZERO).exists():
            round_zero = read_json(folder / ROUND_ZERO)
            if isinstance(round_zero, dict) and round_zero.get("rank") == 0:
                return {}
        config = read_json(folder / CONFIG)
        data = read_bytes(folder / WEIGHTS)
    except DataError as error:
        raise ModelError(error.what, where=error.where, mend=_MEND) from error
    if not isinstance(config, dict):
        raise ModelError("not a JSON object", where=where, mend=_MEND)
    _check_config(config, where)
    try:
        tensors = load(data)
    except (SafetensorError, ValueError) as error:
        raise ModelError(f"corrupted safetensors ({error})", where=str(folder / WEIGHTS), mend=_MEND) from error
    return _paired(config, tensors, where, str(folder / WEIGHTS))


def _paired(config: dict[str, Any], tensors: Mapping[str, Tensor], where: str, weights: str) -> dict[str, Factors]:
    """Join each module's two tensors, and hold them against the configuration."""

    def refuse(what: str, place: str = weights) -> ModelError:
        return ModelError(what, where=place, mend=_MEND)

    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = KEY.match(key)
        if match is None:
            raise refuse(f"{key!r} is no factor of a LoRA")
        if tensor.dim() != 2 or not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise refuse(f"{key!r} is not a finite matrix")
        halves.setdefault(match["module"], {})[match["factor"]] = tensor.float()
    targets = config["target_modules"]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in halves):
            raise refuse(f"no factors for {target!r}, which {CONFIG} names")
    factors = {}
    for name, pair in sorted(halves.items()):
        if not any(name == target or name.endswith(f".{target}") for target in targets):
            raise refuse(f"factors for {name!r}, which {CONFIG} does not name")
        if len(pair) != 2:
            raise refuse(f"{name!r} has only one of its two factors")
        try:
            rank = config["rank_pattern"].get(get_pattern_key(config["rank_pattern"], name), config["r"])
            alpha = config["alpha_pattern"].get(get_pattern_key(config["alpha_pattern"], name), config["lora_alpha"])
        except re.error as error:
            raise refuse(f"a pattern that cannot be read ({error})", where) from error
        if pair["A"].shape[0] != rank or pair["B"].shape[1] != rank:
            shapes = f"{tuple(pair['A'].shape)} and {tuple(pair['B'].shape)}"
            raise refuse(f"{name!r} has factors of {shapes}, where {CONFIG} says rank {rank}")
        factors[name] = Factors(pair["A"], pair["B"], float(alpha))
    return factors


def _check_config(config: dict[str, Any], where: str) -> None:
    """Refuse whatever is not a plain LoRA on modules that are named."""

    def whole(value: Any) -> bool:
        return type(value) is int and value > 0

    def positive(value: Any) -> bool:
        return type(value) in (int, float) and 0 < value < float("inf")

    def table(value: Any, fits: Any) -> bool:
        return isinstance(value, dict) and all(isinstance(key, str) and fits(each) for key, each in value.items())

    if config.get("peft_type") != "LORA":
        raise ModelError("not a LoRA adapter", where=where, mend="Use the adapter of an unlearn stage.")
    targets = config.get("target_modules")
    if not isinstance(targets, list) or not targets or not all(isinstance(name, str) and name for name in targets):
        raise ModelError("target_modules is not a list of names", where=where, mend=_MEND)
    config.setdefault("rank_pattern", {})
    config.setdefault("alpha_pattern", {})
    fits = whole(config.get("r")) and positive(config.get("lora_alpha"))
    if not (fits and table(config["rank_pattern"], whole) and table(config["alpha_pattern"], positive)):
        raise ModelError("a rank or alpha is not a positive number", where=where, mend=_MEND)
    plain = asdict(LoraConfig())
    for key, value in config.items():
        if key not in _READ | _IDLE and value != plain.get(key) and value:
            raise ModelError(
                f"{key} = {value!r} is more than a plain LoRA",
                where=where,
                mend="Merge it into the model instead.",
            )


def _number(value: float) -> int | float:
    return int(value) if value == int(value) else value
