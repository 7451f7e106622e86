"""One file of the inbox: which of its records are good, in which split, and what is wrong with the others.

A file that cannot be read as what it should be (not UTF-8, not a table, a broken line, an unknown field, too many
records) is refused as a whole. In a file that can be read each record stands for itself, and only what is accepted
counts when a family's wordings are dealt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from jpu.data.fetch import Fetched
from jpu.data.newcomers import INBOX, Likeness, likeness, place_behaviors, place_templates
from jpu.data.readers import Table, read_behaviors, read_templates
from jpu.data.schemas import PLACEHOLDER, Behavior, BehaviorDraft, Template, TemplateDraft, fingerprint
from jpu.errors import DataError
from jpu.files import sha256
from tasks import suites
from tasks.expectations import key
from tasks.inbox.known import Known
from tasks.inbox.report import Kind, Problem
from tasks.settings import Settings
from tasks.suites import Checked
from tasks.validation import check, run_suite

DUPLICATES = ("not_known", "not_repeated")
"""Reasons for which a record is passed over without being bad."""
_QUOTED = re.compile(r"""(["'`])((?:(?!\1).)+)\1""", re.DOTALL)
_LONGEST_NAME = 30
# What an expectation counts, where it is not about the text.
_FIELDS = {
    "n_leaks": "split",
    "n_family_splits": "split",
    "n_entity_splits": "split",
    "n_secret_in_query": "secret",
    "n_secret_not_in_answer": "secret",
}

_NOTHING = Likeness("", None)

Records = Sequence[Template] | Sequence[Behavior]


def examine(name: str, kind: Kind, data: bytes, known: Known, settings: Settings) -> tuple[Records, list[Problem]]:
    """Read and check a file.

    Args:
        name: Its name, as it is to be shown.
        kind: What it is to hold.
        data: Its contents.
        known: What the data have.
        settings: Sections `inbox` and `data`, and the seed.

    Returns:
        What is accepted, in its split; why other records, or the whole file, are not.
    """
    fetched = Fetched(where=name, name=PurePosixPath(name).name, data=data, sha256=sha256(data))
    most = settings.inbox.max_records
    try:
        records: Records
        if kind == "templates":
            rows = _rows(read_templates(fetched), most)
            records, problems = _templates(name, rows, known, settings)
        else:
            rows = _rows(read_behaviors(fetched, kind="restricted" if kind == "behaviors" else "benign"), most)
            records, problems = _behaviors(name, rows, known, settings)
        line = {row.place: number for number, row in enumerate(rows)}
        return records, sorted(problems, key=lambda problem: line.get(problem.place, -1))
    except DataError as error:
        return (), [refused(error.where or name, "format", _without_text(error.what), error.mend)]


def refused(place: str, reason: str, what: str, mend: str) -> Problem:
    """The problem of a whole file."""
    return Problem(place, "", reason, what, mend.replace(" Nothing was written.", ""))


@dataclass(frozen=True)
class _Row:
    """A record that was read."""

    place: str
    draft: Any
    like: Likeness = _NOTHING

    @property
    def main(self) -> str:
        """The field that it is compared by."""
        return "text" if isinstance(self.draft, TemplateDraft) else "query"

    @property
    def text(self) -> str:
        """That field's words."""
        return str(getattr(self.draft, self.main))


def _rows(table: Table[TemplateDraft] | Table[BehaviorDraft], most: int) -> list[_Row]:
    if len(table.records) > most:
        raise DataError(f"{len(table.records)} records; {most} are the most", where=table.where, mend="Split the file.")
    return [_Row(table.place(index), draft) for index, draft in enumerate(table.records)]


def _templates(name: str, rows: list[_Row], known: Known, settings: Settings) -> tuple[list[Template], list[Problem]]:
    likes = likeness([row.draft for row in rows], known.templates)
    rows = [replace(row, like=like) for row, like in zip(rows, likes, strict=True)]
    leaks = [bool(row.draft.split and row.like.split) and row.draft.split != row.like.split for row in rows]
    rows, problems = _new(name, rows, known, leaks)
    made = [_provisional(row) for row in rows]
    places = [row.place for row in rows]
    if made:
        checked = suites.templates_suite(made, where=name, places=places, limits=settings.data.limits)
        rows, more = _good(rows, checked)
        problems += more
    placed = place_templates(
        [row.draft for row in rows],
        [row.like for row in rows],
        [template for template in known.templates if template.origin == INBOX],
        held_out=settings.inbox.held_out,
    )
    return placed, problems


def _provisional(row: _Row) -> Template:
    """The template before families are dealt, which only those that are good count in."""
    draft: TemplateDraft = row.draft
    split = draft.split or row.like.split or "train"
    fields = draft.model_dump() | {"family": row.like.family or draft.id, "split": split, "origin": INBOX}
    return Template(**fields)


def _behaviors(name: str, rows: list[_Row], known: Known, settings: Settings) -> tuple[list[Behavior], list[Problem]]:
    entities = {behavior.entity: behavior.split for behavior in known.behaviors}
    leaks = [row.draft.split not in {None, entities.get(row.draft.entity, row.draft.split)} for row in rows]
    rows, problems = _new(name, rows, known, leaks)
    shares = settings.data.shares.by_split()
    made = place_behaviors([row.draft for row in rows], known.behaviors, seed=settings.seed, shares=shares)
    if made:
        places = [row.place for row in rows]
        checked = suites.behaviors_suite(made, where=name, places=places, limits=settings.data.limits)
        rows, more = _good(rows, checked)
        problems += more
        made = place_behaviors([row.draft for row in rows], known.behaviors, seed=settings.seed, shares=shares)
    if made:
        smallest = settings.data.smallest_class
        try:
            check(*suites.balance_suite([*known.behaviors, *made], where=name, smallest_class=smallest))
        except DataError as error:
            # Every record is good, and together they would stop `prepare`.
            return [], [*problems, refused(name, "balance", error.what, "Send records of the other class along.")]
    return made, problems


def _new(name: str, rows: list[_Row], known: Known, leaks: Sequence[bool]) -> tuple[list[_Row], list[Problem]]:
    """The rows that are there for the first time, and in no split that their group is not in; with ids of their own."""
    seen: set[str] = set()
    repeated = []
    for row in rows:
        repeated.append(key(row.text) in seen)
        seen.add(key(row.text))
    there = [key(row.text) in known.texts for row in rows]
    places = [row.place for row in rows]
    misplaced = [isinstance(row.draft, BehaviorDraft) and PLACEHOLDER in row.text for row in rows]
    checked = suites.arrivals_suite(name, places, known=there, repeated=repeated, leaks=leaks, misplaced=misplaced)
    kept, problems = _good(rows, checked)
    ids = set(known.ids)
    renamed = []
    for row in kept:
        draft = row.draft
        if draft.id in ids:
            # Files number their records; two files that both begin with 1 do not speak of one thing.
            own = f"{draft.id}-{fingerprint(row.text)}"
            alone = isinstance(draft, BehaviorDraft) and draft.entity == draft.id
            draft = draft.model_copy(update={"id": own, **({"entity": own} if alone else {})})
        ids.add(draft.id)
        renamed.append(replace(row, draft=draft))
    return renamed, problems


def _good(rows: list[_Row], checked: Checked) -> tuple[list[_Row], list[Problem]]:
    """The rows that no expectation is broken by, and the first problem of each other one."""
    suite, table = checked
    failing: dict[int, Problem] = {}
    for expectation, result in zip(suite.expectations, run_suite(suite, table), strict=True):
        column = str(expectation.arguments.get("column", ""))
        for index in result.failing:
            row = rows[index]
            name = _FIELDS.get(column) or (column if column in type(row.draft).model_fields else row.main)
            problem = Problem(row.place, name, expectation.name, expectation.what, expectation.mend, row.text)
            failing.setdefault(index, problem)
    return [row for index, row in enumerate(rows) if index not in failing], [failing[i] for i in sorted(failing)]


def _without_text(what: str) -> str:
    """A reader's message without what may be a prompt: a table without a header has one where names are expected."""
    return _QUOTED.sub(lambda q: q[0] if len(q[2]) <= _LONGEST_NAME else f"(text {fingerprint(q[2])})", what)
