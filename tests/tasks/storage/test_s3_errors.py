"""S3 that is away, silent, or refuses: what is wrong, where, the mend, and never a key."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jpu.errors import DataError, InfrastructureError, JpuError, SettingsError, StorageError
from tasks.storage import Patience
from tasks.storage.s3 import Bucket
from tests.s3 import Server

HASTY = Patience(connect=1.0, answer=0.4, attempts=1)

Make = Callable[..., Bucket]
OPERATIONS: dict[str, Callable[[Bucket, Path], object]] = {
    "list": lambda store, _: list(store.list("in")),
    "put": lambda store, _: store.put("in/a", b"1"),
    "present": lambda store, _: store.present(["in/a"]),
    "upload": lambda store, folder: store.upload(folder / "file", "in/file"),
    "download": lambda store, folder: store.download("in/file", folder / "back"),
    "abort": lambda store, _: store.abort("in/file"),
}


@pytest.fixture(params=OPERATIONS)
def operation(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Bucket], object]:
    (tmp_path / "file").write_bytes(b"1" * 1000)
    return lambda store: OPERATIONS[request.param](store, tmp_path)


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a socket that takes connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def says(error: JpuError, server: Server, *words: str) -> bool:
    text = str(error)
    return all(w in text for w in words) and not any(k in text for k in (server.key, server.secret, *server.reader))


def test_keys_that_are_not_known(operation, bucket: Make, keys: Server, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    with pytest.raises(SettingsError) as caught:
        operation(bucket())
    assert says(caught.value, keys, "s3://jpu") and "somebody" not in str(caught.value)


def test_a_wrong_secret(bucket: Make, keys: Server, monkeypatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    with pytest.raises(SettingsError, match="does not belong") as caught:
        list(bucket().list("in"))
    assert says(caught.value, keys, "AWS_SECRET_ACCESS_KEY") and "wrong-secret" not in str(caught.value)


def test_no_credentials(operation, bucket: Make, keys: Server, monkeypatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(SettingsError, match="no credentials"):
        operation(bucket())


@pytest.mark.parametrize("name", ["put", "upload"])
def test_a_user_who_may_only_read(name: str, bucket: Make, keys: Server, tmp_path: Path, monkeypatch) -> None:
    bucket().put("in/there", b"1")
    (tmp_path / "file").write_bytes(b"1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys.reader[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.reader[1])
    store = bucket()
    (entry,) = store.list("in")
    assert store.read(entry, max_bytes=1) == b"1"
    with pytest.raises(SettingsError, match="access denied to bucket jpu") as caught:
        OPERATIONS[name](store, tmp_path)
    assert says(caught.value, keys, "s3:PutObject")
    with pytest.raises(SettingsError):
        store.move(entry, "out/there")
    assert store.present(["in/there"]) == {"in/there"}


@pytest.mark.parametrize("name", ["list", "put", "present", "upload"])
def test_a_bucket_that_is_not_there(name: str, bucket: Make, keys: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(SettingsError, match="there is no bucket nowhere"):
        OPERATIONS[name](bucket("nowhere"), tmp_path)
    assert "nowhere" not in str(keys.client().list_buckets()["Buckets"])


def test_nobody_listens(operation, bucket: Make, keys: Server, monkeypatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:hidden@127.0.0.1:{port}")
    with pytest.raises(InfrastructureError, match=f"http://127.0.0.1:{port} cannot be reached") as caught:
        operation(bucket(patience=HASTY))
    assert caught.value.retryable and "hidden" not in str(caught.value)


def test_a_server_that_never_answers(bucket: Make, silent: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", silent)
    (tmp_path / "file").write_bytes(b"1")
    started = time.monotonic()
    for run in OPERATIONS.values():
        with pytest.raises(InfrastructureError, match="does not answer"):
            run(bucket(patience=HASTY), tmp_path)
    assert time.monotonic() - started < 20


def test_tries_are_bounded(bucket: Make, silent: str, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", silent)
    store = bucket(patience=Patience(connect=1.0, answer=0.3, attempts=3))
    sent: list[int] = []
    store.client.meta.events.register("before-send.s3", lambda **_: sent.append(1))
    with pytest.raises(InfrastructureError):
        list(store.list("in"))
    assert len(sent) == 3


def test_a_name_that_s3_refuses(bucket: Make) -> None:
    with pytest.raises((SettingsError, StorageError, DataError)):
        bucket().put("x" * 5000, b"1")
