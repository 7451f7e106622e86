"""A version's files and artifacts in the working tree, and the work that they would overwrite."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from jpu.errors import JpuError, SettingsError, StorageError
from jpu.files import atomic_folder, write_bytes
from tasks.gitstore import GitStore
from tasks.objects import default_remote, local_objects
from tasks.repository import open_repo, repo_hash
from tasks.snapshots import KEPT, snapshot_here
from tasks.versions import Version
from tasks.witness import DATA_FOLDER

REPLACED = Path(".jpu/replaced")


def unsaved(git: GitStore, versions: Iterable[Version]) -> list[str]:
    """Files that are in no commit; data and outputs that are neither in DVC's cache nor in its remote.

    Args:
        git: The repository, at the working tree's root.
        versions: Versions whose commits count, beside HEAD.

    Raises:
        InfrastructureError: The remote is needed to tell, and cannot be reached.
    """
    commits = [c for v in versions if v.lock_commit and (c := git.commit(v.lock_commit))]
    if head := git.commit("HEAD"):
        commits.append(head)
    found = [
        name
        for name in KEPT
        if (data := held(git.root / name)) is not None and all(git.read(c, name) != data for c in commits)
    ]
    try:
        here = snapshot_here(git.root)
    except SettingsError:
        return found
    outputs = [*here.outs, *([DATA_FOLDER] if here.data else [])]
    with open_repo(git.root) as repo:
        now = {path: repo_hash(repo, path) for path in outputs if (git.root / path).exists()}
        cache = local_objects(repo)
        lost = {path: md5 for path, md5 in now.items() if cache.missing(md5)}
        remote = default_remote(repo) if lost else None
        return found + [path for path, md5 in lost.items() if remote is None or remote.missing(md5)]


def keep(root: Path, names: Iterable[str]) -> Path:
    """Copy what is about to be replaced into a new folder under .jpu/replaced/; returns it. Raises StorageError."""
    number = 1
    while (root / REPLACED / str(number)).exists():
        number += 1
    with atomic_folder(root / REPLACED / str(number)) as folder:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if (root / name).is_dir():
                shutil.copytree(root / name, folder / name)
            else:
                shutil.copy2(root / name, folder / name)
    return root / REPLACED / str(number)


def held(path: Path) -> bytes | None:
    """A file's bytes, None where it is not there."""
    return path.read_bytes() if path.exists() else None


def put_in_place(root: Path | str, commit: str) -> list[str]:
    """Make the pipeline's files those of a commit, then have DVC put outputs and data in place.

    Overwrites what is there: see `unsaved` first.

    Args:
        root: The working tree.
        commit: The commit.

    Returns:
        What DVC changed; "-" stands before what it removed.

    Raises:
        StorageError: A file cannot be written, or DVC cannot put an output in place.
    """
    from dvc.exceptions import DvcException

    git = GitStore(root)
    for name in KEPT:
        data = git.read(commit, name)
        if data is None:
            (git.root / name).unlink(missing_ok=True)
        else:
            write_bytes(git.root / name, data)
    try:
        with open_repo(git.root) as repo:
            done = repo.checkout(force=True)
    except (DvcException, OSError, JpuError) as error:
        raise StorageError(
            f"the champion was moved, and DVC could not put its artifacts in place: {' '.join(str(error).split())}",
            where=str(git.root),
            mend="Mend that, then the same command again completes it.",
        ) from error
    signs = {"added": "", "modified": "", "deleted": "-"}
    return [f"{sign}{path}" for how, sign in signs.items() for path in done.get(how, [])]
