"""A clean checkout for one run: a clone of this repository at a commit, with DVC's cache shared and all else its own.

What runs in it collides with nobody: not with the working tree of a person, not with another run. What it makes comes
back as objects of the cache, as versions in MLflow, and as commits and tags (`give_back`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jpu.errors import InfrastructureError, SettingsError, StorageError
from tasks.repository import open_repo

CHECKOUTS = Path(".jpu/checkouts")
_LOCAL = Path(".dvc/config.local")
_SECONDS = 600


@dataclass(frozen=True)
class Checkout:
    """A checkout and where it came from; both absolute.

    Attributes:
        folder: The checkout.
        repository: The repository that it was made from.
    """

    folder: Path
    repository: Path

    def give_back(self, refs: Sequence[str]) -> None:
        """Bring tags and branches of the checkout, with what they lead to, into the repository; none is moved.

        Args:
            refs: Full names, `refs/tags/…`.

        Raises:
            InfrastructureError: The repository has one of them elsewhere, or cannot be written.
        """
        git(self.folder, "push", "--quiet", "--atomic", str(self.repository), *(f"{ref}:{ref}" for ref in refs))

    def remove(self) -> None:
        """Delete the checkout. The cache, which is the repository's, stays."""
        shutil.rmtree(self.folder, ignore_errors=True)


def open_checkout(name: str, commit: str, root: Path | str = ".") -> Checkout:
    """A checkout of a commit, in `.jpu/checkouts`; whole or not at all.

    Args:
        name: Its folder's name.
        commit: The commit to stand at; no branch is checked out.
        root: The repository.

    Raises:
        SettingsError: There is one of that name, or no such commit.
        InfrastructureError: git failed.
    """
    repository = Path(root).resolve()
    folder = repository / CHECKOUTS / name
    if folder.exists():
        raise SettingsError("is there already", where=str(folder), mend="Remove it, or choose another name.")
    building = folder.with_name(f".{name}.building")
    shutil.rmtree(building, ignore_errors=True)
    try:
        building.parent.mkdir(parents=True, exist_ok=True)
        # Objects are linked, not borrowed: the repository may be cleaned up while a run goes on.
        git(repository, "clone", "--quiet", "--local", "--no-checkout", str(repository), str(building))
        git(building, "checkout", "--quiet", "--detach", commit)
        _share_cache(repository, building)
        building.rename(folder)
    except OSError as error:
        raise StorageError(f"cannot be made ({error.strerror})", where=str(folder), mend="Free some space.") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Checkout(folder, repository)


def finished_checkouts(keep: int, root: Path | str = ".") -> list[Path]:
    """All checkouts but the newest `keep`, oldest first."""
    folder = Path(root).resolve() / CHECKOUTS
    found = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    found.sort(key=lambda path: path.stat().st_mtime_ns)
    return found[: max(0, len(found) - keep)]


def git(folder: Path, *arguments: str) -> str:
    """What a git command says, run in a folder.

    Raises:
        InfrastructureError: It failed; the message holds its last line.
    """
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise InfrastructureError(f"git {arguments[0]} does not end", where=str(folder)) from error
    if done.returncode:
        said = " ".join(done.stderr.split())[-300:]
        raise InfrastructureError(
            f"git {arguments[0]}: {said}", where=str(folder), mend="See that no other git runs there, then try again."
        )
    return done.stdout


def _share_cache(repository: Path, folder: Path) -> None:
    """The repository's own settings of DVC (a remote's address, say), and its cache by an absolute path."""
    with open_repo(repository) as repo:
        objects = Path(repo.cache.local.path)
    # Objects of DVC's third format are in a folder of their own inside the cache.
    cache = objects.parent.parent if objects.parts[-2:] == ("files", "md5") else objects
    local = repository / _LOCAL
    if local.is_file():
        shutil.copy2(local, folder / _LOCAL)
    with open_repo(folder) as repo, repo.config.edit("local") as settings:
        settings.setdefault("cache", {})["dir"] = str(cache)
    (folder / _LOCAL).chmod(0o600)
