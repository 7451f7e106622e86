"""Large files to S3 and back: resumed, verified, given up on request; the server is killed on the way."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jpu.errors import InfrastructureError
from tasks.storage import Patience
from tasks.storage.s3 import Bucket
from tasks.storage.s3_upload import PART
from tests.s3 import BUCKET, Server

Make = Callable[..., Bucket]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six parts and a bit."""
    path = tmp_path_factory.mktemp("large") / "model.safetensors"
    path.write_bytes(os.urandom(6 * PART + 12345))
    return path


def parts_sent(store: Bucket) -> list[int]:
    """Numbers of the parts that the server has acknowledged to this store; grows as they are sent."""
    numbers: list[int] = []

    def note(parsed: dict[str, object], context: dict[str, object], **_: object) -> None:
        if "ETag" in parsed:
            numbers.append(int(str(context["part"])))

    events = store.client.meta.events
    events.register(
        "provide-client-params.s3.UploadPart", lambda params, context, **_: context.update(part=params["PartNumber"])
    )
    events.register("after-call.s3.UploadPart", note)
    return numbers


def stored(server: Server, store: Bucket, name: str) -> bytes:
    data: bytes = server.client().get_object(Bucket=BUCKET, Key=f"{store.prefix}/{name}")["Body"].read()
    return data


class Stop(Exception):
    """What ends a transfer in the middle."""


def after(parts: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done >= parts * PART:
            raise Stop

    return progress


def test_a_large_file(bucket: Make, keys: Server, large: Path, tmp_path: Path) -> None:
    store = bucket()
    numbers = parts_sent(store)
    said: list[tuple[int, int]] = []
    store.upload(large, "a", progress=lambda *both: said.append(both))
    size = large.stat().st_size
    assert sorted(numbers) == [1, 2, 3, 4, 5, 6, 7] and said[-1] == (size, size)
    assert stored(keys, store, "a") == large.read_bytes()
    store.upload(large, "a")
    assert len(numbers) == 7
    assert list((tmp_path / "state").iterdir()) == []
    store.download("a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == large.read_bytes()


@pytest.mark.parametrize("lost", ["nothing", "the note"])
def test_an_upload_goes_on_where_it_was(lost: str, bucket: Make, keys: Server, large: Path, tmp_path: Path) -> None:
    store = bucket()
    first = parts_sent(store)
    with pytest.raises(Stop):
        store.upload(large, "a", progress=after(3))
    assert first and store.present(["a"]) == set()
    if lost == "the note":
        (note,) = (tmp_path / "state").iterdir()
        note.unlink()
    other = bucket()
    second = parts_sent(other)
    other.upload(large, "a")
    assert sorted(first + second) == [1, 2, 3, 4, 5, 6, 7]
    assert stored(keys, store, "a") == large.read_bytes()


def test_the_server_is_killed_and_comes_back(large: Path, tmp_path: Path, monkeypatch) -> None:
    server = Server(tmp_path / "s3").start()
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    try:
        store = Bucket(BUCKET, "models", Patience(connect=1.0, answer=5.0, attempts=2), tmp_path / "state")
        first = parts_sent(store)

        def kill(done: int, total: int) -> None:
            if done >= 2 * PART:
                server.kill()

        with pytest.raises(InfrastructureError):
            store.upload(large, "a", progress=kill)
        with pytest.raises(InfrastructureError):
            store.upload(large, "a")
        server.start()
        second = parts_sent(again := Bucket(BUCKET, "models", Patience(), tmp_path / "state"))
        again.upload(large, "a")
        assert len(first) >= 2 and sorted(first + second) == [1, 2, 3, 4, 5, 6, 7]
        assert stored(server, store, "a") == large.read_bytes()
    finally:
        server.kill()


def test_a_part_that_is_not_ours_does_not_get_into_the_file(bucket: Make, keys: Server, large: Path) -> None:
    store = bucket()
    with pytest.raises(Stop):
        store.upload(large, "a", progress=after(3))
    client, key = keys.client(), f"{store.prefix}/a"
    (upload,) = client.list_multipart_uploads(Bucket=BUCKET, Prefix=key)["Uploads"]
    client.upload_part(Bucket=BUCKET, Key=key, UploadId=upload["UploadId"], PartNumber=1, Body=b"x" * PART)
    bucket().upload(large, "a")
    assert stored(keys, store, "a") == large.read_bytes()


def test_another_file_under_the_same_name(bucket: Make, keys: Server, large: Path, tmp_path: Path) -> None:
    store = bucket()
    with pytest.raises(Stop):
        store.upload(large, "a", progress=after(2))
    (tmp_path / "other").write_bytes(large.read_bytes()[::-1])
    store.upload(tmp_path / "other", "a")
    assert stored(keys, store, "a") == (tmp_path / "other").read_bytes()
    assert "Uploads" not in keys.client().list_multipart_uploads(Bucket=BUCKET, Prefix=store.prefix)


def test_an_upload_is_given_up(bucket: Make, keys: Server, large: Path, tmp_path: Path) -> None:
    store = bucket()
    with pytest.raises(Stop):
        store.upload(large, "a", progress=after(2))
    assert store.abort("a") == 1 and store.abort("a") == 0
    assert "Uploads" not in keys.client().list_multipart_uploads(Bucket=BUCKET, Prefix=store.prefix)
    assert list((tmp_path / "state").iterdir()) == []


def test_a_file_that_changes_while_it_is_sent(bucket: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * (2 * PART))

    def write(done: int, total: int) -> None:
        with open(tmp_path / "file", "ab") as file:
            file.write(b"more")

    with pytest.raises(InfrastructureError, match="changed while it was sent"):
        bucket().upload(tmp_path / "file", "a", progress=write)


@pytest.fixture
def cut_off(bucket: Make, large: Path) -> Iterator[Callable[[Path], Bucket]]:
    """Downloads three parts' worth, and stops."""
    store = bucket()
    store.upload(large, "a")

    def run(target: Path) -> Bucket:
        with pytest.raises(Stop):
            store.download("a", target, progress=after(3))
        return store

    yield run


def test_a_download_goes_on_where_it_was(cut_off, large: Path, tmp_path: Path) -> None:
    target = tmp_path / "down" / "a"
    store = cut_off(target)
    assert not target.exists()
    begun: list[int] = []
    store.download("a", target, progress=lambda done, total: begun.append(done))
    assert begun[0] > 3 * PART
    assert target.read_bytes() == large.read_bytes()
    assert [p.name for p in target.parent.iterdir()] == ["a"]


def test_what_came_before_is_of_an_older_version(cut_off, tmp_path: Path) -> None:
    target = tmp_path / "down" / "a"
    store = cut_off(target)
    store.put("a", b"newer")
    store.download("a", target)
    assert target.read_bytes() == b"newer"


def test_a_damaged_download_is_not_put_in_place(cut_off, large: Path, tmp_path: Path) -> None:
    target = tmp_path / "down" / "a"
    store = cut_off(target)
    part = target.with_name(".a.part")
    part.write_bytes(b"?" + part.read_bytes()[1:])
    with pytest.raises(InfrastructureError, match="not what the server keeps"):
        store.download("a", target)
    assert not target.exists()
    store.download("a", target)
    assert target.read_bytes() == large.read_bytes()
