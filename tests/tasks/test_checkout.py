"""A checkout beside what a person works on: git's and DVC's own, whole or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from dvc.repo import Repo

from jpu.errors import JpuError, SettingsError, StorageError
from tasks import checkout as module
from tasks.checkout import CHECKOUTS, checkouts, open_checkout
from tests.hardened import git
from tests.micro import ROOT


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two commits with data of their own; a remote by a relative address, which only this clone's settings name."""
    for name in list(os.environ):
        if name.startswith(("DVC_", "GIT_")):
            monkeypatch.delenv(name)
    root = tmp_path / "here"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    (root / ".gitignore").write_text("/.jpu\n/data\n")
    (root / ".dvcignore").write_text(".jpu\n")
    Repo.init(str(root)).close()
    (root / ".dvc/config.local").write_text(
        "[core]\n    remote = store\n['remote \"store\"']\n    url = ../../remote\n"
    )
    (root / "data").mkdir()
    with Repo(str(root)) as repo:
        for text in ("first", "second"):
            (root / "data/a").write_text(text)
            repo.add(str(root / "data"))
            git(root, "add", "-A")
            git(root, "commit", "-q", "-m", text)
        repo.push(all_commits=True)
    return root


def state(root: Path) -> list[str]:
    """What is a person's own here."""
    asked = (["symbolic-ref", "HEAD"], ["status", "--porcelain"], ["ls-files", "--stage"], ["for-each-ref"])
    return [git(root, *arguments) for arguments in asked]


def nothing_left(root: Path) -> bool:
    trees = git(root, "worktree", "list").splitlines()
    return len(trees) == 1 and [path.name for path in (root / CHECKOUTS).iterdir()] == [".lock"]


def test_a_checkout_touches_nothing_of_the_repository(repository: Path) -> None:
    (repository / "staged").write_text("half done")
    git(repository, "add", "staged")
    (repository / "data.dvc").write_text("half done, too")
    hook = repository / ".git/hooks/post-checkout"
    hook.write_text("#!/bin/sh\ntouch hooked\n")
    hook.chmod(0o755)
    git(repository, "worktree", "add", "-q", "--detach", str(repository.parent / "away"))
    (repository.parent / "away").rename(repository.parent / "unmounted")
    before = state(repository)
    made = open_checkout("a", "main~1", repository)
    assert made.folder == repository / CHECKOUTS / "a" and made.repository == repository
    assert git(made.folder, "rev-parse", "HEAD") == git(repository, "rev-parse", "main~1")
    assert git(made.folder, "status", "--porcelain") == "" and git(made.folder, "branch", "--show-current") == ""
    (made.folder / "more").write_text("of the run")
    git(made.folder, "add", "more")
    assert state(repository) == before
    made.remove()
    assert state(repository) == before and not made.folder.exists()
    trees = git(repository, "worktree", "list")
    assert "away" in trees and "checkouts" not in trees


def test_dvc_has_the_cache_and_the_remote_of_the_repository(repository: Path) -> None:
    made = open_checkout("a", "main~1", repository)
    assert (made.folder / ".dvc/config.local").stat().st_mode & 0o777 == 0o600
    with Repo(str(made.folder)) as repo:
        repo.checkout()
        assert (made.folder / "data/a").read_text() == "first"
        (made.folder / "data/a").write_text("third")
        repo.add(str(made.folder / "data"))
        repo.push()
        stored = repo.cloud.get_remote_odb().path
        assert stored == str(repository.parent / "remote/files/md5")
        assert repo.status() == repo.status(cloud=True) == {}
    shutil.rmtree(repository / ".dvc/cache")
    shutil.rmtree(made.folder / "data")
    with Repo(str(made.folder)) as repo:
        repo.pull()
    assert (made.folder / "data/a").read_text() == "third"
    assert (repository / ".dvc/cache/files/md5").is_dir() and not (made.folder / ".dvc/cache").exists()
    assert (repository / "data/a").read_text() == "second"


def test_a_cache_elsewhere_is_shared_as_well(repository: Path) -> None:
    with (repository / ".dvc/config.local").open("a") as file:
        file.write("[cache]\n    dir = ../../cache\n")
    made = open_checkout("a", "main", repository)
    with Repo(str(made.folder)) as repo:
        repo.pull()
    assert (repository.parent / "cache/files/md5").is_dir() and (made.folder / "data/a").read_text() == "second"


def test_several_at_once(repository: Path) -> None:
    def attempt(name: str) -> str:
        try:
            return open_checkout(name, "main", repository).folder.name
        except JpuError as error:
            return type(error).__name__

    with ThreadPoolExecutor(4) as pool:
        found = sorted(pool.map(attempt, ["a", "b", "c", "a"]))
    assert found == ["SettingsError", "a", "b", "c"]
    assert {one.folder.name for one in checkouts(repository)} == {"a", "b", "c"}
    assert len(git(repository, "worktree", "list").splitlines()) == 4


def test_the_oldest_comes_first(repository: Path) -> None:
    assert checkouts(repository) == []
    made = [open_checkout(name, "main", repository) for name in "cab"]
    (made[0].folder / "later").touch()
    assert checkouts(repository) == made


@pytest.mark.parametrize(
    ("name", "commit", "words"),
    [
        pytest.param("there", "main", "is there already", id="same name"),
        pytest.param("../a", "main", "no name of a folder", id="outside"),
        pytest.param(".a", "main", "no name of a folder", id="hidden"),
        pytest.param("a", "nowhere", "no commit 'nowhere'", id="no commit"),
    ],
)
def test_what_cannot_be_checked_out(repository: Path, name: str, commit: str, words: str) -> None:
    open_checkout("there", "main", repository)
    with pytest.raises(SettingsError, match=words):
        open_checkout(name, commit, repository)
    assert [one.folder.name for one in checkouts(repository)] == ["there"]


def test_a_full_disk_leaves_nothing(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_share", full)
    with pytest.raises(StorageError, match="No space left"):
        open_checkout("a", "main", repository)
    assert nothing_left(repository)


def test_what_a_kill_leaves_goes_with_the_next_one(repository: Path) -> None:
    killed = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, signal, tasks.checkout as module\n"
            "module._share = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\nmodule.open_checkout('a', 'main')",
        ],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL and not nothing_left(repository)
    assert checkouts(repository) == []
    open_checkout("b", "main", repository).remove()
    assert nothing_left(repository)
