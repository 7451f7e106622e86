"""A remote that is away or full is said to be so, and worth another try; what it lacks is sent when it is back."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.repo import Repo

from jpu.errors import InfrastructureError
from tasks.remote import fetch, push
from tasks.repository import open_repo


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repo]:
    """A repository with one file that DVC keeps, and no remote."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Repo.init(no_scm=True).close()
    (folder / "data").write_bytes(bytes(1 << 21))
    with open_repo() as repo:
        repo.add("data")
        yield repo


def give(repo: Repo, url: str, **options: str) -> None:
    with repo.config.edit("local") as settings:
        settings["core"] = {"remote": "store"}
        settings["remote"] = {"store": {"url": url, **options}}


def test_without_a_remote_nothing_is_done(repo: Repo) -> None:
    push(repo)
    fetch(repo)


@pytest.mark.parametrize("act", [push, fetch])
def test_a_server_that_is_away_is_worth_another_try(act: object, repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "somebody")
    give(repo, "s3://bucket/place", endpointurl=address)
    if act is fetch:
        repo.cache.local.clear()
    with pytest.raises(InfrastructureError, match="remote store: DVC cannot send or bring") as error:
        act(repo)  # type: ignore[operator]
    assert error.value.retryable and "somebody" not in str(error.value)


def test_what_did_not_fit_is_sent_when_there_is_room(repo: Repo, full_disk: Path, tmp_path: Path) -> None:
    give(repo, str(full_disk / "remote"))
    with pytest.raises(InfrastructureError, match="remote store"):
        push(repo)
    give(repo, str(tmp_path / "larger"))
    push(repo)
    repo.cache.local.clear()
    fetch(repo, ["data"])
    assert [path.stat().st_size for path in Path(repo.cache.local.path).rglob("*") if path.is_file()] == [1 << 21]
