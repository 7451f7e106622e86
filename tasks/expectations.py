"""The words that suites are written in: short forms of expectations, and the columns that they count.

Counts (columns that begin with `n_`) are made in Python, so that an expectation is a bound on a number and
says which rows break it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel

from jpu.data.schemas import SPLITS
from tasks.validation import Expectation

LONGEST_NAME = 200
_UNUSABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd\ufeff\ufffe\uffff\ud800-\udfff]")
WHAT_UNUSABLE = "a control or replacement character (a sign of a wrong encoding)"
MEND_UNUSABLE = "Save the file as UTF-8 from its source, or remove the character."
MEND_MORE = "Add records, or leave their splits open so that they are dealt."


def common(noun: str) -> list[Expectation]:
    """What holds for every kind of record: there is one, and ids are there and unique."""
    return [
        not_empty(noun),
        length("id", 1, LONGEST_NAME),
        unique("unique_id", "id", "the same id is there twice", f"Give each {noun} an id of its own."),
    ]


def not_empty(noun: str) -> Expectation:
    """At least one row."""
    return Expectation("not_empty", "TableRowCountToBeBetween", f"not one {noun}", "Add records.", {"min_value": 1})


def unique(name: str, column: str, what: str, mend: str) -> Expectation:
    """No value of the column twice."""
    return Expectation(name, "ColumnValuesToBeUnique", what, mend, {"column": column})


def in_set(
    column: str,
    values: Iterable[str],
    name: str,
    what: str | None = None,
    mend: str | None = None,
) -> Expectation:
    """Only these values in the column; by default the message names them."""
    values = list(values)
    return Expectation(
        name,
        "ColumnValuesToBeInSet",
        what or f"unknown {column}",
        mend or f"Use one of: {', '.join(values)}.",
        {"column": column, "value_set": values},
    )


def length(column: str, least: int, most: int) -> Expectation:
    """Texts of the column between these lengths, in characters."""
    return Expectation(
        f"{column}_length",
        "ColumnValueLengthsToBeBetween",
        f"{column} is not {least} to {most} characters long",
        "Mend or remove it, or raise the limit in params.yaml.",
        {"column": column, "min_value": least, "max_value": most},
    )


def at_least(name: str, column: str, least: float, what: str, mend: str) -> Expectation:
    """Numbers of the column not below `least`."""
    return Expectation(name, "ColumnValuesToBeBetween", what, mend, {"column": column, "min_value": least})


def one(name: str, column: str, what: str, mend: str) -> Expectation:
    """Counts of the column are 1."""
    return Expectation(name, "ColumnValuesToBeBetween", what, mend, {"column": column, "min_value": 1, "max_value": 1})


def zero(name: str, column: str, what: str, mend: str) -> Expectation:
    """Counts of the column are 0."""
    return Expectation(name, "ColumnValuesToBeBetween", what, mend, {"column": column, "min_value": 0, "max_value": 0})


def fields(records: Sequence[BaseModel]) -> dict[str, list[Any]]:
    """The records' fields as columns."""
    names = type(records[0]).model_fields if records else ()
    return {name: [getattr(record, name) for record in records] for name in names}


def key(text: str) -> str:
    """The text by which two are the same: case and white space do not count."""
    return " ".join(text.casefold().split())


def unusable(*texts: str) -> int:
    """Characters that no text should hold: control and replacement characters."""
    return sum(len(_UNUSABLE.findall(text)) for text in texts)


def holds(text: str, secret: str) -> bool:
    """Whether a text gives the secret away; False without a secret."""
    return bool(secret) and key(secret) in key(text)


def splits_of(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """Name → the splits that it is found in."""
    found: dict[str, set[str]] = {}
    for name, split in pairs:
        found.setdefault(name, set()).add(split)
    return found


def split_places(where: str) -> list[str]:
    """The place of each split's row."""
    return [f"{where} split {split}" for split in SPLITS]


def line_places(where: str, count: int) -> list[str]:
    """The place of each record in a file of records."""
    return [f"{where} line {number}" for number in range(1, count + 1)]
