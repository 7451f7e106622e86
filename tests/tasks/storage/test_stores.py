"""One interface, two kinds of store: what holds for a folder holds for a bucket."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from jpu.errors import DataError, SettingsError, StorageError
from tasks.storage import Changed, Store, open_store
from tasks.storage.folder import Folder
from tasks.storage.s3 import Bucket


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "bucket":
        made: Bucket = request.getfixturevalue("bucket")()
        return made
    (tmp_path / "root").mkdir()
    return Folder(tmp_path / "root")


def test_put_list_read_move(store: Store) -> None:
    store.put("in/b.txt", b"two")
    store.put("in/a.txt", b"one")
    store.put("other/c.txt", b"three")
    entries = list(store.list("in"))
    assert [(e.name, e.size, e.plain) for e in entries] == [("in/a.txt", 3, True), ("in/b.txt", 3, True)]
    assert store.read(entries[0], max_bytes=3) == b"one"
    store.move(entries[0], "out/deep/a.txt")
    assert [e.name for e in store.list("in")] == ["in/b.txt"]
    (moved,) = store.list("out/deep")
    assert store.read(moved, max_bytes=10) == b"one"
    # A run that was killed after the move asks for it once more.
    store.move(entries[0], "out/deep/a.txt")
    assert list(store.list("nothing")) == []


def test_names_of_all_kinds(store: Store) -> None:
    for name in ("with blank.txt", "ünï.txt", "line\nend.txt", "a+b&c=d%20.txt"):
        store.put(f"in/{name}", name.encode())
    found = {e.name: store.read(e, max_bytes=99) for e in store.list("in")}
    assert found == {f"in/{n}": n.encode() for n in ("with blank.txt", "ünï.txt", "line\nend.txt", "a+b&c=d%20.txt")}


def test_more_files_than_a_page(store: Store) -> None:
    names = [f"in/{number:04d}" for number in range(12)]
    for name in names:
        store.put(name, b"")
    if isinstance(store, Bucket):
        # The same as a thousand, without writing so many.
        store.client.meta.events.register(
            "provide-client-params.s3.ListObjectsV2", lambda params, **_: params | {"MaxKeys": 5}
        )
    assert [e.name for e in store.list("in")] == names


def test_a_file_over_the_limit(store: Store) -> None:
    store.put("in/a", b"12345")
    (entry,) = store.list("in")
    with pytest.raises(DataError, match="larger than"):
        store.read(entry, max_bytes=4)


def test_a_file_that_was_replaced_is_neither_read_nor_moved(store: Store) -> None:
    store.put("in/a", b"old")
    (entry,) = store.list("in")
    store.put("in/a", b"new")
    with pytest.raises(Changed):
        store.read(entry, max_bytes=9)
    with pytest.raises(Changed):
        store.move(entry, "out/a")
    assert store.present(["in/a", "out/a"]) == {"in/a"}


def test_a_file_that_is_gone(store: Store) -> None:
    store.put("in/a", b"old")
    (entry,) = store.list("in")
    store.move(entry, "elsewhere")
    with pytest.raises(DataError):
        store.read(entry, max_bytes=9)
    with pytest.raises(DataError):
        store.move(entry, "out/a")


def test_presence_of_many(store: Store) -> None:
    there = [f"files/{number}" for number in range(40)]
    for name in there:
        store.put(name, b"x")
    assert store.present([*there, "files/none", "files"]) == set(there)


def test_up_and_down(store: Store, tmp_path: Path) -> None:
    data = os.urandom(70_000)
    (tmp_path / "file").write_bytes(data)
    store.upload(tmp_path / "file", "far/file")
    store.download("far/file", tmp_path / "back" / "file")
    assert (tmp_path / "back" / "file").read_bytes() == data
    assert [p.name for p in (tmp_path / "back").iterdir()] == ["file"]
    with pytest.raises(DataError):
        store.download("far/none", tmp_path / "none")
    with pytest.raises(DataError):
        store.upload(tmp_path / "none", "far/none")


def test_links_and_devices_are_named_and_never_opened(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of somebody else")
    inside = tmp_path / "root" / "in"
    (inside / "folder").mkdir(parents=True)
    (inside / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(inside / "pipe")
    store = Folder(tmp_path / "root")
    link, pipe = store.list("in")
    assert not link.plain and not pipe.plain
    for entry in (link, pipe):
        with pytest.raises((StorageError, DataError)):
            store.read(entry, max_bytes=99)
    store.move(link, "out/link")
    assert (tmp_path / "root/out/link").is_symlink() and (tmp_path / "secret").exists()


def test_a_link_that_took_the_place_of_a_file(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    store.put("in/a", b"mine")
    (entry,) = store.list("in")
    (tmp_path / "in/a").unlink()
    (tmp_path / "in/a").symlink_to("/etc/hostname")
    with pytest.raises(StorageError):
        store.read(entry, max_bytes=999)


def test_a_folder_that_may_not_be_written_to(read_only: Callable[..., Path]) -> None:
    folder = read_only(lambda f: ((f / "in").mkdir(), (f / "in" / "a").write_bytes(b"1")))
    store = Folder(folder)
    (entry,) = store.list("in")
    with pytest.raises(StorageError):
        store.move(entry, "out/a")
    with pytest.raises(StorageError):
        store.put("b", b"1")
    assert store.read(entry, max_bytes=1) == b"1"


@pytest.mark.parametrize(
    "location",
    ["s3://", "s3://B", "s3://key:secret@bucket/x", "gs://bucket/x", "http://user:secret@host/x", "no/such/folder"],
)
def test_addresses_that_are_no_store(location: str) -> None:
    with pytest.raises(SettingsError) as caught:
        open_store(location)
    assert "secret" not in str(caught.value)


def test_addresses_of_stores(tmp_path: Path) -> None:
    assert isinstance(open_store(str(tmp_path)), Folder)
    assert open_store("s3://bucket/a/b/").where == "s3://bucket/a/b"
    assert open_store("s3://bucket").where == "s3://bucket"


def test_an_object_knows_its_digest(bucket: Callable[..., Bucket], tmp_path: Path) -> None:
    store = bucket()
    store.put("a", b"text")
    head = store.client.head_object(Bucket=store.bucket, Key=f"{store.prefix}/a")
    assert head["Metadata"]["sha256"] == hashlib.sha256(b"text").hexdigest()
