"""A pipeline that goes on from a champion, as git, DVC and the settings see it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo

from jpu.errors import DataError, SettingsError
from tasks.champion import promote
from tasks.checkout import Checkout, open_checkout
from tasks.gitstore import GitStore
from tasks.pinned import Start, parts, read_start
from tasks.pipeline import read_plan
from tasks.settings import load_settings
from tasks.snapshots import KEPT, snapshot_at
from tasks.start import start_from
from tests.hardened import Place, copied, git


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Version 2, the champion, was itself made from version 1."""
    return copied(tmp_path / "base", monkeypatch, champion="2")


@pytest.fixture
def third(place: Place, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """A checkout of version 2, as the current folder, with its artifacts and the pipeline for a third round."""
    version = place.version("champion")
    made = open_checkout("third", version.lock_commit, place.root)
    monkeypatch.chdir(made.folder)
    with Repo(".") as repo:
        repo.pull()
    assert start_from(version) == ["3"]
    return made


def outputs(place: Place, number: str) -> dict[str, str]:
    return snapshot_at(GitStore(place.root), place.version(number).lock_commit).outs


def test_version_three_from_two_from_one(place: Place, third: Checkout) -> None:
    two = place.version("2")
    before = {path: md5 for path, md5 in outputs(place, "2").items() if path in parts("2")}
    assert read_start() == Start("jpu-micro/2", two.lock_commit, before) and len(before) == 3
    assert before["artifacts/subject"] == outputs(place, "1")["artifacts/subject"] == two.tags["jpu.subject"]
    assert load_settings().on_the_way == ["3"]
    plan = read_plan()
    assert [one.name for one in plan.stages] == ["prepare", "mine@3", "identify@3", "unlearn@3", "evaluate"]
    assert set(plan.changes) == {"mine@3", "identify@3", "unlearn@3", "evaluate"}
    assert plan.changes["mine@3"] == ("never ran before",)
    assert set(plan.stage("mine@3").upstream) == {"prepare"}
    changed = git(third.folder, "diff", "--name-only", "HEAD").splitlines()
    assert sorted(changed) == ["champion.dvc", "dvc.lock", "params.yaml"]


def test_once_more_it_is_the_same_and_other_settings_are_kept(place: Place, third: Checkout) -> None:
    first = {name: Path(name).read_bytes() for name in KEPT}
    assert start_from(place.version("2")) == ["3"]
    assert {name: Path(name).read_bytes() for name in KEPT} == first
    # Cut off after the first file.
    for name in ("dvc.lock", "params.yaml"):
        git(third.folder, "checkout", "-q", "HEAD", name)
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace('"seed": 3', '"seed": 4'))
    assert start_from(place.version("2"), rounds=2) == ["3", "4"]
    settings = load_settings()
    assert settings.seed == 4 and settings.on_the_way == ["3", "4"]
    assert Path("dvc.lock").read_bytes() == first["dvc.lock"]


def test_dvc_treats_it_as_data(place: Place, third: Checkout) -> None:
    with Repo(".") as repo:
        assert not [name for name in repo.status() if name.endswith(".dvc")]
        shutil.rmtree("artifacts/subject")
        assert "champion.dvc" in repo.status()
        repo.checkout("champion.dvc")
        with repo.config.edit("local") as settings:
            settings["remote"]["store"]["url"] = str(place.root.parent / "other")
    with Repo(".") as repo:
        repo.push("champion.dvc")
        shutil.rmtree(place.root / ".dvc/cache")
        for path in parts("2"):
            shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()
        repo.pull("champion.dvc")
        assert "champion.dvc" not in repo.status() and all(Path(path).exists() for path in parts("2"))


def test_a_version_that_is_not_checked_out(place: Place, third: Checkout) -> None:
    before = {name: Path(name).read_bytes() for name in KEPT}
    with pytest.raises(DataError, match=r"not at [0-9a-f]{12} of jpu-micro/1"):
        start_from(place.version("1"))
    assert {name: Path(name).read_bytes() for name in KEPT} == before


def test_a_file_that_names_no_version(place: Place) -> None:
    (place.root / "champion.dvc").write_text("outs: []\n")
    with pytest.raises(SettingsError, match=r"champion\.dvc: says not of which version"):
        read_start()


def test_a_fresh_clone_of_the_version_has_nothing_to_run(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = place.root.parent / "fresh"
    git(place.root, "clone", "-q", "--no-hardlinks", str(place.root), str(fresh))
    git(fresh, "checkout", "-q", "--detach", "jpu/micro/v2")
    monkeypatch.chdir(fresh)
    with Repo(".") as repo:
        repo.pull()
        assert repo.status() == {}
        assert repo.reproduce() == []
    assert git(fresh, "status", "--porcelain") == ""
    assert not Path("artifacts/rounds/1/batch.jsonl").exists()


def test_what_is_promoted_in_the_checkout_is_so_in_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = copied(tmp_path / "base", monkeypatch)
    before = place.state()
    promote(place.client, "challenger", place.checkout, expected="1")
    assert place.champion() == 2 and place.state() == before
    commit = place.version("2").lock_commit
    assert place.branch() == commit == place.git("rev-parse", "jpu/micro/v2^{commit}")
    assert place.version("2").tags["jpu.from"] == "jpu-micro/1"
