"""A good version: every link holds, from the remote or from the cache, and only what was reached is judged."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3

import pytest

from jpu.errors import DataError, InfrastructureError
from tasks.gitstore import GitStore
from tasks.snapshots import snapshot_at
from tasks.verify import verify
from tasks.verify.chain import Passed
from tests.hardened import Place

LINKS = (
    "git tag",
    "git commit",
    "champion.dvc",
    "champion's branch",
    "registered hashes",
    "adapter in MLflow",
    "stages",
    "run of unlearn@2",
    "from version 1",
    "run of unlearn@1",
    "data",
    "contents of adapter of round 2",
    "contents of path of round 1",
    "contents of batch of round 1",
    "contents of subject (base model)",
    "contents of data",
    "pipeline",
    "code",
    "params",
    "figures",
    "validation",
)


def test_good_versions(place: Place) -> None:
    before = place.state()
    said: list[Passed] = []
    verdict = verify(place.client, "champion", say=said.append)
    assert verdict.broken is None, str(verdict.broken)
    assert tuple(said) == verdict.passed
    links = [one.link for one in verdict.passed]
    assert [link for link in LINKS if link not in links] == []
    words = {one.link: one.recomputed for one in verdict.passed}
    assert words["from version 1"] == "jpu-micro/1, whose chain follows"
    assert "those of jpu-micro/1" in words["champion.dvc"]
    assert "remote store" in words["contents of data"]
    former = verify(place.client, "1")
    assert former.broken is None and "champion's branch" not in [one.link for one in former.passed]
    assert place.state() == before


def test_deep_reads_every_output_and_the_cache(place: Place) -> None:
    deep = verify(place.client, "2", deep=True)
    assert deep.broken is None, str(deep.broken)
    words = [f"{one.link}: {one.recomputed}" for one in deep.passed]
    assert any("card.html" in word for word in words)
    assert any("DVC's cache" in word for word in words)
    card = snapshot_at(GitStore(place.root), place.version("1").lock_commit).out("artifacts/evaluation/card.html")
    (place.remote / "files/md5" / card[:2] / card[2:]).unlink()
    assert verify(place.client, "2").broken is None
    verdict = verify(place.client, "2", deep=True)
    assert verdict.version == "jpu-micro/2" and verdict.broken is not None
    assert verdict.broken.link == "jpu-micro/1: contents of artifacts/evaluation/card.html"


def test_without_a_remote_the_cache_is_read(place: Place) -> None:
    (place.root / ".dvc/config").write_text("[core]\n    analytics = false\n")
    shutil.rmtree(place.remote)
    verdict = verify(place.client, "2")
    assert verdict.broken is None, str(verdict.broken)
    assert any("DVC's cache" in one.recomputed for one in verdict.passed)


def test_a_remote_that_is_away_is_no_broken_link(place: Place) -> None:
    shutil.rmtree(place.remote)
    with pytest.raises(InfrastructureError, match="remote store: is configured, and there is nothing"):
        verify(place.client, "2")


def test_a_store_that_is_away_is_no_broken_link(place: Place) -> None:
    with contextlib.closing(sqlite3.connect(place.root / "mlflow/mlflow.db")) as store:
        store.execute("alter table runs rename to gone")
    with pytest.raises(InfrastructureError):
        verify(place.client, "2")


def test_no_such_version(place: Place) -> None:
    with pytest.raises(DataError, match="no version '3'"):
        verify(place.client, "3")
