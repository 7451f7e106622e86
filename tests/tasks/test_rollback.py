"""Back to an earlier version: served alias, branch, lock file and artifacts agree, and no work is lost."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from jpu.errors import DataError, InfrastructureError, StorageError
from jpu.files import read_json
from tasks.champion import promote
from tasks.gitstore import GitStore
from tasks.lineage import hardened_model
from tasks.repository import hash_path
from tasks.rollback import rollback
from tasks.snapshots import KEPT
from tasks.working_tree import held, unsaved
from tests.hardened import Place, copied


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Version 2 is the champion and in the working tree, version 1 was before."""
    return copied(tmp_path / "base", monkeypatch, champion="2")


def agree(place: Place, number: int) -> None:
    """Alias, branch, the kept files, the adapter and the data in the current folder are those of one version."""
    version = place.version(str(number))
    assert place.champion() == number
    assert place.branch() == version.lock_commit
    git = GitStore(place.root)
    for name in KEPT:
        assert held(Path(name)) == git.read(version.lock_commit, name), name
    assert hardened_model().identity.items() <= version.tags.items()
    assert hash_path("data") == version.tags["jpu.data"]
    assert not (git.common / "jpu/champion-micro.json").exists()


def test_there_and_back(place: Place) -> None:
    before = place.state()
    done = rollback(place.client, "1")
    agree(place, 1)
    assert (done.change.kind, done.change.old, done.change.new) == ("rollback", 2, 1)
    assert set(done.written) == set(KEPT) and "data/" in done.changed and done.kept is None
    after = place.state()
    assert all(after[key] == before[key] for key in ("head", "commit", "index"))
    assert place.version("1").tags["jpu.promoted_by"] == "rollback"
    again = rollback(place.client, "1")
    assert again.written == () and again.changed == ()
    rollback(place.client, "2")
    agree(place, 2)


def test_what_the_cache_has_lost_comes_from_the_remote(place: Place) -> None:
    shutil.rmtree(place.root / ".dvc/cache")
    rollback(place.client, "1")
    agree(place, 1)


def test_what_nothing_has_is_told_before_anything_moves(place: Place) -> None:
    shutil.rmtree(place.root / ".dvc/cache")
    adapter = place.version("1").tags["jpu.adapter"]
    (place.remote / "files/md5" / adapter[:2] / adapter[2:]).unlink()
    with pytest.raises((DataError, InfrastructureError), match="Nothing was moved"):
        rollback(place.client, "1")
    agree(place, 2)


def test_artifacts_that_are_only_in_the_working_tree_are_work(place: Place) -> None:
    shutil.rmtree(place.root / ".dvc/cache")
    (place.root / ".dvc/config").write_text("[core]\n    analytics = false\n")
    git = GitStore(place.root)
    assert "artifacts/rounds/2/adapter" in unsaved(git, [place.version("1"), place.version("2")])


def test_work_that_no_commit_holds_is_kept(place: Place) -> None:
    edited = json.dumps(json.loads((place.root / "params.yaml").read_text()) | {"seed": 77})
    (place.root / "params.yaml").write_text(edited)
    with (place.root / "data/sandbox/refusals.jsonl").open("a") as file:
        file.write("{}\n")
    (place.root / "artifacts/rounds/2/unlearn.json").write_text("edited by hand")
    with pytest.raises(DataError, match=r"params\.yaml, artifacts/rounds/2/unlearn\.json, data: holds work"):
        rollback(place.client, "1")
    assert place.champion() == 2
    done = rollback(place.client, "1", force=True)
    agree(place, 1)
    assert done.kept and (done.kept / "params.yaml").read_text() == edited
    assert (done.kept / "data/sandbox/refusals.jsonl").read_text().endswith("{}\n")
    assert (done.kept / "artifacts/rounds/2/unlearn.json").read_text() == "edited by hand"


def test_a_params_file_that_is_broken_can_be_replaced(place: Place) -> None:
    (place.root / "params.yaml").write_text("{")
    done = rollback(place.client, "micro/1", force=True)
    agree(place, 1)
    assert done.kept and (done.kept / "params.yaml").read_text() == "{"


def test_a_version_that_is_only_here_is_recorded_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = copied(tmp_path / "base", monkeypatch)
    monkeypatch.chdir(place.checkout)
    said: list[str] = []
    rollback(place.client, "1", say=said.append)
    agree(place, 1)
    assert any("recorded: jpu-micro/2" in words for words in said)
    rollback(place.client, "2")
    agree(place, 2)


def test_a_version_without_a_commit(place: Place) -> None:
    place.client.delete_model_version_tag("jpu-micro", "1", "jpu.lock_commit")
    with pytest.raises(DataError, match=r"no commit holds its dvc\.lock"):
        rollback(place.client, "1")
    agree(place, 2)


def test_alias_and_branch_that_disagree_are_set(place: Place) -> None:
    place.client.set_registered_model_alias("jpu-micro", "champion", "1")
    rollback(place.client, "2")
    agree(place, 2)


def test_kill_9_after_the_champion_moved_is_completed_by_the_next_command(place: Place) -> None:
    killed = place.run(
        "import os, signal, tasks.rollback\nfrom tasks.store import open_client\n"
        "tasks.rollback.put_in_place = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
        "tasks.rollback.rollback(open_client(), '1')"
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert place.champion() == 1
    assert read_json(GitStore(place.root).common / "jpu/champion-micro.json")["kind"] == "rollback"
    (place.root / "params.yaml").write_text("{}")
    said: list[str] = []
    promote(place.client, "micro/1", say=said.append)
    kept = place.root / ".jpu/replaced/1"
    assert said == [f"completed: the rollback from version 2 to 1 (what was there is in {kept})"]
    assert (kept / "params.yaml").read_text() == "{}"
    agree(place, 1)


def test_artifacts_that_cannot_be_put_in_place(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full: the champion has moved, and the same command completes it."""
    from dvc.repo import Repo

    with monkeypatch.context() as patch:
        patch.setattr(Repo, "checkout", _full)
        with pytest.raises(StorageError, match="the champion was moved"):
            rollback(place.client, "1")
    assert place.champion() == 1
    rollback(place.client, "1")
    agree(place, 1)


def _full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")
