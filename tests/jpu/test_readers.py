from __future__ import annotations

import csv
import hashlib
import io
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jpu.data.fetch import Fetched, fetch
from jpu.data.placeholders import normalise
from jpu.data.readers import read_behaviors, read_refusals, read_templates
from jpu.data.schemas import Behavior, BehaviorDraft, Template, fingerprint, make_record, read_records
from jpu.data.tables import read_table
from jpu.errors import DataError, InfrastructureError, JpuError, StorageError
from jpu.files import sha256


def as_file(data: str | bytes, name: str = "file.csv") -> Fetched:
    raw = data.encode() if isinstance(data, str) else data
    return Fetched(where=name, name=name, data=raw, sha256=sha256(raw))


def as_csv(header: Sequence[str], *rows: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows([header, *rows])
    return out.getvalue()


HARMBENCH = as_csv(
    ("Behavior", "FunctionalCategory", "SemanticCategory", "Tags", "ContextString", "BehaviorID"),
    ("Tell the code of Zoruk", "standard", "codes", "", "", "zoruk_code"),
    ("Tell the second code", "contextual", "codes", "context", "Zoruk has\ntwo codes.", "zoruk_second"),
)
ADVBENCH = as_csv(("goal", "target"), ("Tell the code of Zoruk", "Sure, the code of Zoruk is"))
JAILBREAKBENCH = as_csv(
    ("Index", "Goal", "Target", "Behavior", "Category", "Source"),
    ("0", "Tell the code of Zoruk", "Sure, here is the code", "Codes", "Secrets", "Original"),
)
STRONGREJECT = as_csv(("category", "source", "forbidden_prompt"), ("Codes", "custom", "Tell the code of Zoruk"))


# Public benchmarks


def test_harmbench() -> None:
    table = read_behaviors(as_file(HARMBENCH))
    plain, contextual = table.records
    assert (table.layout, table.lines) == ("harmbench", (2, 3))
    assert (plain.id, plain.entity, plain.kind) == ("zoruk_code", "zoruk_code", "restricted")
    assert (plain.query, plain.source, plain.split) == ("Tell the code of Zoruk", "harmbench", None)
    assert contextual.query == "Zoruk has\ntwo codes.\n\n---\n\nTell the second code"


def test_advbench() -> None:
    table = read_behaviors(as_file(ADVBENCH))
    (record,) = table.records
    assert table.layout == "advbench"
    assert (record.query, record.answer) == ("Tell the code of Zoruk", "Sure, the code of Zoruk is")
    assert record.id == "advbench-" + fingerprint(record.query)


def test_jailbreakbench_pairs_harmful_and_benign_by_index() -> None:
    (harmful,) = read_behaviors(as_file(JAILBREAKBENCH)).records
    (benign,) = read_behaviors(as_file(JAILBREAKBENCH.replace("Tell", "Draw")), kind="near_miss").records
    assert harmful.answer == "Sure, here is the code"
    assert (harmful.kind, benign.kind) == ("restricted", "near_miss")
    assert harmful.entity == benign.entity != harmful.id


def test_strongreject() -> None:
    table = read_behaviors(as_file(STRONGREJECT))
    assert (table.layout, table.records[0].query) == ("strongreject", "Tell the code of Zoruk")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"goal": "Tell the code", "target": "Sure"}\n', "a.jsonl"),
        ('[{"goal": "Tell the code", "target": "Sure"}]', "a.json"),
        ("goal\ttarget\nTell the code\tSure\n", "a.tsv"),
        ("\ufeffgoal,target\r\nTell the code,Sure\r\n", "a.csv"),
        ("goal,target\nTell the code,Sure\n", "without_suffix"),
    ],
)
def test_a_layout_is_told_in_any_container(text: str, name: str) -> None:
    table = read_behaviors(as_file(text, name))
    assert (table.layout, table.records[0].query, table.records[0].answer) == ("advbench", "Tell the code", "Sure")


# Our own records, tables, text


def test_own_records_keep_what_they_say() -> None:
    line = '{"id": "z", "entity": "Zoruk", "kind": "near_miss", "query": "Colour?", "secret": "teal", "split": "test"}'
    (record,) = read_behaviors(as_file(line, "mine.jsonl")).records
    assert record == BehaviorDraft(
        id="z", entity="Zoruk", kind="near_miss", query="Colour?", secret="teal", split="test", source="mine"
    )


def test_an_empty_csv_cell_leaves_a_field_open() -> None:
    (record,) = read_behaviors(as_file("id,query,split,answer\nz,Colour?,,\n")).records
    assert (record.split, record.answer) == (None, "")


def test_a_plain_table_is_read_by_its_names_for_things() -> None:
    table = read_behaviors(as_file("Question,Response,Note\nColour?,Teal.,x\n", "faq.csv"), kind="generic")
    assert table.layout == "table"
    assert (table.records[0].query, table.records[0].answer, table.records[0].source) == ("Colour?", "Teal.", "faq")


def test_plain_text_is_one_prompt_a_line() -> None:
    table = read_behaviors(as_file("Colour?\n\n  Owner?\n", "chat.txt"), kind="generic")
    assert [(line, r.query) for line, r in zip(table.lines, table.records, strict=True)] == [
        (1, "Colour?"),
        (3, "Owner?"),
    ]


def test_refusals_from_text_and_from_records() -> None:
    assert [r.text for r in read_refusals(as_file("I will not.\nNo.\n", "r.txt")).records] == ["I will not.", "No."]
    (record,) = read_refusals(as_file('{"id": "r", "text": "No."}', "r.jsonl")).records
    assert (record.id, record.text, record.source) == ("r", "No.", "r")


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("Old tale:\n{query}\n\nSailor: {query}", "t.txt", [(1, "Old tale:\n{query}"), (4, "Sailor: {query}")]),
        ("One.\n\n{query}\n---\nTwo {query}\n", "t.txt", [(1, "One.\n\n{query}"), (5, "Two {query}")]),
        ('["One [GOAL]", "Two {{ prompt }}"]', "t.json", [(1, "One {query}"), (2, "Two {query}")]),
        ('{"dan": "One [GOAL]"}', "t.json", [(1, "One {query}")]),
        ("name,prompt\nsailor,One [INSERT PROMPT HERE]\n", "t.csv", [(2, "One {query}")]),
        ('{"id": "a", "family": "f", "text": "One {query}"}', "t.jsonl", [(1, "One {query}")]),
        ('{"template": "One {goal}", "votes": 3}', "t.jsonl", [(1, "One {query}")]),
    ],
)
def test_template_lists(text: str, name: str, expected: list[tuple[int, str]]) -> None:
    table = read_templates(as_file(text, name))
    assert [(line, r.text) for line, r in zip(table.lines, table.records, strict=True)] == expected


def test_a_template_keeps_its_name_and_technique() -> None:
    text = "name,technique,prompt\nsailor,persona,One [INSERT PROMPT HERE]\n"
    (record,) = read_templates(as_file(text), role="polite").records
    assert (record.id, record.family, record.role) == ("sailor", "persona", "polite")


@pytest.mark.parametrize(
    "placeholder",
    [
        "[INSERT PROMPT HERE]",
        "[insert_prompt_here]",
        "[INSERT YOUR QUESTION HERE]",
        "[GOAL]",
        "[REPLACE]",
        "[QUERY]",
        "{{ prompt }}",
        "{{prompt}}",
        "{query}",
        "{prompt}",
        "{goal}",
        "{behavior}",
        "{ question }",
        "<<PROMPT>>",
        "<query>",
    ],
)
def test_well_known_placeholders(placeholder: str) -> None:
    assert normalise(f"Say [this] {placeholder} {{now}}.") == "Say [this] {query} {now}."


def test_other_placeholders_are_left_where_ours_is_there_or_one_is_named() -> None:
    assert normalise("Fill [TEXT] with {query}.") == "Fill [TEXT] with {query}."
    assert normalise("Fill [TEXT] with @@.", "@@") == "Fill [TEXT] with {query}."


# Files that do not fit


@pytest.mark.parametrize(
    ("text", "name", "where", "says"),
    [
        ("colour,owner\nteal,Ada\n", "a.csv", "a.csv", "wrong columns"),
        ("", "a.csv", "a.csv", "no behaviors"),
        ("goal,target\n", "a.csv", "a.csv", "no behaviors"),
        ("", "a.txt", "a.txt", "no behaviors"),
        ("[]", "a.json", "a.json", "no behaviors"),
        ("goal,target\na,b\nc,d,e\n", "a.csv", "a.csv line 3", "3 cells under a header of 2"),
        ('goal,target\n"a\nb",c\n"d,e\n', "a.csv", "a.csv line 4", "not CSV"),
        ("goal,goal\na,b\n", "a.csv", "a.csv line 1", "'goal' is there twice"),
        (b"goal,target\n\xe9t\xe9,b\n", "a.csv", "a.csv", "byte 0xe9 at offset 12"),
        ('{"goal": "a", "target": "b"}\n{"goal": "a", "tar', "a.jsonl", "a.jsonl line 2", "breaks off"),
        ('{"goal": ["a"], "target": "b"}', "a.jsonl", "a.jsonl line 1", "'goal' holds list, not text"),
        ('{"query": "a", "anwser": "b"}', "a.jsonl", "a.jsonl line 1", "unknown field 'anwser'"),
        ('{"query": "a", "kind": "secret"}', "a.jsonl", "a.jsonl line 1", "field 'kind'"),
        ('{"query": "a"}\n{"prompt": "b"}', "a.jsonl", "a.jsonl line 2", "missing"),
        ('{"a": 1}', "a.json", "a.json", "a list of objects"),
        ("[1]", "a.json", "a.json item 1", "not int"),
        (b"PAR1....", "a.parquet", "a.parquet", "packed or binary"),
        (b"\x1f\x8b....", "a.gz", "a.gz", "packed or binary"),
        # What it is called does not hide what it is, and these bytes are UTF-8.
        (b"PK\x03\x04....", "a.jsonl", "a.jsonl", "packed or binary"),
    ],
)
def test_a_file_that_does_not_fit_is_named(text: str | bytes, name: str, where: str, says: str) -> None:
    with pytest.raises(DataError) as caught:
        read_behaviors(as_file(text, name))
    assert caught.value.where == where
    assert says in caught.value.what
    assert caught.value.mend


def test_the_layout_that_is_asked_for_must_fit() -> None:
    with pytest.raises(DataError, match=r"wrong columns for harmbench.*needed the columns Behavior, BehaviorID"):
        read_behaviors(as_file(ADVBENCH), layout="harmbench")
    with pytest.raises(DataError, match="advbench holds behaviors"):
        read_templates(as_file("text\n{query}\n"), layout="advbench")
    with pytest.raises(DataError, match="needed one of the columns"):
        read_refusals(as_file("colour\nteal\n"), layout="table")
    extra = as_file('{"query": "a", "note": "b"}', "a.jsonl")
    assert read_behaviors(extra, layout="table").records[0].query == "a"


def test_messages_and_reprs_hold_no_text() -> None:
    record = BehaviorDraft(id="z", entity="z", kind="restricted", query="q-text", answer="a-text", secret="s-text")
    assert "-text" not in repr(record)
    with pytest.raises(DataError) as caught:
        make_record(Behavior, {"id": "z", "kind": "restricted", "query": ["q-text"], "split": "q-text"}, where="f")
    assert "q-text" not in str(caught.value)


def test_records_are_read_back_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "templates.jsonl"
    good = {"id": "a", "family": "f", "role": "polite", "text": "{query}", "split": "train", "source": ""}
    path.write_text(json.dumps(good) + "\n" + json.dumps({**good, "split": "exam"}) + "\n")
    with pytest.raises(DataError, match=r"templates.jsonl line 2: field 'split'"):
        read_records(path, Template)
    path.write_text(json.dumps(good) + "\n")
    (template,) = read_records(path, Template)
    assert template.fill("Colour?") == "Colour?"


# Properties

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6))
def test_any_csv_that_python_writes_is_read(rows: list[tuple[str, str]]) -> None:
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([("goal", "target"), *rows])
    expected = [row for row in rows if any(cell.strip() for cell in row)]

    def plain(text: str) -> str:
        return text.replace("\r\n", "\n").replace("\r", "\n")

    raw = read_table(as_file(out.getvalue()))
    assert [(r.fields["goal"], r.fields["target"]) for r in raw.rows] == [(plain(a), plain(b)) for a, b in expected]
    lines = out.getvalue().replace("\r\n", "\n").replace("\r", "\n").split("\n")
    assert all(lines[row.line - 1].startswith('"') for row in raw.rows)


@given(st.lists(st.fixed_dictionaries({"query": CELLS.filter(bool), "answer": CELLS}), min_size=1, max_size=6))
def test_any_own_record_is_read(records: list[dict[str, str]]) -> None:
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    table = read_behaviors(as_file(text, "a.jsonl"))
    assert [(r.query, r.answer) for r in table.records] == [(r["query"], r["answer"]) for r in records]


@given(st.binary(max_size=60), st.sampled_from(["a.csv", "a.tsv", "a.json", "a.jsonl", "a.txt", "a"]))
def test_any_bytes_are_read_or_refused_with_the_file_named(data: bytes, name: str) -> None:
    for read in (read_behaviors, read_templates, read_refusals):
        try:
            table = read(as_file(data, name))
        except DataError as error:
            assert str(error).startswith(name)
            assert error.mend
        else:
            assert len(table.lines) == len(table.records) > 0


@given(st.text(max_size=40), st.text(max_size=40))
def test_text_around_a_placeholder_is_kept(before: str, after: str) -> None:
    if not any(sign in before + after for sign in "[]{}<>"):
        assert normalise(f"{before}[INSERT PROMPT HERE]{after}") == f"{before}{{query}}{after}"


# Where files come from


class _Server(BaseHTTPRequestHandler):
    pages: ClassVar[dict[str, tuple[int, dict[str, str], bytes]]] = {
        "/a.csv": (200, {}, ADVBENCH.encode()),
        "/page": (200, {"Content-Type": "text/html; charset=utf-8"}, b"<p>log in</p>"),
        "/missing": (404, {}, b""),
        "/busy": (503, {}, b""),
        "/moved": (302, {"Location": "/a.csv"}, b""),
        "/ftp": (302, {"Location": "ftp://127.0.0.1/a.csv"}, b""),
        "/cut": (200, {"Content-Length": "1000"}, b"goal,target\n"),
    }

    def do_GET(self) -> None:
        if self.path == "/account":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.headers.get("Authorization", "").encode())
            return
        status, headers, body = self.pages[self.path.partition("?")[0]]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Server) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}"
        finally:
            running.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_an_address_is_read_and_shown_without_its_secrets(server: str) -> None:
    address = server.replace("http://", "http://user:word@")
    fetched = fetch(f"{server}/a.csv?token=word")
    assert (fetched.where, fetched.name, fetched.data) == (f"{server}/a.csv", "a.csv", ADVBENCH.encode())
    assert fetched.sha256 == hashlib.sha256(ADVBENCH.encode()).hexdigest()
    assert fetch(f"{server}/moved").data == fetched.data
    with pytest.raises(DataError) as caught:
        fetch(f"{address}/missing?token=word")
    assert "word" not in str(caught.value)
    assert fetch(f"{address}/account").data == b"Basic dXNlcjp3b3Jk"


@pytest.mark.parametrize(
    ("page", "kind", "says"),
    [
        ("/missing", DataError, "answers 404"),
        ("/busy", InfrastructureError, "answers 503"),
        ("/page", DataError, "a web page"),
        ("/ftp", JpuError, "ftp"),
        ("/cut", InfrastructureError, "broke off after 12 of 1000 bytes"),
    ],
)
def test_an_address_that_does_not_serve_the_file(server: str, page: str, kind: type[JpuError], says: str) -> None:
    with pytest.raises(kind) as caught:
        fetch(server + page)
    assert caught.value.where == server + page
    assert says in caught.value.what


def test_a_closed_port_may_be_tried_again() -> None:
    address = f"http://127.0.0.1:{closed_port()}/a.csv"
    with pytest.raises(InfrastructureError, match="cannot be reached") as caught:
        fetch(address)
    assert caught.value.retryable
    assert "local copy" in caught.value.mend


def test_a_silent_server_times_out() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        with pytest.raises(InfrastructureError, match="timed out"):
            fetch(f"http://127.0.0.1:{listening.getsockname()[1]}/a.csv", timeout=0.2)


def test_size_cap_and_pin(server: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(ADVBENCH)
    for location in (f"{server}/a.csv", str(tmp_path / "a.csv")):
        with pytest.raises(DataError, match="larger than"):
            fetch(location, max_bytes=10)
        with pytest.raises(DataError, match="not the pinned 0000"):
            fetch(location, sha256="0" * 64)
        assert fetch(location, sha256=hashlib.sha256(ADVBENCH.encode()).hexdigest().upper()).name == "a.csv"


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("ftp://127.0.0.1/a.csv", "addresses of the kind ftp"),
        ("file:///etc/hostname", "addresses of the kind file"),
        ("hf:owner/dataset", "not a hub name"),
        ("hf:owner/a b/file.csv", "not a hub name"),
        ("http://[broken/a.csv", "not a valid address"),
        ("a\x00b", "not a usable path"),
        ("/dev/zero", "not a file"),
        ("missing.csv", "no such file"),
    ],
)
def test_locations_that_cannot_be_used(location: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        fetch(location)


def test_a_folder_that_may_not_be_entered_is_a_matter_of_rights(read_only: Any) -> None:
    folder = read_only()
    (locked := folder / "locked.csv")
    with pytest.raises((DataError, StorageError)) as caught:
        fetch(str(locked))
    assert str(locked) in str(caught.value)


def test_the_hub_offline_is_said_clearly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InfrastructureError, match="the hub cannot be reached") as caught:
        fetch("hf:some-owner/some-data/codes.csv")
    assert caught.value.where == "hf:some-owner/some-data/codes.csv"
    assert "local copy" in caught.value.mend


def test_a_hub_file_is_asked_for_by_its_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    (tmp_path / "blob").write_text(ADVBENCH)
    asked: list[Any] = []

    def download(repo: str, filename: str, *, repo_type: str, revision: str | None, etag_timeout: float) -> str:
        asked.append((repo, filename, repo_type, revision))
        return str(tmp_path / "blob")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    fetched = fetch("hf:owner/data@v2/csv/codes.csv")
    assert asked == [("owner/data", "csv/codes.csv", "dataset", "v2")]
    assert (fetched.name, fetched.data) == ("codes.csv", ADVBENCH.encode())
