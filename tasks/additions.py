"""What came in through the inbox, data/inbox/, beside the data's own records.

The files are written by `tasks.inbox`, complete records in their splits. Where the data of the chosen profile have a
record already, theirs stays and the inbox's is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jpu.data.schemas import Behavior, Record, Template, make_record
from jpu.files import read_bytes, sha256
from jpu.parsing import parse_jsonl
from tasks.expectations import key
from tasks.sources import Collection, Part
from tasks.suites import schema_suite
from tasks.validation import check

INBOX = Path("data/inbox")
MODELS: dict[str, type[Record]] = {"templates": Template, "behaviors": Behavior, "benign": Behavior}
"""The folders of the inbox, and what their files hold."""


def read_inbox(folder: Path = INBOX, *, schema: bool = False, without: Path | None = None) -> Collection | None:
    """Read data/inbox; None where nothing came in.

    Args:
        folder: Where it is.
        without: A file of it that is passed over.
        schema: Check the schema with Great Expectations too (see `tasks.sources.read_folder`).

    Raises:
        DataError: A file is malformed or not of its schema; names file, line and mend.
        StorageError: A file cannot be read.
    """
    found = {kind: [path for path in sorted((folder / kind).glob("*.jsonl")) if path != without] for kind in MODELS}
    kinds = {kind: paths for kind, paths in found.items() if paths}
    if not kinds:
        return None
    results: list[dict[str, Any]] = []
    sources: list[dict[str, Any]] = []
    parts: dict[str, Part[Any]] = {kind: Part(str(folder / kind), [], []) for kind in MODELS}
    for kind, paths in kinds.items():
        model, where = MODELS[kind], str(folder / kind)
        places: list[str] = []
        raw: list[dict[str, Any]] = []
        for path in paths:
            data = read_bytes(path)
            rows = list(parse_jsonl(data, where=str(path)))
            places += [f"{path} line {line}" for line, _ in rows]
            raw += [fields for _, fields in rows]
            name = f"inbox/{kind}/{path.name}"
            sources.append({"name": name, "layout": "jpu", "sha256": sha256(data), "records": len(rows)})
        if schema:
            names = list(model.model_fields)
            results += check(*schema_suite(raw, names=names, where=where, places=places, optional=model.optional))
        records = [make_record(model, row, where=place) for row, place in zip(raw, places, strict=True)]
        parts[kind] = Part(where, records, places)
    return Collection(
        behaviors=_joined(parts["behaviors"], parts["benign"]),
        templates=parts["templates"],
        refusals=Part("", [], []),
        sources=sources,
        results=results,
    )


def add(own: Collection, inbox: Collection | None) -> tuple[Collection, int]:
    """The data's own records, then those of the inbox; and how many of these are left out as known."""
    if inbox is None:
        return own, 0
    behaviors = _new(inbox.behaviors, {key(b.query) for b in own.behaviors.records}, "query")
    templates = _new(inbox.templates, {key(t.text) for t in own.templates.records}, "text")
    before = len(inbox.behaviors.records) + len(inbox.templates.records)
    together = replace(
        own,
        behaviors=_joined(own.behaviors, behaviors),
        templates=_joined(own.templates, templates),
        sources=[*own.sources, *inbox.sources],
        results=[*own.results, *inbox.results],
    )
    return together, before - len(behaviors.records) - len(templates.records)


def _new(part: Part[Any], known: set[str], field: str) -> Part[Any]:
    kept = [index for index, record in enumerate(part.records) if key(getattr(record, field)) not in known]
    return Part(part.where, _at(part.records, kept), _at(part.places, kept))


def _at(values: Sequence[Any], indices: Sequence[int]) -> list[Any]:
    return [values[index] for index in indices]


def _joined(first: Part[Any], second: Part[Any]) -> Part[Any]:
    if not second.records:
        return first
    where = ", ".join(where for where in (first.where, second.where) if where)
    return Part(where, [*first.records, *second.records], [*first.places, *second.places])
