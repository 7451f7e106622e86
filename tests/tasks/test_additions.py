"""data/inbox beside the data's own records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jpu.data.schemas import Template, read_records
from jpu.errors import DataError
from tasks.prepare import prepare
from tasks.sections import DataSettings


def template(number: int, **fields: str) -> dict[str, Any]:
    text = f"Number {number} of the night radio: {{query}}"
    return {
        "id": f"n{number}",
        "family": "radio",
        "role": "jailbreak",
        "text": text,
        "split": "train",
        "source": "in",
    } | {
        "origin": "inbox",
        **fields,
    }


@pytest.fixture
def run(write_sandbox, rows, make_data: Callable[..., DataSettings], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Prepares the small sandbox with these files in data/inbox/templates."""

    def prepared(*files: list[dict[str, Any]], kind: str = "templates") -> dict[str, Any]:
        folder = tmp_path / "inbox" / kind
        folder.mkdir(parents=True, exist_ok=True)
        for number, records in enumerate(files):
            (folder / f"{number}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        sandbox = write_sandbox(rows)
        return prepare(make_data(), seed=0, sandbox=sandbox, inbox=tmp_path / "inbox", prepared=tmp_path / "prepared")

    return prepared


def test_a_family_of_the_inbox_may_be_in_two_splits(run, tmp_path: Path) -> None:
    manifest = run([template(1), template(2)], [template(3, split="test")])
    found = read_records(tmp_path / "prepared" / "templates.jsonl", Template)
    assert [(t.id, t.split) for t in found if t.origin] == [("n1", "train"), ("n2", "train"), ("n3", "test")]
    assert [source["name"] for source in manifest["sources"]][3:] == [
        "inbox/templates/0.jsonl",
        "inbox/templates/1.jsonl",
    ]


def test_a_wording_may_not(run) -> None:
    with pytest.raises(DataError, match="in more than one split"):
        run([template(1)], [template(2, split="test", text=template(1)["text"].upper().replace("{QUERY}", "{query}"))])


@pytest.mark.parametrize("origin", ["inbox", ""])
def test_a_family_of_the_data_stays_in_its_split(run, origin: str) -> None:
    with pytest.raises(DataError, match=r"a family is in more than one split.*family_in_one_split"):
        run([template(1, family="family_test", origin=origin)])


def test_a_family_without_the_mark_stays_in_one_split(run) -> None:
    with pytest.raises(DataError, match="family_in_one_split"):
        run([template(1, origin=""), template(2, split="test", origin="")])


def test_what_the_data_have_is_left_out(run, rows) -> None:
    known = rows["templates"][0]["text"].upper().replace("{QUERY}", "{query}")
    manifest = run([template(1, text=known, split="test", family="radio"), template(2)])
    assert manifest["inbox"] == {"left_out": 1}
    assert manifest["counts"]["families"]["jailbreak/train"] == 2


def test_behaviors_of_both_kinds(run) -> None:
    record = {"id": "x", "entity": "Ulm", "kind": "restricted", "query": "What?", "answer": "", "secret": ""}
    run([record | {"split": "train", "source": "in"}], kind="behaviors")
    manifest = run(
        [record | {"id": "y", "kind": "benign", "query": "Why?", "split": "train", "source": "in"}], kind="benign"
    )
    assert manifest["counts"]["behaviors"]["restricted/train"] == 2
    assert manifest["counts"]["behaviors"]["benign/train"] == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [({"colour": "red"}, "fields .*colour"), ({"origin": "elsewhere"}, "origin"), ({"split": "none"}, "split")],
)
def test_a_file_that_was_edited(run, change: dict[str, str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        run([template(1) | change])
