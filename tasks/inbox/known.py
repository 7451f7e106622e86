"""What the data have already, which a new record is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jpu.data.schemas import Behavior, Template
from tasks.additions import INBOX, add, read_inbox
from tasks.expectations import key
from tasks.sources import Collection


class Known:
    """The records of the data, growing as files are taken in.

    Args:
        own: What the chosen profile's data have.
        inbox: What came in before.
    """

    def __init__(self, own: Collection, inbox: Collection | None) -> None:
        self.own = own
        together, _ = add(own, inbox)
        self.templates: list[Template] = list(together.templates.records)
        self.behaviors: list[Behavior] = list(together.behaviors.records)
        self.ids = {record.id for record in (*self.templates, *self.behaviors)}
        self.texts = {key(t.text) for t in self.templates} | {key(b.query) for b in self.behaviors}

    @property
    def families(self) -> set[str]:
        """Names of the template families."""
        return {template.family for template in self.templates}

    def grow(self, records: Sequence[Template] | Sequence[Behavior]) -> None:
        """Count these in."""
        for record in records:
            self.ids.add(record.id)
            if isinstance(record, Template):
                self.templates.append(record)
                self.texts.add(key(record.text))
            else:
                self.behaviors.append(record)
                self.texts.add(key(record.query))


def read_known(own: Collection, *, without: Path | None = None, inbox: Path = INBOX) -> Known:
    """The data with what is in data/inbox, but for one file of it."""
    return Known(own, read_inbox(inbox, without=without))
