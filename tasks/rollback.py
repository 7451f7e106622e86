"""Back to an earlier version: alias and branch, and then the working tree's pipeline, lock file, settings, artifacts.

Everything that the version needs is fetched before anything is moved. Work that no commit holds is not overwritten
unless asked to, and then kept in a folder of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jpu.errors import DataError, InfrastructureError, SettingsError
from tasks.champion import record
from tasks.gitstore import GitStore
from tasks.locks import clear_stale_locks
from tasks.objects import local_objects
from tasks.promotion import Change, Promotion
from tasks.repository import open_repo
from tasks.snapshots import KEPT, snapshot_at, snapshot_here
from tasks.versions import Version, find_version, versions
from tasks.working_tree import held, keep, put_in_place, unsaved

if TYPE_CHECKING:
    from dvc.repo import Repo
    from mlflow.tracking import MlflowClient


@dataclass(frozen=True)
class RolledBack:
    """What a rollback did.

    Attributes:
        change: The move of the champion.
        written: Files of the working tree that were replaced.
        changed: Outputs of stages, and data, that were put in place; "-" stands before what was removed.
        kept: The folder that holds what was there and in no commit, None where there was nothing of the kind.
    """

    change: Change
    written: tuple[str, ...]
    changed: tuple[str, ...]
    kept: Path | None


def rollback(
    client: MlflowClient,
    text: str,
    root: Path | str = ".",
    *,
    force: bool = False,
    say: Callable[[str], object] = lambda words: None,
) -> RolledBack:
    """Make an earlier version the champion again, and the working tree its own.

    Args:
        client: MLflow's client.
        text: The version (tasks/versions.py).
        root: The repository's folder.
        force: Replace files that no commit holds, after keeping them under .jpu/replaced/.
        say: Told of what had to be done first: a move that was cut off, a version that had no commit yet.

    Raises:
        DataError: The version is not recorded, an object of it is nowhere, or the working tree holds work that no
            commit has. Nothing was moved.
        InfrastructureError: MLflow, git or the DVC remote failed. Nothing was moved, unless the message says so.
    """
    git = GitStore(root)
    version = find_version(client, text)
    promotion = Promotion(client, git, version.model, version.profile)
    with promotion.alone():
        say(promotion.recover())
        files = _files(git, version)
        say(_record_this(client, version.model, git))
        clear_stale_locks(git.root)
        _fetch(git, version)
        work = unsaved(git, versions(client, version.model))
        if work and not force:
            raise DataError(
                "holds work that is in no commit and in no version",
                where=", ".join(work),
                mend="Commit it, or `jpu rollback --force`, which keeps a copy. Nothing was moved.",
            )
        kept = keep(git.root, work) if work else None
        written = tuple(name for name, data in files.items() if held(git.root / name) != data)
        changed: list[str] = []
        change = promotion.move(
            version,
            kind="rollback",
            tree=str(git.root),
            then=lambda: changed.extend(put_in_place(git.root, version.lock_commit)),
        )
    return RolledBack(change, written, tuple(changed), kept)


def _files(git: GitStore, version: Version) -> dict[str, bytes | None]:
    if not version.lock_commit or not git.commit(version.lock_commit):
        raise DataError(
            "no commit holds its dvc.lock, so there is nothing to go back to",
            where=version.name,
            mend="`git fetch --tags` where it was recorded in another clone. Nothing was moved.",
        )
    return {name: git.read(version.lock_commit, name) for name in KEPT}


def _record_this(client: MlflowClient, model: str, git: GitStore) -> str:
    """Record the version that the working tree holds, if it is one and has no commit: its lock file is only here."""
    try:
        here = snapshot_here(git.root)
    except SettingsError:
        # A file that is broken: what `rollback --force` is to replace.
        return ""
    for version in versions(client, model):
        same = all(version.tags.get(key) == value for key, value in here.identity.items())
        if same and not version.lock_commit:
            try:
                record(client, version, git.root)
            except (DataError, SettingsError):
                return ""
            return f"recorded: {version.name}, which the working tree held and no commit"
    return ""


def _fetch(git: GitStore, version: Version) -> None:
    """Bring every object of the version into DVC's cache, from the remote where one is configured."""
    snapshot = snapshot_at(git, version.lock_commit)
    outs = [md5 for stage in snapshot.chain for md5 in snapshot.lock[stage].outs.values()]
    outs += snapshot.start.outs.values() if snapshot.start else ()
    wanted = [oid for oid in (*outs, snapshot.data) if oid]
    with open_repo(git.root) as repo:
        missing = _missing(repo, wanted)
        if missing and repo.config["core"].get("remote"):
            # Twice: the listings of folders first, then what they list.
            _pull(repo, missing, version)
            _pull(repo, _missing(repo, wanted), version)
            missing = _missing(repo, wanted)
    if missing:
        raise DataError(
            f"{len(missing)} of its objects are neither in DVC's cache nor in a remote, {missing[0]} among them",
            where=version.name,
            mend="`dvc push --all-tags` from the clone that made it. Nothing was moved.",
        )


def _missing(repo: Repo, wanted: Iterable[str]) -> list[str]:
    cache = local_objects(repo)
    return [md5 for oid in wanted for md5 in cache.missing(oid)]


def _pull(repo: Repo, wanted: Iterable[str], version: Version) -> None:
    from dvc.exceptions import DvcException
    from dvc_data.hashfile.hash_info import HashInfo

    try:
        with _silent("dvc", "dvc_data", "dvc_objects"):
            repo.cloud.pull([HashInfo("md5", oid) for oid in wanted])
    except FileNotFoundError:
        # Told by the caller, who looks at what is there.
        return
    except (DvcException, OSError) as error:
        raise InfrastructureError(
            f"DVC cannot fetch it: {' '.join(str(error).split())[:300]}",
            where=version.name,
            mend="Check the remote (`jpu doctor`). Nothing was moved.",
        ) from error


@contextmanager
def _silent(*names: str) -> Iterator[None]:
    """What DVC lists as missing, line by line, the caller says in one."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
