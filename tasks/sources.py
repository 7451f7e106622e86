"""Bring together what the data section of params.yaml names: records in their splits, each with its place.

Checks the schema of what it reads; whether the records are any good is checked in `tasks.prepare`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from jpu.data.fetch import Fetched, fetch
from jpu.data.readers import Table, read_behaviors, read_refusals, read_templates
from jpu.data.schemas import Behavior, Record, Refusal, Template, make_record
from jpu.data.splits import split_behaviors, split_templates
from jpu.errors import DataError
from jpu.files import read_bytes, sha256
from jpu.parsing import parse_jsonl
from tasks.sections import BehaviorSource, BenignSource, DataSettings, Source
from tasks.suites import schema_suite
from tasks.validation import check

RecordT = TypeVar("RecordT", bound=Record)
DraftT = TypeVar("DraftT", bound=BaseModel)
SourceT = TypeVar("SourceT", bound=Source)

SANDBOX = Path("data/sandbox")
MODELS: dict[str, type[Record]] = {"behaviors": Behavior, "templates": Template, "refusals": Refusal}
_MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class Part(Generic[RecordT]):
    """Records of one kind.

    Attributes:
        where: The files that they are from.
        records: The records.
        places: File and line of each.
    """

    where: str
    records: Sequence[RecordT]
    places: Sequence[str]


@dataclass(frozen=True)
class Collection:
    """Everything that is prepared.

    Attributes:
        behaviors: Behaviors in their splits.
        templates: Templates in their splits.
        refusals: Refusals.
        sources: For each file its name, layout, digest and number of records.
        results: Results of the schema checks, where they were asked for.
    """

    behaviors: Part[Behavior]
    templates: Part[Template]
    refusals: Part[Refusal]
    sources: Sequence[dict[str, Any]]
    results: Sequence[dict[str, Any]]


def read_data(settings: DataSettings, *, seed: int, sandbox: Path = SANDBOX, schema: bool = False) -> Collection:
    """Read what the data section names: the sandbox, or files.

    Args:
        settings: Section `data`.
        seed: Seed of the splits of data that brings none.
        sandbox: Folder of the sandbox.
        schema: Check the sandbox's schema with Great Expectations too (see `read_folder`).

    Raises:
        DataError: A file is missing or does not fit; names file, line and mend.
        StorageError: A file cannot be read.
        InfrastructureError: An address cannot be reached.
    """
    inputs(settings, sandbox)
    return read_folder(sandbox, schema=schema) if settings.source == "sandbox" else read_sources(settings, seed=seed)


def read_folder(folder: Path, *, shown: Path | None = None, schema: bool = False) -> Collection:
    """Read behaviors.jsonl, templates.jsonl and refusals.jsonl, complete records of ours.

    Args:
        folder: Where the files are.
        shown: Where messages say that they are, if elsewhere.
        schema: Check the schema with Great Expectations too, which takes seconds to import: for `prepare`. Without
            it a record that does not fit is refused all the same, one line at a time.

    Raises:
        DataError: A file is missing, malformed or not of its schema; names file, line and mend.
        StorageError: A file cannot be read.
    """
    results: list[dict[str, Any]] = []
    sources: list[dict[str, Any]] = []
    parts: dict[str, Part[Any]] = {}
    for name, model in MODELS.items():
        where = str((shown or folder) / f"{name}.jsonl")
        data = read_bytes(folder / f"{name}.jsonl")
        rows = list(parse_jsonl(data, where=where))
        places = [f"{where} line {line}" for line, _ in rows]
        raw = [fields for _, fields in rows]
        if schema:
            results += check(
                *schema_suite(raw, names=list(model.model_fields), where=where, places=places, optional=model.optional)
            )
        records = [make_record(model, row, where=place) for row, place in zip(raw, places, strict=True)]
        parts[name] = Part(where, records, places)
        sources.append(_source(f"{name}.jsonl", "jpu", sha256(data), len(records)))
    return Collection(**parts, sources=sources, results=results)


def read_sources(settings: DataSettings, *, seed: int) -> Collection:
    """Read the files that the section names, and deal what brings no split.

    Raises:
        DataError: A file does not fit, or there is too little for three splits; names file, line and mend.
        StorageError: A file cannot be read.
        InfrastructureError: An address cannot be reached.
    """
    sources: list[dict[str, Any]] = []

    def keep(fetched: Fetched, table: Table[DraftT]) -> Table[DraftT]:
        sources.append(_source(_name(fetched), table.layout, table.sha256, len(table.records)))
        return table

    asked: list[BehaviorSource | BenignSource] = [*settings.behaviors, *settings.benign]
    behaviors = [
        keep(fetched, read_behaviors(fetched, kind=source.kind, layout=source.format))
        for source, fetched in _fetched(asked, settings)
    ]
    templates = [
        keep(fetched, read_templates(fetched, role=s.role, placeholder=s.placeholder, layout=s.format))
        for s, fetched in _fetched(settings.templates, settings)
    ]
    refusals = [
        keep(fetched, read_refusals(fetched, layout=source.format))
        for source, fetched in _fetched(settings.refusals, settings)
    ]
    shares = settings.shares.by_split()
    return Collection(
        behaviors=_part(behaviors, split_behaviors(_records(behaviors), seed=seed, shares=shares)),
        templates=_part(templates, split_templates(_records(templates), seed=seed, shares=shares)),
        refusals=_part(refusals, _records(refusals)),
        sources=sources,
        results=[],
    )


def _fetched(named: Iterable[SourceT], settings: DataSettings) -> Iterator[tuple[SourceT, Fetched]]:
    for source in named:
        yield (
            source,
            fetch(
                source.path,
                sha256=source.sha256,
                timeout=settings.timeout_seconds,
                max_bytes=settings.max_file_mib * _MEBIBYTE,
            ),
        )


def _records(tables: Iterable[Table[DraftT]]) -> list[DraftT]:
    return [record for table in tables for record in table.records]


def _part(tables: Sequence[Table[Any]], records: Sequence[RecordT]) -> Part[RecordT]:
    """The records with the places of the drafts that they were made from, in the same order."""
    places = [table.place(index) for table in tables for index in range(len(table.records))]
    return Part(", ".join(table.where for table in tables), records, places)


def _name(fetched: Fetched) -> str:
    """What a local file is called, without folders that say where this machine keeps it; else the address."""
    return fetched.where if "://" in fetched.where or fetched.where.startswith("hf:") else fetched.name


def _source(name: str, layout: str, digest: str, records: int) -> dict[str, Any]:
    return {"name": name, "layout": layout, "sha256": digest, "records": records}


def inputs(settings: DataSettings, sandbox: Path) -> list[Path]:
    """The local files and folders that are read: a run's record has them as inputs.

    Raises:
        DataError: One of them is not there.
    """
    if settings.source == "sandbox":
        if not sandbox.is_dir():
            raise DataError(
                "no such folder",
                where=str(sandbox),
                mend=f"Run `dvc checkout data.dvc`, or make it with `python -m jpu.sandbox {sandbox}`. "
                "Nothing was written.",
            )
        return [sandbox]
    named = (*settings.behaviors, *settings.benign, *settings.templates, *settings.refusals)
    found = [Path(s.path) for s in named if "://" not in s.path and not s.path.startswith("hf:")]
    for path in found:
        if not path.exists():
            raise DataError("no such file", where=str(path), mend="Mend the path in params.yaml. Nothing was written.")
    return found
