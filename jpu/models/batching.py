"""Rows of tokens into batches: of like length, of a bounded size, padded; and which rows begin alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

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


def cheapest_batches(lengths: Sequence[int], batch_tokens: int, a_pass: int) -> Iterator[list[int]]:
    """Cut rows into batches of like length so that padding and passes together cost least.

    The optimum over all cuts between rows of unlike length, the rows sorted; a batch above the bound is cut further.

    Args:
        lengths: Tokens of each row.
        batch_tokens: Bound on rows × longest row of a batch; one row alone may exceed it.
        a_pass: Tokens that cost as much as one more pass does.

    Yields:
        Indices of the rows of one batch, longest rows first.
    """
    order = _longest_first(lengths)
    starts = [at for at, i in enumerate(order) if at == 0 or lengths[i] != lengths[order[at - 1]]]
    # Least cost of all rows from a start on, and where its first batch ends.
    costs, ends = {len(order): 0}, {}
    for start in reversed(starts):
        longest = lengths[order[start]]
        costs[start], ends[start] = min(
            (costs[end] + longest * (end - start) + a_pass * -(-longest * (end - start) // batch_tokens), end)
            for end in (*(s for s in starts if s > start), len(order))
        )
    start = 0
    while start < len(order):
        rows = order[start : ends[start]]
        for part in token_batches([lengths[i] for i in rows], batch_tokens):
            yield [rows[i] for i in part]
        start = ends[start]


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


@dataclass(frozen=True)
class PrefixGroup:
    """Rows that begin alike.

    Attributes:
        length: Tokens that all of them begin with; 0 where nothing is shared.
        rows: Their indices, in the order of their tokens.
    """

    length: int
    rows: list[int]


def prefix_groups(rows: Sequence[Sequence[int]]) -> list[PrefixGroup]:
    """Group rows so that running each group's prefix once, and then the rests, runs the fewest tokens.

    The optimum over all ways to share one prefix a row: in the tree of common prefixes, a node becomes a group where
    that saves more than the groups below it do. The last token of a row is never part of a prefix, as its logits are
    wanted.

    Args:
        rows: Tokens of each row, none empty.

    Returns:
        Groups in which each row stands once; those of length 0 hold one row.
    """
    order = sorted(range(len(rows)), key=lambda i: list(rows[i]))
    open_nodes: list[_Node] = []
    for place, i in enumerate(order):
        found = _Node(0, [PrefixGroup(0, [i])], [i], 0)
        depth = _common(rows[i], rows[order[place + 1]]) if place + 1 < len(order) else 0
        while open_nodes and open_nodes[-1].depth > depth:
            parent = open_nodes.pop()
            parent.add(found)
            found = parent.closed()
        if not open_nodes or open_nodes[-1].depth < depth:
            open_nodes.append(_Node(depth))
        open_nodes[-1].add(found)
    return open_nodes[0].groups if open_nodes else []


def prefix_batches(rows: Sequence[Sequence[int]], room: int, batch_tokens: int) -> Iterator[list[int]]:
    """Cut rows into batches in which those that begin alike stand together.

    Args:
        rows: Tokens of each row, none empty.
        room: Tokens that come behind each row.
        batch_tokens: Bound on rows × (longest row + room) of a batch; one row alone may exceed it.

    Yields:
        Indices of the rows of one batch; groups with longer rows come first, and within a group longer rows.
    """
    batch: list[int] = []
    widest = 0
    groups = [sorted(group.rows, key=lambda i: -len(rows[i])) for group in prefix_groups(rows)]
    for i in (i for group in sorted(groups, key=lambda g: (-len(rows[g[0]]), min(g))) for i in group):
        widest = max(widest, len(rows[i]) + room)
        if batch and (len(batch) + 1) * widest > batch_tokens:
            yield batch
            batch, widest = [], len(rows[i]) + room
        batch.append(i)
    if batch:
        yield batch


@dataclass
class _Node:
    """A node of the tree of common prefixes: what stands below it, and the best that is known of that."""

    depth: int
    groups: list[PrefixGroup] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    saved: int = 0

    def add(self, child: _Node) -> None:
        self.groups += child.groups
        self.rows += child.rows
        self.saved += child.saved

    def closed(self) -> _Node:
        together = (len(self.rows) - 1) * self.depth
        if together > self.saved:
            self.groups, self.saved = [PrefixGroup(self.depth, list(self.rows))], together
        return self


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Tokens that all rows begin with, the last of none among them."""
    # In the order of their tokens the first and the last row differ most.
    return _common(min(rows, key=list), max(rows, key=list)) if len(rows) > 1 else 0


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens that both begin with, the last of neither among them."""
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(a[:-1], b[:-1], strict=False))
    return sum(1 for _ in alike)


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
