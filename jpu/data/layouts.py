"""What the columns of known files mean: public benchmarks, our own records, and tables of a plain kind.

The layout of a file is told from its columns, whatever container (CSV, TSV, JSON, JSONL) holds them:

    jpu            our own records (`jpu.data.schemas`); unknown fields are refused
    harmbench      Behavior, FunctionalCategory, SemanticCategory, Tags, ContextString, BehaviorID
    jailbreakbench Index, Goal, Target, Behavior, Category, Source
    strongreject   category, source, forbidden_prompt
    advbench       goal, target
    table          any table with a column for the text; columns that are not known are ignored
    text           plain text, one record a line (templates: a paragraph)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from pydantic import BaseModel

from jpu.data.schemas import BehaviorDraft, Refusal, TemplateDraft, fingerprint
from jpu.errors import DataError

Layout = Literal["jpu", "harmbench", "jailbreakbench", "strongreject", "advbench", "table", "text"]
Records = Literal["behaviors", "templates", "refusals"]
Fields = dict[str, Any]

LAYOUTS: tuple[Layout, ...] = get_args(Layout)

_LONGEST_NAME = 30

# Needed columns, in the order of sniffing: JailbreakBench has AdvBench's columns too.
_BENCHMARKS: dict[Layout, tuple[str, ...]] = {
    "harmbench": ("Behavior", "BehaviorID"),
    "jailbreakbench": ("Index", "Goal", "Target"),
    "strongreject": ("forbidden_prompt",),
    "advbench": ("goal", "target"),
}
_TEXT_COLUMNS: dict[Records, tuple[str, ...]] = {
    "behaviors": ("query", "prompt", "question", "instruction", "goal", "behavior", "text"),
    "templates": ("text", "template", "prompt", "jailbreak_prompt", "jailbreak", "value", "content"),
    "refusals": ("text", "refusal", "response", "completion", "output"),
}
_OTHER_COLUMNS: dict[str, tuple[str, ...]] = {
    "id": ("id", "behaviorid", "name", "title"),
    "answer": ("answer", "target", "response", "completion", "output"),
    "family": ("family", "technique", "category"),
}
_RECORDS: dict[Records, type[BaseModel]] = {
    "behaviors": BehaviorDraft,
    "templates": TemplateDraft,
    "refusals": Refusal,
}


def sniff(records: Records, columns: Sequence[str], *, where: str) -> Layout:
    """Tell the layout of a file from its columns.

    Raises:
        DataError: No column that could hold the text.
    """
    found = set(columns)
    own = set(_RECORDS[records].model_fields)
    if records == "behaviors":
        for layout, needed in _BENCHMARKS.items():
            if found.issuperset(needed):
                return layout
        if "query" in found:
            return "jpu"
    elif "text" in found and (found <= own or found & {"family", "role", "split"}):
        return "jpu"
    if _column(columns, _TEXT_COLUMNS[records]):
        return "table"
    raise _wrong_columns(records, columns, where)


def require(layout: Layout, records: Records, columns: Sequence[str], *, where: str) -> None:
    """Check that a file has the columns of the layout that was asked for.

    Raises:
        DataError: Columns are missing, or the layout does not hold such records.
    """
    if layout in _BENCHMARKS:
        missing = [name for name in _BENCHMARKS[layout] if name not in columns]
        if records != "behaviors" or missing:
            raise _wrong_columns(records, columns, where, layout=layout)
    elif layout in {"table", "text"} and not _column(columns, _TEXT_COLUMNS[records]):
        raise _wrong_columns(records, columns, where, layout=layout)


def interpret(layout: Layout, records: Records, row: Mapping[str, Any], *, where: str) -> Fields:
    """Map a row to the fields of a draft record; what the file does not say is left out.

    Raises:
        DataError: A cell that must be text is something else.
    """
    if layout == "jpu":
        # An empty cell is how a CSV leaves a field open.
        return {key: value for key, value in row.items() if value is not None and value != ""}
    if layout == "harmbench":
        context = _text(row, "ContextString", where)
        behavior = _text(row, "Behavior", where)
        # As HarmBench puts a context before its behavior.
        query = f"{context}\n\n---\n\n{behavior}" if context else behavior
        return {"id": _text(row, "BehaviorID", where), "query": query}
    if layout == "jailbreakbench":
        # The harmful and the benign list go in pairs: one theme an index, which must not be split.
        theme = "jailbreakbench-" + _text(row, "Index", where)
        return {"entity": theme, "query": _text(row, "Goal", where), "answer": _text(row, "Target", where)}
    if layout == "strongreject":
        return {"query": _text(row, "forbidden_prompt", where)}
    if layout == "advbench":
        return {"query": _text(row, "goal", where), "answer": _text(row, "target", where)}
    return _table_row(records, row, where)


def _table_row(records: Records, row: Mapping[str, Any], where: str) -> Fields:
    main = "query" if records == "behaviors" else "text"
    column = _column(list(row), _TEXT_COLUMNS[records])
    if column is None:
        raise _wrong_columns(records, list(row), where)
    fields: Fields = {main: _text(row, column, where)}
    for name in _RECORDS[records].model_fields:
        other = _column([key for key in row if key != column], _OTHER_COLUMNS.get(name, (name,)))
        if name != main and name != "source" and other and (value := _text(row, other, where)):
            fields[name] = value
    return fields


def _column(columns: Sequence[str], names: Sequence[str]) -> str | None:
    lowered = {column.lower(): column for column in reversed(columns)}
    return next((lowered[name] for name in names if name in lowered), None)


def _text(row: Mapping[str, Any], column: str, where: str) -> str:
    value = row.get(column)
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise DataError(f"{column!r} holds {type(value).__name__}, not text", where=where, mend="Mend or remove it.")
    return value.strip()


def _wrong_columns(records: Records, columns: Sequence[str], where: str, layout: Layout | None = None) -> DataError:
    # A table without a header has a record where the names are expected, which no message may show.
    found = (
        ", ".join(name if len(name) <= _LONGEST_NAME else f"(text {fingerprint(name)})" for name in columns) or "none"
    )
    if layout in _BENCHMARKS and records != "behaviors":
        return DataError(
            f"the format {layout} holds behaviors, not {records}",
            where=where,
            mend="Remove the format in params.yaml.",
        )
    if layout in _BENCHMARKS:
        needed = "the columns " + ", ".join(_BENCHMARKS[layout])
    else:
        needed = "one of the columns " + ", ".join(_TEXT_COLUMNS[records])
    return DataError(
        f"wrong columns for {layout or records}: found {found}; needed {needed}",
        where=where,
        mend="Mend the first line, or name the format in params.yaml. Nothing was written.",
    )
