"""Checkpoints of a training loop: safetensors and JSON, replaced as one folder, keyed by what they were made from.

A checkpoint is only taken up by the run that would have made it: its key digests every input and setting. Random
streams are replayed from their seed rather than stored, so a resumed run ends with the bytes of an undisturbed one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from jpu.errors import DataError
from jpu.files import atomic_folder, read_json, write_json

STATE = "state.json"
TENSORS = "tensors.safetensors"


class Checkpoint:
    """The last checkpoint of one training loop.

    Args:
        folder: Where it lives.
        key: Digest of the run's inputs and settings.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self.key = key

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Replace the checkpoint, atomically."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(self.folder) as new:
            save_file({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, new / TENSORS)
            write_json(new / STATE, {"key": self.key, **state})

    def load(self, needed: Iterable[str] = ()) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The tensors and the state, or None where there is no checkpoint of this key that can be read.

        Args:
            needed: Names of tensors that have to be there; a checkpoint that other code wrote may lack them.
        """
        try:
            state = read_json(self.folder / STATE)
            if not isinstance(state, dict) or state.get("key") != self.key:
                return None
            tensors = load_file(self.folder / TENSORS)
            return (tensors, state) if tensors.keys() >= set(needed) else None
        except (OSError, DataError, SafetensorError, ValueError):
            # A damaged checkpoint costs time, never a result: training begins anew.
            return None

    def clear(self) -> None:
        """Remove the checkpoint, after the outputs that it led to are in place."""
        for name in (STATE, TENSORS):
            (self.folder / name).unlink(missing_ok=True)
        if self.folder.is_dir():
            self.folder.rmdir()


def optimizer_tensors(*optimizers: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of the optimizers of one loop as flat, named tensors."""
    return {
        f"optimizer.{number}.{index}.{name}": torch.as_tensor(value)
        for number, optimizer in enumerate(optimizers)
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def restore_optimizers(tensors: Mapping[str, Tensor], *optimizers: torch.optim.Optimizer) -> None:
    """Put back what `optimizer_tensors` gave for the same optimizers in the same order."""
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    for path, value in tensors.items():
        if path.startswith("optimizer."):
            _, number, index, name = path.split(".", 3)
            states[int(number)].setdefault(int(index), {})[name] = value
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
