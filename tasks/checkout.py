"""A clean checkout for one run: a working tree of git's at a commit, with DVC's cache and remotes and all else its own.

What runs in it collides with nobody: not with the working tree of a person, not with another run. It shares git's
objects, branches and tags, so what is recorded or promoted in it is so in the repository, too; a clone would have to
send these back, and what a kill leaves between would be in MLflow and not in git.

The repository's root has to be git's own. Does not fetch artifacts (`dvc pull`, or DVC's checkout from the cache).
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jpu.errors import SettingsError, StorageError
from tasks.environment import quiet
from tasks.gitstore import GitStore
from tasks.repository import open_repo

CHECKOUTS = Path(".jpu/checkouts")
_BUILDING = ".building"


@dataclass(frozen=True)
class Checkout:
    """A checkout and where it came from; both absolute.

    Attributes:
        folder: The checkout.
        repository: The repository that it was made from.
    """

    folder: Path
    repository: Path

    def remove(self) -> None:
        """Delete the checkout, with everything in it that was not recorded. The cache stays."""
        _forget(GitStore(self.repository), self.folder)


def open_checkout(name: str, commit: str, root: Path | str = ".") -> Checkout:
    """A checkout of a commit, in `.jpu/checkouts`; whole or not at all.

    Args:
        name: Its folder's name.
        commit: The commit to stand at; no branch is checked out.
        root: The repository.

    Raises:
        SettingsError: There is one of that name, or no such commit.
        InfrastructureError: git failed.
        StorageError: The disk is full, or may not be written.
    """
    git = GitStore(root)
    folder = git.root / CHECKOUTS / name
    if Path(name).name != name or name.startswith("."):
        raise SettingsError("is no name of a folder", where=name, mend="Use letters, digits and dashes.")
    found = git.commit(commit)
    if found is None:
        raise SettingsError(f"no commit {commit!r}", where=str(git.root), mend="`git fetch --tags`, then try again.")
    with _one_at_a_time(folder):
        if folder.exists():
            raise SettingsError("is there already", where=str(folder), mend="Remove it, or choose another name.")
        building = folder.with_name(f".{name}{_BUILDING}")
        try:
            git.add_working_tree(building, found)
            _share(git.root, building)
            git.move_working_tree(building, folder)
        except OSError as error:
            raise StorageError(
                f"cannot be made ({error.strerror})", where=str(folder), mend="Free some space, then try again."
            ) from error
        finally:
            _forget(git, building)
    return Checkout(folder, git.root)


def checkouts(root: Path | str = ".") -> list[Checkout]:
    """All checkouts, the oldest first. Does not know whether anything still runs in one."""
    repository = Path(root).resolve()
    folder = repository / CHECKOUTS
    found = [path for path in folder.glob("[!.]*") if (path / ".git").exists()]
    # Of the file that ties it to git, which nothing writes later.
    return [Checkout(path, repository) for path in sorted(found, key=lambda path: (path / ".git").stat().st_mtime_ns)]


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the lock; what is half made then is of a process that was killed, and goes."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        handle = (folder.parent / ".lock").open("a")
    except OSError as error:
        raise StorageError(
            f"cannot be written ({error.strerror})", where=str(folder.parent), mend="Free some space, then try again."
        ) from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        for left in folder.parent.glob(f".*{_BUILDING}"):
            _forget(GitStore(folder.parent), left)
        yield


def _forget(git: GitStore, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    git.forget_working_tree(folder)


def _share(repository: Path, folder: Path) -> None:
    """DVC's cache, by its absolute path, and the remotes as the repository has them now; secrets for the owner only."""
    quiet()
    from dvc.config import Config, ConfigError

    with open_repo(repository) as repo:
        objects = Path(repo.cache.local.path)
        ours = repo.config.read()
    # Objects of DVC's third format are in a folder of their own inside the cache.
    cache = objects.parent.parent if objects.parts[-2:] == ("files", "md5") else objects
    local = folder / ".dvc/config.local"
    try:
        local.touch(0o600)
        with Config(str(folder / ".dvc")).edit("local") as settings:
            settings["core"] = ours["core"]
            settings["cache"] = {**ours["cache"], "dir": str(cache)}
            settings["remote"] = {name: _absolute(remote) for name, remote in ours["remote"].items()}
    except ConfigError as error:
        raise SettingsError(
            " ".join(str(error).split()), where=str(repository / ".dvc/config"), mend="`dvc config --list` shows it."
        ) from error


def _absolute(remote: dict[str, Any]) -> dict[str, Any]:
    """A remote with its paths in full: DVC would write those of a relative kind relative to the new file."""
    return {key: str(value) if isinstance(value, str) else value for key, value in remote.items()}
