"""What changed between two versions: counted and named, no text of a record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from jpu.errors import DataError
from tasks.gitstore import GitStore
from tasks.snapshots import snapshot_at
from tasks.version_diff import diff
from tests.hardened import TEMPLATE, Place, copied


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return copied(tmp_path / "base", monkeypatch, champion="2")


def test_two_versions(place: Place) -> None:
    found = diff(place.client, "1", "champion")
    assert (found["first"], found["second"]) == ("jpu-micro/1", "jpu-micro/2")
    data = found["data"]
    assert data["changed"] == ["sandbox/templates.jsonl"] and data["added"] == data["removed"] == []
    kinds = data["records"]["sandbox/templates.jsonl"]
    assert kinds["jailbreak added"] == [0, 1]
    assert [kind for kind, (old, new) in kinds.items() if old != new] == ["jailbreak added"]
    assert found["params"] == {"rounds.1.prev": ["0", None], "rounds.2.prev": [None, "1"], "last_round": ["1", "2"]}
    assert found["goes_on_from"] == [None, "jpu-micro/1"]
    assert found["code"] == {"files": [], "dependencies": {}}
    figures = found["figures"]
    tags = [place.version(number).tags for number in "12"]
    assert figures and all(
        [figure["before"], figure["after"]] == [float(side[f"after.{name}"]) for side in tags]
        for name, figure in figures.items()
    )
    assert {figure["change"] for figure in figures.values()} <= {"better", "worse", ""}
    assert TEMPLATE["text"] not in json.dumps(found)

    back = diff(place.client, "2", "1")
    assert back["params"]["last_round"] == ["2", "1"]
    turned = {"better": "worse", "worse": "better", "": ""}
    assert {name: turned[figure["change"]] for name, figure in figures.items()} == {
        name: figure["change"] for name, figure in back["figures"].items()
    }


def test_a_version_and_itself(place: Place) -> None:
    found = diff(place.client, "2", "2")
    assert not any((found["params"], found["figures"], found["code"]["files"], found["data"]["records"]))


def test_code_that_changed(place: Place) -> None:
    """Version 2's commit, on other code; the lock file says that a stage ran it."""
    git, version = GitStore(place.root), place.version("2")
    files = {name: git.read(version.lock_commit, name) or b"" for name in ("data.dvc", "params.yaml", "dvc.lock")}
    mining = snapshot_at(git, version.lock_commit).lock["unlearn@2"].deps["tasks/mining.py"]
    files["dvc.lock"] = files["dvc.lock"].replace(mining.encode(), b"5" * 32)
    files["tasks/mining.py"] = b"# other\n"
    place.client.set_model_version_tag(
        "jpu-micro", "2", "jpu.lock_commit", git.commit_files(files, version.lock_commit, "x")
    )
    code = diff(place.client, "1", "2")["code"]
    assert code["files"] == [("M", "tasks/mining.py")]
    assert code["dependencies"]["unlearn@2"] == ["tasks/mining.py"]


def test_data_that_the_cache_has_not_come_from_the_remote(place: Place) -> None:
    shutil.rmtree(place.root / ".dvc/cache")
    assert diff(place.client, "1", "2")["data"]["changed"] == ["sandbox/templates.jsonl"]
    for path in place.remote.rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(DataError, match="neither in DVC's cache nor in a remote"):
        diff(place.client, "1", "2")
