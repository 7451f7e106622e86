from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jpu import files
from jpu.errors import DataError, StorageError
from jpu.parsing import parse_jsonl

Writer = Callable[[Path], None]

WRITERS: dict[str, Writer] = {
    "bytes": lambda path: files.write_bytes(path, b"new"),
    "text": lambda path: files.write_text(path, "new"),
    "json": lambda path: files.write_json(path, {"new": 1}),
    "jsonl": lambda path: files.write_jsonl(path, [{"new": 1}]),
}


def _folder(path: Path) -> None:
    with files.atomic_folder(path) as temporary:
        files.write_text(temporary / "inner.txt", "new")


every_writer = pytest.mark.parametrize("write", [*WRITERS.values(), _folder], ids=[*WRITERS, "folder"])


def fail_with(number: int, name: str | None = None) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number), name)

    return fail


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_writing_replaces_the_old_file_and_leaves_nothing_else(tmp_path: Path, write: Writer) -> None:
    target = tmp_path / "new" / "folder" / "file"
    write(target)
    first = target.read_bytes()
    target.write_bytes(b"old")
    write(target)
    assert target.read_bytes() == first
    assert list(target.parent.iterdir()) == [target]


def test_a_written_file_has_the_rights_that_the_umask_gives(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_equal_values_give_equal_bytes(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a", {"b": 1, "a": "é"})
    files.write_json(tmp_path / "b", {"a": "é", "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert files.read_json(tmp_path / "a") == {"a": "é", "b": 1}


@every_writer
@pytest.mark.parametrize(
    ("number", "says", "mend"),
    [
        (errno.ENOSPC, "no space left", "Free space"),
        (errno.EDQUOT, "no space left", "Free space"),
        (errno.EROFS, "not allowed", "writable"),
        (errno.EACCES, "not allowed", "writable"),
        (errno.EIO, "cannot be written", "Check"),
    ],
)
def test_a_failed_flush_keeps_the_old_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Writer, number: int, says: str, mend: str
) -> None:
    target = tmp_path / "target"
    target.write_text("old")
    monkeypatch.setattr(os, "fsync", fail_with(number))
    with pytest.raises(StorageError) as caught:
        write(target)
    assert str(target) in str(caught.value)
    assert says in caught.value.what
    assert mend in caught.value.mend
    assert "Nothing was written." in caught.value.mend
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert target.read_text() == "old"


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """A real limit of the system, in a process of its own: what is written beyond it fails in `write`."""
    program = (
        "import resource, sys; from jpu import files\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: files.write_bytes(sys.argv[1], b'x' * 5000)\n"
        "except files.StorageError as error: print(error); sys.exit(error.exit_code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "big")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(files.__file__).parent.parent)},
    )
    assert done.returncode == StorageError.exit_code, done.stderr
    assert "no space left" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


def test_a_full_tmpfs_leaves_nothing(full_disk: Path) -> None:
    (full_disk / "kept").write_text("old")
    with pytest.raises(StorageError, match="no space left"):
        files.write_bytes(full_disk / "kept", b"x" * 4_000_000)
    with pytest.raises(StorageError, match="no space left"), files.atomic_folder(full_disk / "folder") as folder:
        (folder / "big").write_bytes(b"x" * 4_000_000)
    assert [path.name for path in full_disk.iterdir()] == ["kept"]
    assert (full_disk / "kept").read_text() == "old"


@every_writer
def test_a_read_only_folder_is_named(read_only: Callable[..., Path], write: Writer) -> None:
    folder = read_only()
    with pytest.raises(StorageError, match="not allowed to write it") as caught:
        write(folder / "file")
    assert str(folder / "file") in str(caught.value)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_file_where_a_folder_is_needed(tmp_path: Path, write: Writer) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(StorageError) as caught:
        write(tmp_path / "file" / "target")
    assert str(tmp_path / "file" / "target") in str(caught.value)
    assert (tmp_path / "file").read_text() == "old"


def test_what_the_body_raises_comes_out_unchanged_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "old").touch()
    with pytest.raises(KeyboardInterrupt), files.atomic_folder(tmp_path / "target") as folder:
        (folder / "half").touch()
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), files.atomic_path(tmp_path / "file") as path:
        path.touch()
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.rglob("*")] == ["target", "old"]


def test_an_error_about_another_file_is_not_blamed_on_the_target(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.atomic_path(tmp_path / "target"):
        (tmp_path / "other").read_text()


def test_a_library_in_rust_that_finds_the_disk_full_is_understood(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no space left"), files.atomic_path(tmp_path / "model.safetensors"):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(RuntimeError), files.atomic_path(tmp_path / "model.safetensors"):
        raise RuntimeError("invalid dtype")


def test_a_folder_takes_the_place_of_the_old_one_whole(tmp_path: Path) -> None:
    target = tmp_path / "target"
    for name in ("first", "second"):
        with files.atomic_folder(target) as folder:
            (folder / name).touch()
            assert not (target / name).exists()
    assert [path.name for path in target.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [target]


def test_the_old_folder_comes_back_when_the_exchange_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "target"
    _folder(target)
    rename = os.rename

    def fail_once(source: Path, destination: Path) -> None:
        if Path(destination) == target and "-" in Path(source).name and not (target.exists()):
            monkeypatch.setattr(os, "rename", rename)
            raise OSError(errno.EIO, "input/output error", str(source))
        rename(source, destination)

    monkeypatch.setattr(os, "rename", fail_once)
    with pytest.raises(StorageError), files.atomic_folder(target) as folder:
        (folder / "other").touch()
    assert [path.name for path in target.iterdir()] == ["inner.txt"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_is_replaced_and_what_it_points_to_is_kept(tmp_path: Path) -> None:
    (tmp_path / "cached").write_text("old")
    (tmp_path / "target").symlink_to(tmp_path / "cached")
    files.write_text(tmp_path / "target", "new")
    assert (tmp_path / "cached").read_text() == "old"
    assert (tmp_path / "target").read_text() == "new"


def test_what_a_killed_writer_left_is_removed_and_a_living_one_s_is_not(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f".target-{dead.pid}-00000000.tmp"
    left.mkdir()
    (left / "half").touch()
    living = tmp_path / f".target-{os.getpid()}-00000000.tmp"
    living.touch()
    other = tmp_path / f".target2-{dead.pid}-00000000.tmp"
    other.touch()
    files.write_text(tmp_path / "target", "new")
    assert {path.name for path in tmp_path.iterdir()} == {"target", living.name, other.name}


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        files.read_bytes(tmp_path / "missing")
    with pytest.raises(StorageError, match="cannot be read"):
        files.read_bytes(tmp_path)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"id": "b", "text": "a cut str', "breaks off after 30 characters"),
        (b'{"id": "b"', "breaks off"),
        (b"{'id': 1}", "column 2"),
        (b'["id"]', "a JSON object was expected, not list"),
        (b'"id"', "a JSON object was expected, not str"),
        (b'{"id": NaN}', "NaN is not a JSON number"),
        (b'{"id": 1, "id": 2}', "the key 'id' is there twice"),
        (b'{"id": "\\ud800"}', "half of a surrogate pair"),
        (b'{"id": "\xff"}', "byte 0xff at offset 20"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"id": ' + b"1" * 5000 + b"}", "cannot be used"),
    ],
)
def test_a_broken_line_is_named_with_what_is_wrong(tmp_path: Path, line: bytes, says: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'{"id": "a"}\n' + line)
    with pytest.raises(DataError) as caught:
        list(files.read_jsonl(path))
    assert caught.value.where == f"{path} line 2"
    assert says in caught.value.what
    assert caught.value.mend


def test_byte_order_mark_windows_line_ends_and_blank_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": 1}\r\n\r\n{"id": 2}\r\n')
    assert list(files.read_jsonl(path)) == [(1, {"id": 1}), (3, {"id": 2})]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(), VALUES, max_size=4), max_size=5))
def test_what_is_written_as_jsonl_is_read_back(records: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    assert [record for _, record in parse_jsonl(text.encode(), where="f")] == records


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused_with_their_line(data: bytes) -> None:
    try:
        rows = list(parse_jsonl(data, where="f"))
    except DataError as error:
        assert error.where is not None
        assert 1 <= int(error.where.removeprefix("f line ")) <= data.count(b"\n") + 1
    else:
        assert all(isinstance(row, dict) for _, row in rows)


@given(st.dictionaries(st.text(min_size=1), st.text(), min_size=1), st.data())
def test_a_record_cut_anywhere_is_refused(record: dict[str, str], data: st.DataObject) -> None:
    line = json.dumps(record, ensure_ascii=False)
    cut = data.draw(st.integers(1, len(line) - 1))
    with pytest.raises(DataError, match="f line 1"):
        list(parse_jsonl(line[:cut].encode(), where="f"))
