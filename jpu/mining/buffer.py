"""The jailbreak buffer: prompts that the model does not refuse yet, carried from round to round.

Limits: an entry that is found low three visits running leaves; no template holds more than its quota; over
the capacity the lowest losses leave first. Order is that of arrival: the same calls give the same file.

Does not score: it is told losses.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from jpu.data.schemas import make_record
from jpu.errors import DataError
from jpu.files import read_jsonl, write_jsonl
from jpu.mining.entry import Entry, entry_id, make_entry

__all__ = ["Buffer", "Entry", "entry_id", "make_entry"]


class Buffer:
    """A bounded, ordered collection of scored entries.

    Args:
        capacity: Most entries that it holds.
        quota_per_template: Most entries of one template id.
        low_visits: Low visits running after which an entry leaves.

    Raises:
        ValueError: A bound is not positive.
    """

    def __init__(self, capacity: int, quota_per_template: int, low_visits: int = 3) -> None:
        if min(capacity, quota_per_template, low_visits) < 1:
            raise ValueError("capacity, quota_per_template and low_visits must be at least 1")
        self.capacity = capacity
        self.quota_per_template = quota_per_template
        self.low_visits = low_visits
        self._entries: dict[str, Entry] = {}

    def __len__(self) -> int:
        """Entries held."""
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        """Entries in order of arrival."""
        return iter(tuple(self._entries.values()))

    def __contains__(self, id: object) -> bool:
        """Whether an entry of this id is held."""
        return id in self._entries

    def __getitem__(self, id: str) -> Entry:
        """The entry of this id. Raises KeyError."""
        return self._entries[id]

    def add(self, entry: Entry) -> bool:
        """Take an entry in, then let the lowest losses go until quota and capacity hold again.

        An entry whose id is held already keeps its place, its history and its count of low visits, and takes
        the new loss. Among equal losses the oldest leaves.

        Args:
            entry: A scored entry.

        Returns:
            Whether an entry of this id is held afterwards: a newcomer may itself be the lowest.

        Raises:
            ValueError: The entry has no finite loss.
        """
        loss = entry.known_loss
        known = self._entries.get(entry.id)
        if known is not None:
            self._entries[entry.id] = known.model_copy(update={"loss": loss})
            return True
        self._entries[entry.id] = entry
        siblings = [held for held in self._entries.values() if held.template == entry.template]
        if len(siblings) > self.quota_per_template:
            self._drop_lowest(siblings)
        if len(self._entries) > self.capacity:
            self._drop_lowest(self._entries.values())
        return entry.id in self._entries

    def _drop_lowest(self, among: Iterable[Entry]) -> None:
        # min() takes the first of equals, which is the oldest.
        del self._entries[min(among, key=lambda held: held.known_loss).id]

    def visit(self, id: str, loss: float, tau: float) -> bool:
        """Re-score an entry.

        Args:
            id: Its id.
            loss: Its refusal loss now, nats per token.
            tau: The threshold; a loss of at most τ is low.

        Returns:
            Whether the entry is still held: the last of `low_visits` low visits running removes it.

        Raises:
            KeyError: No such entry.
            ValueError: The loss is not finite.
        """
        if not math.isfinite(loss):
            raise ValueError(f"the loss of entry {id} is not finite")
        held = self._entries[id]
        low = held.low + 1 if loss <= tau else 0
        if low >= self.low_visits:
            del self._entries[id]
            return False
        self._entries[id] = held.model_copy(update={"loss": loss, "low": low})
        return True

    def parents(self, tau: float) -> list[Entry]:
        """Entries whose last loss is above τ, in order of arrival."""
        return [held for held in self._entries.values() if held.known_loss > tau]

    def sample(self, n: int, rng: random.Random) -> list[Entry]:
        """At most `n` different entries, drawn evenly."""
        held = list(self._entries.values())
        return rng.sample(held, min(n, len(held)))

    def families(self) -> dict[str, int]:
        """Number of entries per template family, by name."""
        return dict(sorted(Counter(held.family for held in self._entries.values()).items()))

    def write(self, path: Path) -> None:
        """Write one entry a line, in order, whole or not at all. Raises StorageError."""
        write_jsonl(path, self._entries.values())

    @classmethod
    def read(cls, path: Path, *, capacity: int, quota_per_template: int, low_visits: int = 3) -> Self:
        """Read what `write` wrote; bounds smaller than the file's contents evict by the usual rule.

        Raises:
            DataError: The file is missing, or a line is no scored entry or repeats an id.
        """
        buffer = cls(capacity, quota_per_template, low_visits)
        seen: set[str] = set()
        for line, fields in read_jsonl(path):
            where = f"{path} line {line}"
            entry = make_record(Entry, fields, where=where)
            if entry.loss is None:
                raise DataError("a buffer entry without a loss", where=where, mend=_MEND)
            if entry.id in seen:
                raise DataError(f"entry {entry.id} stands here a second time", where=where, mend=_MEND)
            seen.add(entry.id)
            buffer.add(entry)
        return buffer


_MEND = "Bring the file back with `dvc checkout`, or run the stage that made it again."
