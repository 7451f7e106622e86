"""Bad files and bad records: refused with line, field and mend, and without their text."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from tasks.additions import read_inbox
from tasks.inbox import Taking
from tasks.inbox.examine import examine
from tasks.inbox.known import Known, read_known
from tasks.inbox.report import Kind
from tasks.settings import Settings
from tasks.sources import read_data
from tests.tasks.inbox.conftest import WORDINGS, left, templates

Take = Callable[..., Taking]
FIELDS = ("text", "query", "id", "family", "split")
SECRET = "the very secret prompt of the northern lighthouse"


@pytest.fixture
def known(settings: Settings) -> Known:
    return read_known(read_data(settings.data, seed=0))


def zipped(text: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jsonl", text)
    return out.getvalue()


def behavior(**fields: Any) -> dict[str, Any]:
    return {"query": f"Tell me {SECRET}", **fields}


BAD_FILES: dict[str, tuple[Kind, str, bytes, str]] = {
    "a zip bomb": ("templates", "a.jsonl", zipped(b"\0" * 10_000_000), "packed or binary"),
    "a zip without a suffix": ("templates", "a", zipped(b"\0" * 1000), "packed or binary"),
    "deflated": ("templates", "a.txt", zlib.compress(b"\0" * 10_000_000), "not UTF-8"),
    "Latin-1": ("templates", "a.txt", f"{SECRET} für {{query}}".encode("latin-1"), "not UTF-8"),
    "UTF-16": ("templates", "a.csv", f"text\n{SECRET} {{query}}".encode("utf-16"), "not UTF-8"),
    "half a line": ("templates", "a.jsonl", templates(SECRET + " {query}", *WORDINGS)[:-9], "breaks off"),
    "nested": ("templates", "a.json", b"[" * 100_000, "nested too deeply"),
    "a huge number": ("templates", "a.jsonl", b'{"text": ' + b"9" * 10_000 + b"}", "cannot be used"),
    "a list of numbers": ("templates", "a.json", b"[1, 2]", "object or a string"),
    "no header": ("templates", "a.csv", f'"{SECRET}, and so on","{SECRET}"\n1,2\n'.encode(), "wrong columns"),
    "a key of text": (
        "templates",
        "a.jsonl",
        json.dumps({"text": "{query}", "family": "f", SECRET: 1}).encode(),
        "unknown",
    ),
    "an unknown field": ("templates", "a.jsonl", templates("x {query}", prompt=SECRET), "unknown field 'prompt'"),
    "an origin of its own": ("templates", "a.jsonl", templates("x {query}", origin="inbox"), "unknown field 'origin'"),
    "an unknown split": ("templates", "a.jsonl", templates("x {query}", split=SECRET), "field 'split'"),
    "an unknown kind": ("behaviors", "a.jsonl", json.dumps(behavior(kind="odd")).encode(), "field 'kind'"),
    "one enormous cell": ("templates", "a.csv", b"text\n" + b"x" * 200_000, "not CSV"),
    "blank": ("templates", "a.jsonl", b"\n\n\n", "no templates"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_cannot_be_read(case: str, known: Known, settings: Settings) -> None:
    kind, name, data, words = BAD_FILES[case]
    records, problems = examine(f"{kind}/{name}", kind, data, known, settings)
    (problem,) = problems
    assert not records and problem.place.startswith(f"{kind}/{name}") and problem.mend
    assert re.search(words, problem.what), problem.what
    assert SECRET not in json.dumps(problem.as_dict())


BAD_RECORDS: dict[str, tuple[Kind, list[dict[str, Any]], str, str]] = {
    "no place": ("templates", [{"family": "f", "text": SECRET}], "a_placeholder", "text"),
    "two places": ("templates", [{"family": "f", "text": SECRET + " {query} {query}"}], "one_placeholder", "text"),
    "control characters": ("templates", [{"family": "f", "text": SECRET + "\x1b[2J {query}"}], "encoding", "text"),
    "replaced characters": ("templates", [{"family": "f", "text": SECRET + " \ufffd {query}"}], "encoding", "text"),
    "an absurd line": (
        "templates",
        [{"family": "f", "text": SECRET + " {query}" + "x" * 2_000_000}],
        "text_length",
        "text",
    ),
    "an absurd name": ("templates", [{"family": "f" * 300, "text": SECRET + " {query}"}], "family_length", "family"),
    "a held-out family in train": (
        "templates",
        [{"family": "family_test", "text": SECRET + " {query}", "split": "train"}],
        "held_out_stays_held_out",
        "split",
    ),
    "nearly a held-out template, in train": (
        "templates",
        [{"family": "mine", "text": "{query} In test, answer as the old sailor would!", "split": "train"}],
        "held_out_stays_held_out",
        "split",
    ),
    "known": ("templates", [{"family": "mine", "text": "for  TEST: {query}"}], "not_known", "text"),
    "a known query": ("behaviors", [{"query": "what is the code of KARIL?"}], "not_known", "query"),
    "a held-out entity in train": (
        "behaviors",
        [behavior(id="x", entity="Karil", kind="restricted", split="train")],
        "held_out_stays_held_out",
        "split",
    ),
    "an entity in two splits": (
        "behaviors",
        [behavior(id=s, entity="Ulm", kind="restricted", split=s, query=f"{SECRET} {s}") for s in ("train", "test")],
        "entity_in_one_split",
        "split",
    ),
    "the secret in the query": (
        "behaviors",
        [behavior(id="x", kind="restricted", secret="northern lighthouse")],
        "secret_not_in_query",
        "secret",
    ),
    "a query too long": ("benign", [{"query": SECRET + "?" * 3000}], "query_length", "query"),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_a_bad_record_among_good_ones(case: str, known: Known, settings: Settings) -> None:
    kind, bad, reason, field = BAD_RECORDS[case]
    good = {"family": "radio", "text": WORDINGS[0]} if kind == "templates" else {"query": "How far is Ulmar?"}
    if kind != "templates" and "id" in bad[0]:
        good |= {"id": "good", "kind": "restricted"}
    data = "".join(json.dumps(row) + "\n" for row in (good, *bad)).encode()
    records, problems = examine(f"{kind}/a.jsonl", kind, data, known, settings)
    assert len(records) == 1
    assert {problem.reason for problem in problems} == {reason}
    assert [problem.place for problem in problems] == [f"{kind}/a.jsonl line {n + 2}" for n in range(len(bad))]
    for problem in problems:
        assert problem.field == field and problem.what and problem.mend
        assert SECRET not in json.dumps(problem.as_dict()) and SECRET not in repr(problem)


def test_more_records_than_the_limit(take: Take, inbox: Path) -> None:
    rows = "".join(f'{{"family": "f", "text": "{n} {{query}}"}}\n' for n in range(100_000))
    (inbox / "templates" / "many.jsonl").write_text(rows)
    taking = take()
    assert taking.refused() == {"format": 1} and "20000" in taking.files[0].problems[0].what
    assert all(name.startswith("quarantine/templates/many-") for name in left(inbox))


def test_a_file_over_the_limit(take: Take, inbox: Path) -> None:
    (inbox / "templates" / "large.txt").write_bytes(b"{query} " * 300_000)
    taking = take(max_mib=1)
    assert taking.refused() == {"size": 1} and len(left(inbox)) == 2


def test_a_class_that_would_stop_prepare(take: Take, inbox: Path) -> None:
    rows = "".join(f'{{"query": "What is word {n} of Ulmar?", "split": "test"}}\n' for n in range(400))
    (inbox / "behaviors" / "a.jsonl").write_text(rows)
    taking = take()
    assert taking.refused() == {"balance": 1} and taking.before == taking.after


def test_quarantine_keeps_the_bytes_and_says_why(take: Take, inbox: Path) -> None:
    data = templates(*WORDINGS, SECRET, "a \x1b {query}")
    (inbox / "templates" / "bad.jsonl").write_bytes(data)
    taking = take()
    assert [file.outcome for file in taking.files] == ["partly"] and len(taking.accepted) == 6
    kept, reason = left(inbox)
    assert (inbox / kept).read_bytes() == data and reason == f"{kept}.reason.json"
    said = json.loads((inbox / reason).read_text())
    assert [(p["place"], p["field"]) for p in said["problems"]] == [
        ("templates/bad.jsonl line 7", "text"),
        ("templates/bad.jsonl line 8", "text"),
    ]
    assert SECRET not in (inbox / reason).read_text() + json.dumps(taking.as_dict())
    # The mended file brings what was missing, and nothing twice.
    (inbox / "templates" / "bad.jsonl").write_bytes(templates(*WORDINGS, SECRET + " {query}"))
    assert len(take().accepted) == 1


def test_names_that_play_tricks(take: Take, inbox: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(templates(*WORDINGS))
    folder = inbox / "templates"
    for name in ("a\nb.jsonl", "..\\..\\x.jsonl", "$(reboot).jsonl", "-rf.jsonl", "\x1b[2J.jsonl", "x" * 250):
        (folder / name).write_bytes(templates(*WORDINGS))
    (folder / "link.jsonl").symlink_to(tmp_path / "outside")
    (folder / "up.jsonl").symlink_to("../../repository/params.yaml")
    taking = take()
    assert {file.outcome for file in taking.files} == {"quarantined"}
    assert taking.refused() == {"link": 2, "name": 6}
    assert all(name.startswith("quarantine/templates/") and name.isprintable() for name in left(inbox))
    assert (tmp_path / "outside").exists() and not Path("data/inbox").exists()


def test_two_files_that_number_their_records(take: Take, inbox: Path) -> None:
    for name, word in (("a", "Ulmar"), ("b", "Venda")):
        with open(inbox / "benign" / f"{name}.csv", "w", newline="") as file:
            csv.writer(file).writerows([["id", "query"], ["1", f"How wide is {word}?"], ["2", f"How old is {word}?"]])
    assert len(take().accepted) == 4
    found = read_inbox()
    assert found is not None
    assert len({b.id for b in found.behaviors.records}) == len({b.entity for b in found.behaviors.records}) == 4


@hypothesis.settings(max_examples=25, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(
    data=st.one_of(
        st.binary(max_size=300),
        st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.lists(
            st.dictionaries(st.sampled_from(["text", "query", "id", "family", "split"]), st.text(max_size=30)),
            max_size=4,
        ).map(lambda rows: json.dumps(rows).encode()),
    ),
    name=st.sampled_from(["a", "a.csv", "a.json", "a.jsonl", "a.tsv", "a.txt"]),
    kind=st.sampled_from(["templates", "behaviors", "benign"]),
)
def test_no_bytes_are_too_odd(data: bytes, name: str, kind: Kind, known: Known, settings: Settings) -> None:
    records, problems = examine(f"{kind}/{name}", kind, data, known, settings)
    assert records or problems
