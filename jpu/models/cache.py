"""Keys and values of a batch whose rows come and go: filled from several passes, written in place, rows dropped.

Only for models all of whose layers keep every position as it is; `keeps_all` tells. Sliding windows, recurrent states
and compressed caches are left to the model itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer


@dataclass(frozen=True)
class Prefilled:
    """Prompts that have been run, and what the next pass needs of them.

    Attributes:
        logits: (rows, vocabulary) of the next token.
        mask: (rows, slots) int64, 1 where the cache holds a token.
        cache: Keys and values; None where the model keeps none.
    """

    logits: Tensor
    mask: Tensor
    cache: Any


class InPlaceLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """A layer's keys and values with room for what comes: a new token is written, and nothing is copied.

    Args:
        keys: (rows, heads, room, size); the first `used` slots are filled.
        values: As the keys.
        used: Filled slots.
    """

    def __init__(self, keys: Tensor, values: Tensor, used: int) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._room = (keys, values)
        self._show(used)

    def _show(self, used: int) -> None:
        self.keys, self.values = (whole[:, :, :used] for whole in self._room)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write new slots, and return all filled ones."""
        used = self.keys.shape[2]
        end = used + key_states.shape[2]
        for whole, new in zip(self._room, (key_states, value_states), strict=True):
            whole[:, :, used:end] = new
        self._show(end)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows."""
        used = self.keys.shape[2]
        kept = []
        for whole in self._room:
            room = whole.new_empty(len(indices), *whole.shape[1:])
            room[:, :, :used] = whole[indices, :, :used]
            kept.append(room)
        self._room = (kept[0], kept[1])
        self._show(used)


class PrefixLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values of prompts that have been run, which no pass changes.

    Passes over the same prompts follow each other, and one may be run again while it is differentiated; what a pass
    appends is handed to its attention and forgotten.

    Args:
        keys: (prompts, heads, slots, size).
        values: As the keys.
        rows: The prompt of each row of the pass, (rows,) int64.
    """

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self.keys, self.values, self._rows = keys, values, rows

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The prompts' slots and behind them the new ones; nothing is kept."""
        keys, values = self.keys[self._rows], self.values[self._rows]
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


class PrefixCache(Cache):  # type: ignore[misc]
    """A cache of which all layers are `PrefixLayer`: a pass over it can be run again."""


def keeps_all(model: Any) -> bool:
    """Whether every layer of a model caches plain keys and values of every position."""
    config = getattr(model, "config", None)
    if not isinstance(config, PreTrainedConfig) or config.is_encoder_decoder:
        return False
    layers = DynamicCache(config=config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def selected(start: Prefilled, rows: Sequence[int]) -> tuple[Tensor, Any]:
    """Mask and cache of some rows, repeated or not, to run on from; the given ones stay as they are."""
    which = torch.tensor(rows, device=start.mask.device)
    cache = DynamicCache()
    for number, layer in enumerate(start.cache.layers):
        cache.update(layer.keys[which], layer.values[which], number)
    return start.mask[which], cache


def merged(parts: Sequence[tuple[Prefilled, Sequence[int]]], room: int) -> Prefilled:
    """Bring rows of several passes into one batch, each row's slots pushed together to the right.

    Args:
        parts: What each pass left, and which of its rows go on, repeated or not. Its cache is emptied.
        room: Slots to keep free for new tokens.

    Returns:
        The chosen rows of the first pass, then those of the second, and so on.
    """
    width = max(int(part.mask.sum(1).max()) for part, _ in parts)
    wanted, masks = [], []
    for part, rows in parts:
        source = torch.tensor(rows, device=part.mask.device)
        # Stable: the slots that hold nothing come first, and the tokens after them keep their order.
        slots = part.mask.argsort(dim=1, stable=True)[:, -width:]
        wanted.append((source[:, None], slots[source]))
        mask = part.mask.gather(1, slots)[source]
        masks.append(nn.functional.pad(mask, (width - mask.shape[1], 0)))
    layers = []
    for number in range(len(parts[0][0].cache.layers)):
        of_parts = [part.cache.layers[number] for part, _ in parts]
        keys = _aligned([layer.keys for layer in of_parts], wanted, width, room)
        values = _aligned([layer.values for layer in of_parts], wanted, width, room)
        for layer in of_parts:
            layer.reset()
        layers.append(InPlaceLayer(keys, values, width))
    logits = torch.cat([part.logits[source[:, 0]] for (part, _), (source, _) in zip(parts, wanted, strict=True)])
    return Prefilled(logits, torch.cat(masks), Cache(layers=layers))


def _aligned(states: Sequence[Tensor], wanted: Sequence[tuple[Tensor, Tensor]], width: int, room: int) -> Tensor:
    """The wanted rows and slots of each tensor, one below the other, ending at slot `width`; room after them."""
    count = sum(len(source) for source, _ in wanted)
    _, heads, _, size = states[0].shape
    whole = states[0].new_empty(count, heads, width + room, size)
    at = 0
    for state, (source, slots) in zip(states, wanted, strict=True):
        rows = whole[at : at + len(source)]
        empty = width - slots.shape[1]
        # Zeros, as the weight 0 of an empty slot would not silence a NaN.
        rows[:, :, :empty] = 0
        rows[:, :, empty:width] = state[source, :, slots].transpose(1, 2)
        at += len(source)
    return whole
