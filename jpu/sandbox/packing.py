"""Training pairs laid end to end in rows of like length, each seeing itself only: a batch without padding.

Short and long pairs side by side cost a third of a step in padding. Packed, a pair has its own positions from 0 and
attends to its own tokens, so its loss is what it is alone, up to the order of sums. For models that are taught here
(Llama): one that slides its attention window would need masks of its own kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Pair = tuple[Sequence[int], Sequence[int]]


@dataclass(frozen=True)
class Packed:
    """A packed batch of r rows of length w.

    Attributes:
        ids: (r, w) int64 tokens.
        positions: (r, w) int64, from 0 in each pair.
        mask: (r, 1, w, w) bool, true where a token sees another.
        targets: (r, w) int64, the answer token that each position has to predict; -100 where there is none.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    targets: Tensor


def pack(pairs: Sequence[Pair], pad_id: int, width: int = 64) -> Packed:
    """Lay pairs of prompt and answer end to end: longest first, each into the first row with room.

    Args:
        pairs: Prompt and answer tokens; neither is empty.
        pad_id: Fills what is left of a row.
        width: Length of a row, unless the longest pair is longer.
    """
    order = sorted(pairs, key=lambda pair: -len(pair[0]) - len(pair[1]))
    room = max(width, len(order[0][0]) + len(order[0][1]))
    rows: list[list[Pair]] = []
    used: list[int] = []
    for pair in order:
        size = len(pair[0]) + len(pair[1])
        at = next((i for i, filled in enumerate(used) if filled + size <= room), len(rows))
        if at == len(rows):
            rows.append([])
            used.append(0)
        rows[at].append(pair)
        used[at] += size
    ids = torch.full((len(rows), max(used)), pad_id, dtype=torch.long)
    positions, targets = torch.zeros_like(ids), torch.full_like(ids, -100)
    owner = torch.full_like(ids, -1)
    for row, members in enumerate(rows):
        start = 0
        for number, (prompt, answer) in enumerate(members):
            end = start + len(prompt) + len(answer)
            ids[row, start:end] = torch.tensor([*prompt, *answer], dtype=torch.long)
            positions[row, start:end] = torch.arange(end - start)
            targets[row, start + len(prompt) - 1 : end - 1] = torch.tensor(list(answer), dtype=torch.long)
            owner[row, start:end] = number
            start = end
    same = owner[:, None, :, None] == owner[:, None, None, :]
    return Packed(ids, positions, same & torch.ones_like(same[0, 0]).tril(), targets)
