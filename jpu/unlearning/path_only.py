"""Gradients that reach the units of a path alone, whatever else is trained beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from jpu.errors import ModelError
from jpu.unlearning.adapter import trainable_parameters


@contextmanager
def path_only(model: Any, wanted: bool = True) -> Iterator[None]:
    """Graphs that are built inside lead to the trained factors whose other factor is a choice of units, and no others.

    Args:
        model: The adapted model.
        wanted: Whether to; otherwise nothing is changed.

    Raises:
        ModelError: No units are trained.
    """
    if not wanted:
        yield
        return
    # A LoRA that is trained whole has two trained factors; where units were chosen, the choice is frozen.
    modules: dict[str, list[nn.Parameter]] = {}
    for name, parameter in trainable_parameters(model).items():
        modules.setdefault(name.partition(".lora_")[0], []).append(parameter)
    others = [parameter for factors in modules.values() if len(factors) > 1 for parameter in factors]
    if all(len(factors) > 1 for factors in modules.values()):
        raise ModelError(
            "no path is trained, and a loss was to move nothing else",
            mend="Set unlearning.trained.path to true, or leak_scope to all.",
        )
    try:
        for parameter in others:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)
