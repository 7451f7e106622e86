"""Read behaviors, templates and refusals from the files that users really have.

The container (CSV, TSV, JSON, JSONL, text) is told from the file's name, the layout (HarmBench, AdvBench,
JailbreakBench, StrongREJECT, our own records, a plain table) from its columns; either the file fits, or a
DataError names the file, the line and the mend. What a file does not say stays open: `jpu.data.splits` fills
in the splits.

Does not judge contents (lengths, duplicates, placeholders): `tasks.validation` does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Generic, TypeVar

from pydantic import BaseModel

from jpu.data import layouts
from jpu.data.fetch import Fetched
from jpu.data.layouts import Fields, Layout, Records
from jpu.data.placeholders import normalise
from jpu.data.schemas import BehaviorDraft, Kind, Refusal, Role, TemplateDraft, fingerprint, make_record
from jpu.data.tables import RawTable, read_table
from jpu.errors import DataError

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class Table(Generic[T]):
    """Records and where each was found.

    Attributes:
        where: The file, for messages.
        unit: What `lines` counts: "line", or "item" of a JSON list.
        lines: The place of each record.
        records: The records.
        layout: How the file was read.
        sha256: Digest of the file.
    """

    where: str
    unit: str
    lines: tuple[int, ...]
    records: tuple[T, ...]
    layout: Layout
    sha256: str

    def place(self, index: int) -> str:
        """File and line of the record at `index`."""
        return f"{self.where} {self.unit} {self.lines[index]}"


def read_behaviors(
    fetched: Fetched, *, kind: Kind = "restricted", layout: Layout | None = None
) -> Table[BehaviorDraft]:
    """Read behaviors.

    Args:
        fetched: The file.
        kind: Kind of the behaviors of a file that does not say.
        layout: Overrides the layout that the columns suggest.

    Raises:
        DataError: The file does not fit; names file, line and mend.
    """

    def complete(fields: Fields, source: str) -> None:
        query = str(fields.get("query", ""))
        fields.setdefault("id", f"{source}-{fingerprint(query)}")
        fields.setdefault("kind", kind)

    return _read("behaviors", BehaviorDraft, fetched, layout, complete)


def read_templates(
    fetched: Fetched,
    *,
    role: Role = "jailbreak",
    placeholder: str | None = None,
    layout: Layout | None = None,
) -> Table[TemplateDraft]:
    """Read templates; well-known placeholders become `{query}`.

    Args:
        fetched: The file. Plain text holds a template a paragraph, or one between lines of dashes.
        role: Role of the templates of a file that does not say.
        placeholder: The literal placeholder, where it is none of the well-known ones.
        layout: Overrides the layout that the columns suggest.

    Raises:
        DataError: The file does not fit; names file, line and mend.
    """

    def complete(fields: Fields, source: str) -> None:
        if isinstance(fields.get("text"), str):
            fields["text"] = normalise(fields["text"], placeholder)
        fields.setdefault("id", f"{source}-{fingerprint(str(fields.get('text', '')))}")
        fields.setdefault("role", role)

    return _read("templates", TemplateDraft, fetched, layout, complete)


def read_refusals(fetched: Fetched, *, layout: Layout | None = None) -> Table[Refusal]:
    """Read refusals. Raises DataError as `read_behaviors` does."""

    def complete(fields: Fields, source: str) -> None:
        fields.setdefault("id", f"{source}-{fingerprint(str(fields.get('text', '')))}")

    return _read("refusals", Refusal, fetched, layout, complete)


def _read(
    records: Records,
    model: type[T],
    fetched: Fetched,
    layout: Layout | None,
    complete: Callable[[Fields, str], None],
) -> Table[T]:
    raw = read_table(fetched, paragraphs=records == "templates")
    if not raw.rows:
        raise DataError(f"no {records} in it", where=fetched.where, mend="Give a file with at least one record.")
    chosen = _layout(records, raw, layout)
    # A plain file is named by itself, a benchmark by its own name.
    source = PurePosixPath(fetched.name).stem if chosen in {"jpu", "table", "text"} else chosen
    made = []
    for row in raw.rows:
        place = f"{raw.where} {raw.unit} {row.line}"
        fields = layouts.interpret(chosen, records, row.fields, where=place)
        fields.setdefault("source", source)
        complete(fields, source)
        made.append(make_record(model, fields, where=place))
    return Table(raw.where, raw.unit, tuple(row.line for row in raw.rows), tuple(made), chosen, fetched.sha256)


def _layout(records: Records, raw: RawTable, asked: Layout | None) -> Layout:
    if asked is not None:
        layouts.require(asked, records, raw.columns, where=raw.where)
        return asked
    if raw.container == "text":
        return "text"
    return layouts.sniff(records, raw.columns, where=raw.where)
