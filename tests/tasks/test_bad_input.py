"""Bad input to `prepare`: each kind ends with a clear error, an exit code, and nothing half-written."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jpu.errors import DataError, InfrastructureError, JpuError, SettingsError, StorageError
from jpu.files import read_json
from tasks import prepare
from tasks.stage import run_stage

ROOT = Path(__file__).resolve().parents[2]
PARAMS = (ROOT / "params.yaml").read_text(encoding="utf-8")
HEAD = "profile: sandbox\nseed: 0\nrounds:\n  '1': {prev: '0'}\nlast_round: '1'\nprofiles:\n"

Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture
def repo(tmp_path: Path, rows: Rows, write_sandbox: Callable[[Rows], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with params.yaml, a small sandbox, and an older output that must stay as it is."""
    folder = tmp_path / "repo"
    fill(folder, write_sandbox(rows))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("JPU_TRACKING", "off")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return folder


def fill(folder: Path, sandbox: Path) -> None:
    (folder / "data").mkdir(parents=True)
    sandbox.rename(folder / "data" / "sandbox")
    (folder / "params.yaml").write_text(HEAD + PARAMS.partition("\nprofiles:\n")[2], encoding="utf-8")
    (folder / "artifacts" / "prepared").mkdir(parents=True)
    (folder / "artifacts" / "prepared" / "old").write_text("old")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def run(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and stderr of the stage."""
    with pytest.raises(SystemExit) as caught:
        run_stage(prepare.main, argv=[])
    return int(caught.value.code or 0), capsys.readouterr().err


def edit(file: str, old: str, new: str) -> Callable[[Path], None]:
    def apply(repo: Path) -> None:
        text = (repo / file).read_text(encoding="utf-8")
        assert old in text
        (repo / file).write_text(text.replace(old, new, 1), encoding="utf-8")

    return apply


def put(file: str, data: bytes) -> Callable[[Path], None]:
    def apply(repo: Path) -> None:
        (repo / file).write_bytes(data)

    return apply


def cut(file: str, size: int) -> Callable[[Path], None]:
    def apply(repo: Path) -> None:
        data = (repo / file).read_bytes()
        (repo / file).write_bytes(data[:-size])

    return apply


def named(behaviors: str = "data/sandbox/behaviors.jsonl", then: Callable[[Path], None] | None = None) -> Any:
    """`source: files`, with `behaviors` as the file of behaviors."""

    def apply(repo: Path) -> None:
        edit("params.yaml", "source: sandbox", "source: files")(repo)
        edit("params.yaml", "behaviors: []", f"behaviors: [{behaviors}]")(repo)
        for name in ("templates", "refusals"):
            edit("params.yaml", f"{name}: []", f"{name}: [data/sandbox/{name}.jsonl]")(repo)
        if then:
            then(repo)

    return apply


def without(file: str, word: str) -> Callable[[Path], None]:
    def apply(repo: Path) -> None:
        lines = (repo / file).read_text(encoding="utf-8").splitlines(keepends=True)
        (repo / file).write_text("".join(line for line in lines if word not in line), encoding="utf-8")

    return apply


def several(*changes: Callable[[Path], None]) -> Callable[[Path], None]:
    def apply(repo: Path) -> None:
        for change in changes:
            change(repo)

    return apply


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


CLOSED = f"http://127.0.0.1:{closed_port()}/codes.csv"
BEHAVIORS, TEMPLATES, REFUSALS = (f"data/sandbox/{name}.jsonl" for name in ("behaviors", "templates", "refusals"))
ADVBENCH = b"goal,target\nTell the code of Zoruk,Sure\nTell the code of Melan,Sure\nTell the code of Tivor,Sure\n"


@dataclass(frozen=True)
class Bad:
    """A kind of bad input: what breaks the repository, and what the message must say."""

    spoil: Callable[[Path], object]
    error: type[JpuError]
    where: str
    says: str
    mend: str


KINDS: dict[str, Bad] = {
    "truncated JSONL": Bad(cut(BEHAVIORS, 40), DataError, f"{BEHAVIORS} line 9", "breaks off", "fetch the file again"),
    "not JSON": Bad(put(REFUSALS, b"No.\n"), DataError, f"{REFUSALS} line 1", "not JSON", "Mend or remove it"),
    "not an object": Bad(put(REFUSALS, b'["No."]\n'), DataError, f"{REFUSALS} line 1", "not list", "one object a line"),
    "empty set": Bad(put(BEHAVIORS, b""), DataError, BEHAVIORS, "not one record", "Add records"),
    "missing field": Bad(
        edit(TEMPLATES, '"family": "family_train", ', ""), DataError, f"{TEMPLATES} line 1", "missing", "every field"
    ),
    "unknown field": Bad(edit(TEMPLATES, '"role"', '"rule"'), DataError, f"{TEMPLATES} line 1", "missing", "role"),
    "unknown kind": Bad(
        edit(BEHAVIORS, '"near_miss"', '"nearly"'), DataError, f"{BEHAVIORS} line 3", "field 'kind'", "Mend the line"
    ),
    "duplicate ids": Bad(
        edit(BEHAVIORS, '"id": "Melan-code"', '"id": "Zoruk-code"'),
        DataError,
        f"{BEHAVIORS} line 1",
        "unique_id",
        "own",
    ),
    "template without placeholder": Bad(
        edit(TEMPLATES, "{query}", "it"), DataError, f"{TEMPLATES} line 1", "no {query} placeholder", "Add {query}"
    ),
    "template with two placeholders": Bad(
        edit(TEMPLATES, "{query}", "{query} {query}"),
        DataError,
        f"{TEMPLATES} line 1",
        "more than one",
        "Leave the one",
    ),
    "non-UTF-8": Bad(
        put(REFUSALS, b'{"id": "r", "text": "N\xe3o.", "source": ""}\n'),
        DataError,
        f"{REFUSALS} line 1",
        "byte 0xe3 at offset 22",
        "Save the file as UTF-8",
    ),
    "control characters": Bad(
        edit(BEHAVIORS, "What is", "What\\u0000is"), DataError, f"{BEHAVIORS} line 1", "control", "remove the character"
    ),
    "replacement characters": Bad(
        edit(REFUSALS, "will not", "won\ufffdt"), DataError, f"{REFUSALS} line 1", "wrong encoding", "Save the file"
    ),
    "oversize text": Bad(
        edit(TEMPLATES, "{query}", "{query}" + "x" * 9000), DataError, f"{TEMPLATES} line 1", "text_length", "limit"
    ),
    "split leakage by entity": Bad(
        edit(BEHAVIORS, '"entity": "Tivor"', '"entity": "Zoruk"'), DataError, f"{BEHAVIORS} line 1", "one split", "same"
    ),
    "split leakage by family": Bad(
        edit(TEMPLATES, '"family": "family_test"', '"family": "family_train"'),
        DataError,
        f"{TEMPLATES} line 1",
        "family_in_one_split",
        "same split",
    ),
    "split leakage by text": Bad(
        edit(BEHAVIORS, "What is the code of Tivor?", "what is the code of ZORUK?"),
        DataError,
        f"{BEHAVIORS} line 1",
        "query_in_one_split",
        "Keep one",
    ),
    "empty split": Bad(
        without(TEMPLATES, '"validation"'), DataError, f"{TEMPLATES} split validation", "no jailbreak", "Add records"
    ),
    "one class only": Bad(
        without(BEHAVIORS, '"restricted"'), DataError, f"{BEHAVIORS} split train", "no restricted", "Add records"
    ),
    "class imbalance": Bad(
        edit("params.yaml", "smallest_class: ", "smallest_class: 0.5 #"), DataError, BEHAVIORS, "smaller class", "lower"
    ),
    "unfinished refusal": Bad(
        edit(REFUSALS, "that code", "{entity}"),
        DataError,
        f"{REFUSALS} line 1",
        "placeholder is left",
        "as the subject",
    ),
    "missing folder": Bad(
        lambda repo: (repo / "data" / "sandbox").rename(repo / "data" / "other"),
        DataError,
        "data/sandbox",
        "no such folder",
        "python -m jpu.sandbox",
    ),
    "missing file": Bad(lambda repo: (repo / REFUSALS).unlink(), DataError, REFUSALS, "no such file", "Check the path"),
    "named file missing": Bad(named("codes.csv"), DataError, "codes.csv", "no such file", "Mend the path"),
    "wrong columns": Bad(
        named("codes.csv", put("codes.csv", b"colour,owner\nteal,Ada\n")),
        DataError,
        "codes.csv",
        "wrong columns",
        "first line",
    ),
    "ragged CSV": Bad(
        named("codes.csv", put("codes.csv", ADVBENCH + b"a,b,c\n")), DataError, "codes.csv line 5", "3 cells", "Quote"
    ),
    "open quote": Bad(
        named("codes.csv", put("codes.csv", ADVBENCH + b'"a,b\n')), DataError, "codes.csv line 5", "not CSV", "quotes"
    ),
    "binary file": Bad(
        named("codes.parquet", put("codes.parquet", b"PAR1\x00\x00")),
        DataError,
        "codes.parquet",
        "binary",
        "CSV or JSONL",
    ),
    "too little to split": Bad(
        named("codes.csv", put("codes.csv", ADVBENCH)), DataError, "", "to be answered", "Add more files"
    ),
    "sha256 mismatch": Bad(
        named(f"{{path: {BEHAVIORS}, sha256: '{'0' * 64}'}}"),
        DataError,
        BEHAVIORS,
        "not the pinned",
        "pin the new digest",
    ),
    "file too large": Bad(
        named("codes.csv", put("codes.csv", b"x" * (65 * 1024 * 1024))),
        DataError,
        "codes.csv",
        "larger than 64 MiB",
        "raise",
    ),
    "address that nobody serves": Bad(named(CLOSED), InfrastructureError, CLOSED, "cannot be reached", "local copy"),
    "unknown scheme": Bad(
        named("'ftp://host/a.csv'"), DataError, "ftp://host/a.csv", "ftp:// are not read", "local path"
    ),
    "unknown key in params": Bad(
        edit("params.yaml", "smallest_class:", "smalest_class:"),
        SettingsError,
        "params.yaml line",
        "unknown key",
        "Did you mean",
    ),
    "wrong type in params": Bad(
        edit("params.yaml", "seed: 0", "seed: zero"),
        SettingsError,
        "params.yaml line 2, key seed",
        "valid integer",
        "Mend",
    ),
    "params that are not YAML": Bad(
        edit("params.yaml", "seed: 0", "seed: ["), SettingsError, "params.yaml line", "not YAML", "Mend that line"
    ),
    "key twice in params": Bad(
        edit("params.yaml", "seed: 0", "seed: 0\nseed: 1"), SettingsError, "params.yaml line 3", "duplicate", "Mend"
    ),
    "unknown profile": Bad(
        edit("params.yaml", "profile: sandbox", "profile: sandbx"),
        SettingsError,
        "params.yaml line 1",
        "no profile",
        "Mend",
    ),
    "no params": Bad(
        lambda repo: (repo / "params.yaml").unlink(),
        SettingsError,
        "params.yaml",
        "no such file",
        "repository's folder",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_is_refused_whole(kind: str, repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = KINDS[kind]
    bad.spoil(repo)
    before = tree(repo)
    code, message = run(capsys)
    headline, mend = message.rstrip("\n").split("\n", 1)
    assert code == bad.error.exit_code != 0
    assert headline.startswith(f"{bad.error.__name__}: {bad.where}")
    assert bad.says in headline
    assert bad.mend in mend
    assert "amber dune" not in message
    assert tree(repo) == before
    assert [path.name for path in (repo / "artifacts").iterdir()] == ["prepared"]


def test_good_input_is_written_whole_and_twice_the_same(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys) == (0, "")
    first = tree(repo / "artifacts")
    assert set(first) == {
        f"prepared/{name}"
        for name in ("behaviors.jsonl", "templates.jsonl", "refusals.jsonl", "manifest.json", "validation.json")
    }
    assert run(capsys) == (0, "")
    assert tree(repo / "artifacts") == first
    manifest = read_json(repo / "artifacts" / "prepared" / "manifest.json")
    assert manifest["counts"]["behaviors"]["restricted/test"] == 1
    assert [source["records"] for source in manifest["sources"]] == [9, 6, 2]
    results = read_json(repo / "artifacts" / "prepared" / "validation.json")
    assert all(result["success"] for part in ("incoming", "outgoing") for result in results[part])
    assert str(repo).encode() not in b"".join(first.values())


def test_user_files_are_split_and_written_without_where_they_were(
    repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [f"Place{letter}" for letter in "ABCDEFGH"]
    (repo / "harm.csv").write_text("goal,target\n" + "".join(f"Tell the code of {p},Sure\n" for p in places))
    (repo / "chat.txt").write_text("".join(f"What colour is {p}?\n" for p in places))
    wordings = ("sailor tale of old", "quiz show with points", "letter from the mayor", "riddle in a cave")
    (repo / "jail.txt").write_text("\n\n".join(f"A {w}: [INSERT PROMPT HERE]" for w in wordings))
    (repo / "no.txt").write_text("I will not.\nThat stays with me.\n")
    named("harm.csv")(repo)
    edit("params.yaml", "benign: []", f"benign: [{{path: {repo}/chat.txt, kind: generic}}]")(repo)
    edit("params.yaml", f"[{TEMPLATES}]", "[jail.txt]")(repo)
    edit("params.yaml", f"[{REFUSALS}]", "[no.txt]")(repo)
    assert run(capsys) == (0, "")
    manifest = read_json(repo / "artifacts" / "prepared" / "manifest.json")
    assert set(manifest["counts"]["behaviors"]) == {
        f"{kind}/{split}" for kind in ("restricted", "generic") for split in ("train", "validation", "test")
    }
    assert [(s["name"], s["layout"], s["records"]) for s in manifest["sources"]] == [
        ("harm.csv", "advbench", 8),
        ("chat.txt", "text", 8),
        ("jail.txt", "text", 4),
        ("no.txt", "text", 2),
    ]
    assert str(repo).encode() not in b"".join(tree(repo / "artifacts").values())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_disk_that_fails_leaves_the_old_output(
    repo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    before = tree(repo)
    monkeypatch.setattr(os, "fsync", fail)
    code, message = run(capsys)
    assert code == StorageError.exit_code
    assert message.startswith("StorageError: artifacts/prepared/behaviors.jsonl: ")
    assert os.strerror(number) in message
    assert message.endswith("Nothing was written.\n")
    assert tree(repo) == before


def test_a_full_disk_leaves_the_old_output(repo: Path, full_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repo / "artifacts").rename(repo / "elsewhere")
    (repo / "artifacts").symlink_to(full_disk)
    (full_disk / "prepared").mkdir()
    (full_disk / "prepared" / "old").write_text("old")
    with pytest.raises(OSError), (full_disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(b"x" * 4096)
    code, message = run(capsys)
    assert (code, "no space left to write it" in message) == (StorageError.exit_code, True)
    assert {path.name for path in full_disk.iterdir()} == {"prepared", "filler"}
    assert tree(full_disk / "prepared") == {"old": b"old"}


def test_a_read_only_folder_leaves_the_old_output(
    read_only: Callable[..., Path],
    rows: Rows,
    write_sandbox: Callable[[Rows], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JPU_TRACKING", "off")

    def make(folder: Path) -> None:
        fill(folder, write_sandbox(rows))
        monkeypatch.chdir(folder)
        # Once with all rights, so that every module is loaded.
        assert run(capsys)[0] == 0
        (folder / "artifacts").chmod(0o555)

    folder = read_only(make)
    before = tree(folder)
    code, message = run(capsys)
    assert code == StorageError.exit_code
    assert message.startswith("StorageError: artifacts/prepared: not allowed to write it")
    assert "Make the folder writable" in message
    assert tree(folder) == before


def test_the_command_ends_with_the_code_and_without_a_traceback(repo: Path) -> None:
    edit(TEMPLATES, "{query}", "it")(repo)
    done = subprocess.run(
        [sys.executable, "-m", "tasks.prepare"],
        cwd=repo,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == DataError.exit_code
    assert done.stdout == ""
    assert done.stderr == (
        "DataError: data/sandbox/templates.jsonl line 1: no {query} placeholder in the template "
        "(expectation templates.a_placeholder)\n"
        "Add {query} where the question goes, or remove the template; a placeholder of another kind is named by "
        "`placeholder` in params.yaml. Nothing was written.\n"
    )
    assert tree(repo / "artifacts") == {"prepared/old": b"old"}
