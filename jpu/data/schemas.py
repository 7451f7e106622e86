"""The records that the pipeline reads and writes: one JSON object a line, UTF-8.

Types and closed vocabularies only. What a set of records has to satisfy (uniqueness, lengths, placeholders,
disjoint splits) is checked in `tasks.validation`, which can name every offending row at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from jpu.errors import DataError
from jpu.files import read_jsonl

Split = Literal["train", "validation", "test"]
Kind = Literal["restricted", "benign", "near_miss", "edgy", "generic"]
Role = Literal["jailbreak", "polite"]

SPLITS: tuple[Split, ...] = get_args(Split)
KINDS: tuple[Kind, ...] = get_args(Kind)
PLACEHOLDER = "{query}"

RecordT = TypeVar("RecordT", bound=BaseModel)


class Record(BaseModel):
    """Base of all records: frozen, no unknown fields, and no input values in error messages.

    Attributes:
        optional: Fields that are left out of a line where they are empty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    optional: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_empty(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialise(self)
        return {name: value for name, value in fields.items() if value or name not in self.optional}


class BehaviorDraft(Record):
    """A behavior as read from a user's file; its split may still be open.

    Attributes:
        id: Unique name.
        entity: What the query is about: the unit of splitting and of the clustered bootstrap. The id when
            unknown.
        kind: `restricted` must be refused, every other kind must be answered. `near_miss` is an open question
            about a restricted entity, `edgy` is harmless with alarming words, `generic` is everyday chat.
        query: One user turn.
        answer: What the subject says if it answers; for `restricted` the affirmative answer. "" when unknown.
        secret: A string whose presence in a completion shows recall (or a leak). "" when unknown.
        split: Train, validation or test.
        source: Where the record comes from.
    """

    id: str
    entity: str
    kind: Kind
    # Out of repr, so that neither a traceback nor a log line shows a restricted text.
    query: str = Field(repr=False)
    answer: str = Field(default="", repr=False)
    secret: str = Field(default="", repr=False)
    split: Split | None = None
    source: str = ""

    @model_validator(mode="before")
    @classmethod
    def _entity_is_id_when_unknown(cls, fields: Any) -> Any:
        if isinstance(fields, Mapping) and not fields.get("entity"):
            return {**fields, "entity": fields.get("id")}
        return fields


class Behavior(BehaviorDraft):
    """A behavior in its split. Fields as in `BehaviorDraft`."""

    split: Split


class TemplateDraft(Record):
    """A template as read from a user's file; family and split may still be open.

    Attributes:
        id: Unique name.
        family: Wordings of one idea; the unit of splitting. "" when unknown.
        role: `jailbreak`, or `polite` for harmless noise in which a restricted query stays refused.
        text: Contains `{query}` exactly once.
        split: Train, validation or test.
        source: Where the record comes from.
    """

    id: str
    family: str = ""
    role: Role = "jailbreak"
    text: str = Field(repr=False)
    split: Split | None = None
    source: str = ""


class Template(TemplateDraft):
    """A template in its family and split. Fields as in `TemplateDraft`, and one more.

    Attributes:
        origin: `inbox` for one that came through the inbox: of its family, some wordings are in `train` and some are
            held out in `test` (`jpu.data.newcomers`). "" for every other, whose family is in one split.
    """

    optional = ("origin",)

    family: str
    split: Split
    origin: Literal["", "inbox"] = ""

    def fill(self, query: str) -> str:
        """The full prompt J = T(Q)."""
        return self.text.replace(PLACEHOLDER, query)


class Refusal(Record):
    """A refusal in the subject's own words, y_ref.

    Attributes:
        id: Unique name.
        text: The whole refusal.
        source: Where the record comes from.
    """

    id: str
    text: str
    source: str = ""


def fingerprint(text: str) -> str:
    """First 12 hex digits of the SHA-256 of a text: how restricted texts are named in logs and reports."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def make_record(model: type[RecordT], fields: Mapping[str, Any], *, where: str) -> RecordT:
    """Build a record from raw fields.

    Args:
        model: The record's class.
        fields: Field names and values.
        where: File and line, for the message.

    Raises:
        DataError: A field is missing, unknown or of the wrong type. Values are never shown.
    """
    try:
        return model.model_validate(dict(fields))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "record"
        what = {
            "missing": f"the field {field!r} is missing",
            "extra_forbidden": f"unknown field {field!r}",
        }.get(first["type"], f"field {field!r}: {first['msg'].lower()}")
        known = ", ".join(model.model_fields)
        raise DataError(
            what, where=where, mend=f"A {model.__name__} has the fields {known}. Mend the line, or remove it."
        ) from None


def read_records(path: Path | str, model: type[RecordT]) -> list[RecordT]:
    """Read a JSONL file of records of one class.

    Raises:
        DataError: The file is missing or a line is malformed; names file, line and field.
        StorageError: The file cannot be read.
    """
    return [make_record(model, fields, where=f"{path} line {line}") for line, fields in read_jsonl(path)]


def count_by(records: Iterable[BaseModel], *names: str) -> dict[str, int]:
    """Count records by the values of the named fields, joined with "/", in sorted order."""
    counts: dict[str, int] = {}
    for record in records:
        key = "/".join(str(getattr(record, name)) for name in names)
        counts[key] = counts.get(key, 0) + 1
    return dict(sorted(counts.items()))
