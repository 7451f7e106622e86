"""From bytes to rows: CSV, TSV, JSON, JSONL and plain text, each row with its place in the file.

Knows containers only; what the columns mean is the business of `jpu.data.readers`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from jpu.data.fetch import Fetched
from jpu.errors import DataError
from jpu.parsing import decode, parse_json, parse_jsonl

_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".txt": "text",
    ".md": "text",
}
_RULE = re.compile(r"^-{3,}[ \t]*$", re.MULTILINE)
_BLANK = re.compile(r"\n[ \t]*\n")


@dataclass(frozen=True)
class Row:
    """One row: its fields by column name, and its line in the file (its number in a JSON list)."""

    line: int
    fields: dict[str, Any]


@dataclass(frozen=True)
class RawTable:
    """The rows of a file.

    Attributes:
        where: The file, for messages.
        container: csv, tsv, json, jsonl or text.
        unit: What `Row.line` counts: "line" or "item".
        columns: Column names: the header, or for JSON the keys of the first object. For text: ("text",).
        rows: The rows.
    """

    where: str
    container: str
    unit: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def container_of(fetched: Fetched) -> str:
    """The container of a file: by its suffix, else by its first character.

    Raises:
        DataError: Something that is not read (Parquet, archives, spreadsheets), by its first bytes or its suffix.
    """
    suffix = PurePosixPath(fetched.name).suffix.lower()
    head = fetched.data[:512].removeprefix(b"\xef\xbb\xbf").lstrip()
    # Whatever it is called: an archive by the name of a table would be told as a fault of that table's text.
    if head.startswith((b"PAR1", b"PK\x03\x04", b"\x1f\x8b", b"SQLite format")) or suffix == ".parquet":
        raise DataError("a packed or binary file", where=fetched.where, mend="Unpack it, or export it to CSV or JSONL.")
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if head.startswith(b"["):
        return "json"
    if head.startswith(b"{"):
        return "jsonl"
    return "csv" if b"," in head.partition(b"\n")[0] else "text"


def read_table(fetched: Fetched, *, paragraphs: bool = False) -> RawTable:
    """Split a file into rows.

    Args:
        fetched: The file.
        paragraphs: Plain text holds one record a paragraph (templates) instead of one a line.

    Raises:
        DataError: Not UTF-8, malformed, or a row that does not fit the header; names file and line.
    """
    container = container_of(fetched)
    if container == "jsonl":
        rows = [Row(line, fields) for line, fields in parse_jsonl(fetched.data, where=fetched.where)]
        return _table(fetched, container, rows)
    text = decode(fetched.data, where=fetched.where).replace("\r\n", "\n").replace("\r", "\n")
    if container == "json":
        return _table(fetched, container, list(_json_rows(text, fetched.where)), unit="item")
    if container == "text":
        split = _paragraphs(text) if paragraphs else _lines(text)
        rows = [Row(line, {"text": part}) for line, part in split]
        return _table(fetched, container, rows, columns=("text",))
    header, rows = _csv_rows(text, fetched.where, "\t" if container == "tsv" else ",")
    return _table(fetched, container, rows, columns=header)


def _table(
    fetched: Fetched,
    container: str,
    rows: list[Row],
    *,
    unit: str = "line",
    columns: tuple[str, ...] | None = None,
) -> RawTable:
    if columns is None:
        columns = tuple(rows[0].fields) if rows else ()
    return RawTable(fetched.where, container, unit, columns, tuple(rows))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def _paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Parts between lines of dashes where there are such lines, else between blank lines."""
    position = 0
    separators = [match.span() for match in (_RULE if _RULE.search(text) else _BLANK).finditer(text)]
    for start, end in (*separators, (len(text), len(text))):
        part = text[position:start]
        if part.strip():
            leading = len(part) - len(part.lstrip())
            yield text.count("\n", 0, position + leading) + 1, part.strip()
        position = end


def _json_rows(text: str, where: str) -> Iterator[Row]:
    value = parse_json(text, where=where)
    if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
        value = [{"id": key, "text": item} for key, item in value.items()]
    if not isinstance(value, list):
        raise DataError(
            "a list of objects or of strings was expected",
            where=where,
            mend='Write [{"…": "…"}, …] or ["…", …], or one object a line in a .jsonl file.',
        )
    for number, item in enumerate(value, start=1):
        if isinstance(item, str):
            item = {"text": item}
        if not isinstance(item, dict):
            raise DataError(
                f"an object or a string was expected, not {type(item).__name__}",
                where=f"{where} item {number}",
                mend="Mend or remove it.",
            )
        yield Row(number, item)


def _csv_rows(text: str, where: str, delimiter: str) -> tuple[tuple[str, ...], list[Row]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: tuple[str, ...] = ()
    rows = []
    line = 1
    try:
        for cells in reader:
            start, line = line, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = _header(cells, f"{where} line {start}")
            elif len(cells) != len(header):
                raise DataError(
                    f"{len(cells)} cells under a header of {len(header)}",
                    where=f"{where} line {start}",
                    mend="Quote cells that hold commas, quotes or line ends, or fetch the file again.",
                )
            else:
                rows.append(Row(start, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        raise DataError(
            f"not CSV: {error}",
            where=f"{where} line {line}",
            mend="Close the quotes, double those inside a cell, or fetch the file again.",
        ) from None
    return header, rows


def _header(cells: list[str], where: str) -> tuple[str, ...]:
    header = tuple(cell.strip() for cell in cells)
    for name in header:
        if header.count(name) > 1:
            raise DataError(f"the column {name!r} is there twice", where=where, mend="Rename or remove one of the two.")
    return header
