"""Rows of a forward pass that processes share: each runs some, and every one has the outcome of all.

Only the trunk's work is divided. A loss is computed from the whole batch in every process, so it may be any function of
it: a mean over tokens, a clamped mean, a distance between rows; whoever writes a loss need not know of this. What a
process's own rows leave in the parameters' gradients is its part: summed over the processes, it is the gradient of the
whole batch. [ours]

Code that reaches into layers by hooks sees the rows that are here; it asks `rows_of` for the others. Passes that fill
or read a cache (generation, scoring with shared prompts) are not divided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_NAME = "shared_rows"


class Rows:
    """The rows of the pass under way: all of them are here."""

    def mine(self, full: Tensor) -> Tensor:
        """Of a tensor of all rows, those that are here; differentiable, with the whole gradient in every process."""
        return full

    def all(self, mine: Tensor) -> Tensor:
        """Of a tensor of the rows that are here, that of all rows; differentiable in these."""
        return mine

    def again(self) -> Callable[[], AbstractContextManager[None]]:
        """Makes contexts in which the pass under way now is under way, for parts of it that are run a second time."""
        return nullcontext


class SharedRows(Rows):
    """Rows in equal parts, in their order.

    Args:
        rank: This process.
        size: Processes.

    Attributes:
        count: Rows of the pass under way; None where they are not divided.
        divided: Whether the passes to come are.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.count: int | None = None
        self.divided = True

    def mine(self, full: Tensor) -> Tensor:
        """As `Rows.mine`; where there are fewer rows than processes, a row that does not count."""
        if self.count is None:
            return full
        return _Mine.apply(full, self) if full.requires_grad else self.part(full)  # type: ignore[no-untyped-call]

    def all(self, mine: Tensor) -> Tensor:
        """As `Rows.all`."""
        if self.count is None:
            return mine
        return _All.apply(mine, self) if mine.requires_grad else self.joined(mine)  # type: ignore[no-untyped-call]

    def again(self) -> Callable[[], AbstractContextManager[None]]:
        """As `Rows.again`."""
        return partial(_counting, self, self.count)

    def part(self, full: Tensor) -> Tensor:
        """This process's rows, copied."""
        start, stop = self._bounds(self.rank)
        return full[start:stop].clone() if start < stop else full[:1].clone()

    def joined(self, mine: Tensor) -> Tensor:
        """The rows of every process, in their order."""
        sizes = [stop - start for start, stop in map(self._bounds, range(self.size))]
        padded = mine.new_zeros(max(sizes), *mine.shape[1:])
        padded[: sizes[self.rank]] = mine.detach()[: sizes[self.rank]]
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def counted(self, gradient: Tensor) -> Tensor:
        """Of a gradient of all rows, that of the rows that are here; 0 for one that does not count."""
        start, stop = self._bounds(self.rank)
        return gradient[start:stop] if start < stop else torch.zeros_like(gradient[:1])

    def _bounds(self, rank: int) -> tuple[int, int]:
        count = self.count or 0
        return rank * count // self.size, (rank + 1) * count // self.size


class _Mine(torch.autograd.Function):
    """Forward a part, backward the whole: every process has the gradient of all rows."""

    @staticmethod
    def forward(ctx: Any, full: Tensor, rows: SharedRows) -> Tensor:
        ctx.rows, ctx.count = rows, rows.count
        return rows.part(full)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        with _counting(ctx.rows, ctx.count):
            return ctx.rows.joined(gradient), None


class _All(torch.autograd.Function):
    """Forward the whole, backward a part: a process's rows answer for themselves."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, rows: SharedRows) -> Tensor:
        ctx.rows, ctx.count = rows, rows.count
        return rows.joined(mine)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        with _counting(ctx.rows, ctx.count):
            return ctx.rows.counted(gradient), None


@contextmanager
def _counting(rows: SharedRows, count: int | None) -> Iterator[None]:
    """The pass whose gradients are on their way is not the one that is run next."""
    before, rows.count = rows.count, count
    try:
        yield
    finally:
        rows.count = before


def rows_of(model: Any) -> Rows:
    """Which rows of a pass through this model are here.

    Args:
        model: Causal language model whose ``model`` is the trunk, PEFT or not.
    """
    found: Rows = getattr(_trunk(model), _NAME, Rows())
    return found


@contextmanager
def shared_rows(model: Any, rank: int, size: int) -> Iterator[None]:
    """Divide every pass through a model's trunk that asks for no cache, inside; all processes make the same passes.

    Args:
        model: As for `rows_of`.
        rank: This process.
        size: Processes of the default process group.
    """
    trunk, rows = _trunk(model), SharedRows(rank, size)

    def enter(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        rows.count = _count(named) if rows.divided and named.get("use_cache") is False else None
        return given, {
            name: rows.mine(value) if isinstance(value, Tensor) and len(value) == rows.count else value
            for name, value in named.items()
        }

    def leave(_: nn.Module, given: tuple[Any, ...], out: Any) -> Any:
        out.last_hidden_state = rows.all(out.last_hidden_state)
        rows.count = None
        return out

    handles = [trunk.register_forward_pre_hook(enter, with_kwargs=True), trunk.register_forward_hook(leave)]
    setattr(trunk, _NAME, rows)
    try:
        yield
    finally:
        delattr(trunk, _NAME)
        for handle in handles:
            handle.remove()


@contextmanager
def undivided(model: Any) -> Iterator[None]:
    """Inside, every process runs all rows: for code that calls layers by themselves, past the trunk."""
    rows = rows_of(model)
    if not isinstance(rows, SharedRows):
        yield
        return
    before, rows.divided = rows.divided, False
    try:
        yield
    finally:
        rows.divided = before


def _count(named: Mapping[str, Any]) -> int:
    given = named.get("input_ids")
    return len(named["inputs_embeds"] if given is None else given)


def _trunk(model: Any) -> Any:
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    return bare.model
