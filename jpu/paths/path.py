"""A path: the neurons and heads of each layer that are to be rectified, on disk and in unions."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.numpy import save

from jpu.errors import DataError
from jpu.files import atomic_folder, read_bytes, read_json, write_bytes, write_json

if TYPE_CHECKING:
    # Importing torch takes seconds, and a converged round writes an empty path without it.
    from torch import Tensor

_FORMAT = 1
_INDEX = "path.json"
_SCORES = "scores.safetensors"

Units = Mapping[int, Sequence[int]]


@dataclass(frozen=True)
class Path:
    """Neurons and heads of each layer, ascending and without repeats; layers with none are left out.

    Attributes:
        neurons: Layer → FFN neurons (rows of ``gate_proj`` and ``up_proj``, columns of ``down_proj``).
        heads: Layer → attention heads; may be empty.
        scores: Name → tensor; ``layer.{l}`` (d_ff,) are the scores that the neurons of layer l were chosen by. Not
            part of the path's identity.
    """

    neurons: Units = field(default_factory=dict)
    heads: Units = field(default_factory=dict)
    scores: Mapping[str, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Bring the units into their one order."""
        object.__setattr__(self, "neurons", _ordered(self.neurons))
        object.__setattr__(self, "heads", _ordered(self.heads))

    def __bool__(self) -> bool:
        """Whether there is any unit at all."""
        return bool(self.neurons or self.heads)

    def union(self, *others: Path) -> Path:
        """All units of this path and the others; scores of the same name are the first's."""
        every = (self, *others)
        scores: dict[str, Tensor] = {}
        for path in reversed(every):
            scores |= path.scores
        return Path(_merged(path.neurons for path in every), _merged(path.heads for path in every), scores)

    def save(self, folder: pathlib.Path) -> None:
        """Write ``path.json`` and ``scores.safetensors``; equal paths give equal bytes. Raises StorageError."""
        with atomic_folder(folder) as new:
            write_json(
                new / _INDEX,
                {
                    "format": _FORMAT,
                    "neurons": {str(layer): list(units) for layer, units in self.neurons.items()},
                    "heads": {str(layer): list(units) for layer, units in self.heads.items()},
                },
            )
            tensors = {name: tensor.detach().float().cpu().numpy() for name, tensor in self.scores.items()}
            write_bytes(new / _SCORES, save(dict(sorted(tensors.items()))))

    @classmethod
    def load(cls, folder: pathlib.Path) -> Path:
        """Read what `save` wrote.

        Raises:
            DataError: A file is missing, truncated, or not a path.
            StorageError: A file cannot be read.
        """
        from safetensors.torch import load

        index = folder / _INDEX
        fields = read_json(index)
        try:
            if fields["format"] != _FORMAT:
                raise ValueError(f"format {fields['format']}")
            neurons, heads = _units(fields["neurons"]), _units(fields["heads"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"not a path ({error})", where=str(index), mend="Run the identify stage of this round again."
            ) from error
        try:
            scores = load(read_bytes(folder / _SCORES))
        except SafetensorError as error:
            raise DataError(
                f"corrupted scores ({error})",
                where=str(folder / _SCORES),
                mend="Bring it back with `dvc checkout`, or run the identify stage of this round again.",
            ) from error
        return cls(neurons, heads, scores)


def _ordered(units: Units) -> dict[int, tuple[int, ...]]:
    return {layer: tuple(sorted(set(units[layer]))) for layer in sorted(units) if units[layer]}


def _merged(paths: Iterable[Units]) -> Units:
    merged: dict[int, list[int]] = {}
    for units in paths:
        for layer, chosen in units.items():
            merged.setdefault(layer, []).extend(chosen)
    return merged


def _units(fields: Any) -> Units:
    units = {int(layer): list(chosen) for layer, chosen in fields.items()}
    for chosen in units.values():
        if any(type(unit) is not int or unit < 0 for unit in chosen):
            raise ValueError("a unit is not a whole number from 0")
    if any(layer < 0 for layer in units):
        raise ValueError("a layer is not a whole number from 0")
    return units
