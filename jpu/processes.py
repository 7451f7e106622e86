"""The processes of one training: what they agree on, and what each does for all of them.

Every process runs the whole program, draws the same lots and computes the same losses; the work behind these is
divided (`jpu.rows`, `jpu.spread`), and gradients are summed. So all of them hold the same adapter and the same buffer
at every step, those of a single process up to float error.

Between processes go tensors and JSON, and no pickle.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from jpu.errors import ModelError
from jpu.rows import shared_rows
from jpu.spread import Spread

Held = TypeVar("Held")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Processes:
    """Those of torch's default process group, which is open already where there are more than one.

    Attributes:
        rank: This one.
        size: How many there are.
        device: Where tensors that are exchanged have to be.
        sharded: Whether they divide the frozen weights of the model too.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009  # a value, not a call with effects
    sharded: bool = False

    @property
    def main(self) -> bool:
        """Whether this is the one that writes, records and reports."""
        return self.rank == 0

    @contextmanager
    def shared(self, model: Any) -> Iterator[None]:
        """Divide the rows of the model's forward passes inside.

        Raises:
            ModelError: Something is trained that no row passes through: its gradient would be counted by every process.
        """
        if self.size == 1:
            yield
            return
        bare = model.get_base_model() if hasattr(model, "get_base_model") else model
        inside = {id(p) for p in bare.model.parameters()}
        outside = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in inside]
        if outside:
            raise ModelError(
                f"{outside[0]} is trained, and is not a part of the trunk",
                mend="Train in one process, or leave it as it is.",
            )
        with shared_rows(model, self.rank, self.size):
            yield

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Put the sum over the processes in the place of each gradient."""
        found = [p.grad for p in parameters if p.grad is not None]
        if self.size == 1 or not found:
            return
        flat = torch.cat([gradient.flatten() for gradient in found])
        dist.all_reduce(flat)
        for gradient, summed in zip(found, torch.split(flat, [g.numel() for g in found]), strict=True):
            gradient.copy_(summed.view_as(gradient))

    @torch.no_grad()
    def same(self, parameters: Iterable[nn.Parameter]) -> None:
        """Take over the main process's values: processors that round differently must not drift apart."""
        if self.size > 1:
            for parameter in parameters:
                dist.broadcast(parameter.data, 0)

    def spread(self, held: Held) -> Spread[Held] | None:
        """Pieces of work that the processes share, each on its own copy of a model.

        None for one process, and for processes that have one model together: there all make every pass.

        Args:
            held: The model, the same in every process. Results have to be JSON.
        """
        if self.size == 1 or self.sharded:
            return None

        def over(
            function: Callable[[Held, Item], Any],
            items: Sequence[Item],
            arrived: Callable[[int, Any], None] | None = None,
        ) -> list[Any]:
            mine = [function(held, item) for item in items[self.rank :: self.size]]
            results: list[Any] = [None] * len(items)
            for rank, part in enumerate(self._everybodys(mine)):
                results[rank :: self.size] = part
            for place, result in enumerate(results):
                if arrived is not None:
                    arrived(place, result)
            return results

        return over

    def _everybodys(self, value: Any) -> list[Any]:
        """A value of every process, by rank."""
        data = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8, device=self.device)
        length = torch.tensor([len(data)], device=self.device)
        lengths = [torch.empty_like(length) for _ in range(self.size)]
        dist.all_gather(lengths, length)
        padded = data.new_zeros(max(int(n) for n in lengths))
        padded[: len(data)] = data
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return [json.loads(bytes(part[: int(n)].tolist())) for part, n in zip(parts, lengths, strict=True)]


ALONE = Processes()
