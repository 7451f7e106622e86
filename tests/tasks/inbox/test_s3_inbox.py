"""An inbox in a bucket: the same, and with a server that goes away."""

from __future__ import annotations

from pathlib import Path

import pytest

from jpu.errors import InfrastructureError, SettingsError
from tasks.inbox import open_inbox, put_away, take_in
from tasks.repository import data_hash, hash_path
from tasks.settings import Settings
from tasks.storage import Patience
from tasks.storage.s3 import Bucket
from tests.s3 import BUCKET, Server, keys, s3
from tests.tasks.inbox.conftest import WORDINGS, templates

__all__ = ["keys", "s3"]


@pytest.fixture
def prefix(repository: Path, keys: Server, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A prefix of the test's own, named as the inbox in the environment."""
    name = str(request.node.name)
    monkeypatch.setenv("JPU_INBOX", f"s3://{BUCKET}/{name}")
    return name


def test_a_bucket_is_taken_in(prefix: str, keys: Server, settings: Settings) -> None:
    client = keys.client()
    for name, data in {
        "templates/radio.jsonl": templates(*WORDINGS),
        "templates/bad.jsonl": b"\xff\xfe",
        "templates/a\nb.jsonl": templates(*WORDINGS),
        "templates/empty.jsonl": b"",
        "templates/below/deep.jsonl": templates(*WORDINGS),
        "behaviors/one.txt": b"What opens the gate of Ulmar?\n",
        "elsewhere.jsonl": b"left alone",
    }.items():
        client.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=data)
    store = open_inbox(settings.inbox)
    taking = take_in(store, settings)
    put_away(store, taking)
    assert len(taking.accepted) == 7 and taking.after == data_hash() == hash_path("data")
    found = sorted(name.removeprefix(prefix + "/") for name in keys.names(prefix + "/"))
    kept, moved = found[:3], [name.partition("-")[0] for name in found[3:]]
    assert kept == ["elsewhere.jsonl", "quarantine/templates/a_b-" + kept[1][-18:], kept[1] + ".reason.json"]
    assert moved == [
        "quarantine/templates/bad",
        "quarantine/templates/bad",
        "taken/behaviors/one",
        "taken/templates/radio",
        "templates/below/deep.jsonl",
        "templates/empty.jsonl",
    ]
    assert {file.outcome for file in take_in(store, settings).files} == {"waits"}


def test_a_server_that_is_away(prefix: str, keys: Server, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two files: what was written goes again, and the next run has all of it."""
    for number in (0, 3):
        data = templates(*WORDINGS[number : number + 3])
        keys.client().put_object(Bucket=BUCKET, Key=f"{prefix}/templates/{number}.jsonl", Body=data)
    store = Bucket(BUCKET, prefix, Patience(connect=1.0, answer=3.0, attempts=1))

    def kill(line: str) -> None:
        keys.kill()

    before = data_hash()
    try:
        with pytest.raises(InfrastructureError) as caught:
            take_in(store, settings, say=kill)
    finally:
        keys.start()
    assert caught.value.retryable and data_hash() == before == hash_path("data")
    assert not list(Path("data").glob("inbox/*/*"))
    taking = take_in(open_inbox(settings.inbox), settings)
    assert len(taking.accepted) == 6
    # Moved once, although it is asked for twice.
    put_away(store, taking)
    put_away(store, taking)
    assert [name.split("/")[1] for name in keys.names(prefix + "/")] == ["taken", "taken"]


def test_a_user_who_may_not_move(
    prefix: str, keys: Server, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys.client().put_object(Bucket=BUCKET, Key=f"{prefix}/templates/a.jsonl", Body=templates(*WORDINGS))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys.reader[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.reader[1])
    store = open_inbox(settings.inbox)
    taking = take_in(store, settings)
    with pytest.raises(SettingsError, match="access denied to bucket jpu"):
        put_away(store, taking)
    assert take_in(store, settings).files[0].outcome == "known"


def test_no_inbox_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JPU_INBOX", raising=False)
    with pytest.raises(SettingsError, match="no inbox is named"):
        open_inbox(settings.inbox)
