"""Rows of tokens into batches: of like length, of a bounded size, padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

# Rows × padded length of one forward pass; on two cores larger batches gain nothing and cost memory.
BATCH_TOKENS = 8192


def token_batches(lengths: Sequence[int], batch_tokens: int = BATCH_TOKENS) -> Iterator[list[int]]:
    """Cut rows into batches of like length.

    Args:
        lengths: Tokens of each row.
        batch_tokens: Bound on rows × longest row of a batch; one row alone may exceed it.

    Yields:
        Indices of the rows of one batch, longest rows first.
    """
    order = _longest_first(lengths)
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size


def pad(rows: Sequence[Sequence[int]], pad_id: int, *, left: bool = False) -> tuple[Tensor, Tensor]:
    """Stack token rows.

    Returns:
        ``(ids, mask)``, both int64 of shape (rows, longest); the mask is 1 on real tokens.
    """
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        at = width - len(row) if left else 0
        ids[i, at : at + len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, at : at + len(row)] = 1
    return ids, mask


def length_groups(lengths: Sequence[int], worth: float = 0.2) -> list[list[int]]:
    """Cut rows into a long and a short group where that saves at least ``worth`` of the padded tokens, else into one.

    Args:
        lengths: Tokens of each row.
        worth: Share of the tokens below which a second pass costs more than it saves.

    Returns:
        Indices of each group, longest rows first; no group is empty, unless there is no row.
    """
    order = _longest_first(lengths)
    if not order:
        return []
    whole = len(order) * lengths[order[0]]
    costs = [cut * lengths[order[0]] + (len(order) - cut) * lengths[order[cut]] for cut in range(1, len(order))]
    if not costs or min(costs) > (1 - worth) * whole:
        return [order]
    cut = costs.index(min(costs)) + 1
    return [order[:cut], order[cut:]]


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
