"""What has to hold for the data that comes in and goes out: a table and a suite for each kind of record.

`tasks.validation` runs them; `tasks.attack_suites` has those of mining and evaluation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from jpu.data.schemas import KINDS, PLACEHOLDER, SPLITS, Behavior, Refusal, Template
from tasks.expectations import (
    LONGEST_NAME,
    MEND_MORE,
    MEND_UNUSABLE,
    WHAT_UNUSABLE,
    at_least,
    common,
    fields,
    holds,
    in_set,
    key,
    length,
    not_empty,
    one,
    split_places,
    splits_of,
    unique,
    unusable,
    zero,
)
from tasks.sections import Limits
from tasks.validation import Expectation, Rows, Suite

Checked = tuple[Suite, Rows]


def schema_suite(
    raw: Sequence[Mapping[str, Any]],
    *,
    names: Sequence[str],
    where: str,
    places: Sequence[str],
    optional: Sequence[str] = (),
) -> Checked:
    """Raw JSON objects, before they become records: exactly the fields of their schema, in every line.

    Args:
        raw: The objects.
        names: The fields of the schema.
        where: The file.
        places: File and line of each.
        optional: Those that a line may lack.
    """
    found = sorted({name for row in raw for name in row})
    names = [name for name in names if name not in optional or name in found]
    columns: dict[str, list[Any]] = {name: [row.get(name) for row in raw] for name in found}
    suite = Suite(
        "schema",
        [
            not_empty("record"),
            zero(
                "every_field",
                "n_missing",
                "a field is missing",
                f"Write every field: {', '.join(names)}.",
            ),
            Expectation(
                "columns",
                "TableColumnsToMatchSet",
                f"fields {', '.join(found)} where {', '.join(names)} were expected",
                "Rename or remove the others.",
                {"column_set": [*names, "n_missing"], "exact_match": True},
            ),
        ],
    )
    columns["n_missing"] = [sum(name not in row and name not in optional for name in names) for row in raw]
    return suite, Rows(where, places, columns)


def behaviors_suite(records: Sequence[Behavior], *, where: str, places: Sequence[str], limits: Limits) -> Checked:
    """Behaviors in their splits: ids, texts, kinds, secrets, and no leakage between splits."""
    keys = [key(record.query) for record in records]
    entity_splits = splits_of((record.entity, record.split) for record in records)
    query_splits = splits_of((key, record.split) for key, record in zip(keys, records, strict=True))
    columns = {
        **fields(records),
        "query_key": keys,
        "n_unusable": [unusable(record.query, record.answer, record.secret) for record in records],
        "n_entity_splits": [len(entity_splits[record.entity]) for record in records],
        "n_query_splits": [len(query_splits[key]) for key in keys],
        "n_secret_in_query": [int(holds(record.query, record.secret)) for record in records],
        "n_secret_not_in_answer": [
            int(bool(record.secret and record.answer) and not holds(record.answer, record.secret)) for record in records
        ],
    }
    suite = Suite(
        "behaviors",
        [
            *common("behavior"),
            in_set("kind", KINDS, "kind"),
            in_set("split", SPLITS, "split"),
            length("entity", 1, LONGEST_NAME),
            length("query", 1, limits.query),
            length("answer", 0, limits.answer),
            zero("encoding", "n_unusable", WHAT_UNUSABLE, MEND_UNUSABLE),
            one(
                "entity_in_one_split",
                "n_entity_splits",
                "an entity is in more than one split",
                "Give all behaviors of an entity the same split, or none, and they are dealt together.",
            ),
            one(
                "query_in_one_split",
                "n_query_splits",
                "the same query is in more than one split",
                "Keep one of them.",
            ),
            unique("unique_query", "query_key", "the same query is there twice", "Keep one of them."),
            zero(
                "secret_not_in_query",
                "n_secret_in_query",
                "the query already holds the secret",
                "Ask without it.",
            ),
            zero(
                "secret_in_answer",
                "n_secret_not_in_answer",
                "the secret is not in the answer",
                "Write it into the answer, or leave the secret empty.",
            ),
        ],
    )
    return suite, Rows(where, places, columns)


def balance_suite(records: Sequence[Behavior], *, where: str, smallest_class: float) -> Checked:
    """Restricted against answered behaviors, a row a split."""
    counts = Counter((record.split, record.kind == "restricted") for record in records)
    restricted = [counts[split, True] for split in SPLITS]
    answered = [counts[split, False] for split in SPLITS]
    share = [min(r, a) / max(1, r + a) for r, a in zip(restricted, answered, strict=True)]
    suite = Suite(
        "balance",
        [
            at_least("restricted_in_every_split", "n_restricted", 1, "no restricted behaviors", MEND_MORE),
            at_least("answered_in_every_split", "n_answered", 1, "no behaviors to be answered", MEND_MORE),
            at_least(
                "classes_balanced",
                "n_share",
                smallest_class,
                f"the smaller class (restricted, answered) has less than {smallest_class:g} of it",
                "Add records of that class, or lower smallest_class in params.yaml.",
            ),
        ],
    )
    columns: dict[str, Sequence[float]] = {
        "n_restricted": restricted,
        "n_answered": answered,
        "n_share": share,
    }
    return suite, Rows(where, split_places(where), columns)


def templates_suite(records: Sequence[Template], *, where: str, places: Sequence[str], limits: Limits) -> Checked:
    """Templates in their splits: ids, texts, exactly one placeholder, and no leakage between splits."""
    keys = [key(record.text) for record in records]
    # Of the data's own templates a family is in one split; of those from the inbox only the wording is, unless the
    # family is one of the data's own.
    own = splits_of((record.family, record.split) for record in records if not record.origin)
    text_splits = splits_of((key, record.split) for key, record in zip(keys, records, strict=True))
    columns = {
        **fields(records),
        "text_key": keys,
        "n_placeholders": [record.text.count(PLACEHOLDER) for record in records],
        "n_unusable": [unusable(record.text) for record in records],
        "n_family_splits": [len(own.get(record.family, set()) | {record.split}) for record in records],
        "n_text_splits": [len(text_splits[key]) for key in keys],
    }
    suite = Suite(
        "templates",
        [
            *common("template"),
            in_set("role", ("jailbreak", "polite"), "role"),
            in_set("split", SPLITS, "split"),
            length("family", 1, LONGEST_NAME),
            at_least(
                "a_placeholder",
                "n_placeholders",
                1,
                f"no {PLACEHOLDER} placeholder in the template",
                f"Add {PLACEHOLDER} where the question goes, or remove the template; a placeholder of "
                "another kind is named by `placeholder` in params.yaml.",
            ),
            one(
                "one_placeholder",
                "n_placeholders",
                f"more than one {PLACEHOLDER} placeholder in the template",
                "Leave the one where the question goes.",
            ),
            length("text", 1, limits.template),
            zero("encoding", "n_unusable", WHAT_UNUSABLE, MEND_UNUSABLE),
            one(
                "family_in_one_split",
                "n_family_splits",
                "a family is in more than one split",
                "Give all templates of a family the same split, or none, and they are dealt together.",
            ),
            one(
                "text_in_one_split",
                "n_text_splits",
                "the same template is in more than one split",
                "Keep one of them.",
            ),
            unique("unique_text", "text_key", "the same template is there twice", "Keep one of them."),
        ],
    )
    return suite, Rows(where, places, columns)


def arrivals_suite(
    where: str,
    places: Sequence[str],
    *,
    known: Sequence[bool],
    repeated: Sequence[bool],
    leaks: Sequence[bool],
    misplaced: Sequence[bool],
) -> Checked:
    """Records of the inbox against what is there: nothing twice, and nothing that is held out comes to train.

    Args:
        where: The file.
        places: File and line of each record.
        known: Whether the data have its text already.
        repeated: Whether an earlier record of the file has it.
        leaks: Whether its split is not that of the group which it belongs to.
        misplaced: Whether it is a template among behaviors.
    """
    suite = Suite(
        "arrivals",
        [
            zero("not_known", "n_known", "the data have it already", "Nothing is to be done."),
            zero("not_repeated", "n_repeated", "the file has it twice", "Nothing is to be done: the first was taken."),
            zero(
                "held_out_stays_held_out",
                "n_leaks",
                "its split is not that of its family or entity (or of the template that it nearly copies) in the data",
                "Leave the split empty, and it follows the data.",
            ),
            zero("no_template", "n_misplaced", f"a behavior with {PLACEHOLDER} in it", "Put it into templates/."),
        ],
    )
    flags = {"n_known": known, "n_repeated": repeated, "n_leaks": leaks, "n_misplaced": misplaced}
    return suite, Rows(where, places, {name: [int(flag) for flag in column] for name, column in flags.items()})


def coverage_suite(records: Sequence[Template], *, where: str) -> Checked:
    """Jailbreak templates in every split, a row a split."""
    counts = Counter(record.split for record in records if record.role == "jailbreak")
    suite = Suite(
        "coverage",
        [at_least("jailbreaks_in_every_split", "n_jailbreaks", 1, "no jailbreak templates", MEND_MORE)],
    )
    return suite, Rows(where, split_places(where), {"n_jailbreaks": [counts[split] for split in SPLITS]})


def refusals_suite(records: Sequence[Refusal], *, where: str, places: Sequence[str], limits: Limits) -> Checked:
    """Refusals: ids, texts, nothing left to be filled in."""
    columns = {
        **fields(records),
        "text_key": [key(record.text) for record in records],
        "n_unusable": [unusable(record.text) for record in records],
        "n_placeholders": [len(re.findall(r"\{\w*\}", record.text)) for record in records],
    }
    suite = Suite(
        "refusals",
        [
            *common("refusal"),
            length("text", 1, limits.refusal),
            zero("encoding", "n_unusable", WHAT_UNUSABLE, MEND_UNUSABLE),
            zero(
                "no_placeholder",
                "n_placeholders",
                "a placeholder is left in the refusal",
                "Write the refusal as the subject says it.",
            ),
            unique("unique_text", "text_key", "the same refusal is there twice", "Keep one of them."),
        ],
    )
    return suite, Rows(where, places, columns)
