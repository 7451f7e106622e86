"""What a chain is checked against, and how a broken link says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from jpu.errors import DataError, SettingsError
from tasks.code_hashes import CodeHashes
from tasks.gitstore import GitStore
from tasks.objects import Objects
from tasks.repository import Locked
from tasks.snapshots import KEPT, LOCK, Snapshot, snapshot_at
from tasks.versions import LOCK_COMMIT, Version

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient


@dataclass(frozen=True)
class Passed:
    """A link that holds: its name, and what was computed again."""

    link: str
    recomputed: str


class BrokenLinkError(Exception):
    """A link that does not hold.

    Args:
        link: Which.
        expected: What the one end says.
        found: What the other end says.
        where: The other end.
        meaning: What that means for the version.
    """

    def __init__(self, link: str, *, expected: str, found: str, where: str, meaning: str) -> None:
        super().__init__(f"{link}: expected {expected}, found {found} in {where}: {meaning}")
        self.link, self.expected, self.found, self.where, self.meaning = link, expected, found, where, meaning

    def of(self, version: str) -> BrokenLinkError:
        """The same, said of an earlier version."""
        parts = self.as_dict()
        return BrokenLinkError(f"{version}: {parts.pop('link')}", **parts)

    def as_dict(self) -> dict[str, str]:
        """As plain values."""
        return {name: getattr(self, name) for name in ("link", "expected", "found", "where", "meaning")}


def read_snapshot(git: GitStore, version: Version) -> Snapshot:
    """What the version's commit holds. Raises BrokenLinkError where there is no such commit or no lock in it."""
    commit = version.lock_commit
    meaning = "without its dvc.lock nothing of the version can be derived again"
    if not commit or git.commit(commit) != commit:
        raise BrokenLinkError(
            "git commit",
            expected=f"commit {commit}" if commit else "a commit",
            found="no such commit" if commit else "none",
            where="git" if commit else f"tag {LOCK_COMMIT} of {version.name}",
            meaning=meaning if commit else f"it was never recorded: `jpu promote` does; {meaning}",
        )
    try:
        return snapshot_at(git, commit)
    except (DataError, SettingsError) as error:
        raise BrokenLinkError(
            next((name for name in KEPT if name in error.where), LOCK),
            expected="a file that can be read",
            found=error.what,
            where=f"commit {commit[:12]}",
            meaning=meaning,
        ) from error


@dataclass(frozen=True)
class Chain:
    """A version, its snapshot, and the stores that hold its parts.

    Attributes:
        version: The version.
        snapshot: What its commit holds.
        client: MLflow's client.
        git: The repository.
        objects: Where the objects are read: the remote where one is configured, else the cache.
        cache: The cache, when the remote is read and the cache is to be read as well.
        versions: Every version of the model.
    """

    version: Version
    snapshot: Snapshot
    client: MlflowClient
    git: GitStore
    objects: Objects
    cache: Objects | None
    versions: tuple[Version, ...]

    @cached_property
    def code(self) -> CodeHashes:
        """Hashes of the code in the version's commit."""
        return CodeHashes(self.git, self.snapshot.commit)

    def stages(self) -> Iterator[tuple[str, Locked]]:
        """The stages of the chain with their entries in the lock file, in order."""
        for stage in self.snapshot.chain:
            yield stage, self.snapshot.lock[stage]

    def of(self, version: Version) -> Chain:
        """The same for another version. Raises BrokenLinkError as `read_snapshot` does."""
        return replace(self, version=version, snapshot=read_snapshot(self.git, version))

    def ancestor(self) -> Version | None:
        """The version that this one goes on from; None where there is none, or none of that name before this one."""
        start = self.snapshot.start
        older = (v for v in self.versions if v.number < self.version.number)
        return next((v for v in older if start and v.name == start.version), None)

    def run(self, stage: str) -> Run:
        """The run that made a stage's outputs.

        Raises:
            BrokenLinkError: The version names none, or it is deleted.
        """
        from mlflow.exceptions import MlflowException

        from tasks.store import tracking_errors

        link, meaning = f"run of {stage}", "nobody can say how these outputs came about"
        run_id = self.version.maker(stage)
        if not run_id:
            raise BrokenLinkError(
                link, expected="a run's id", found="none", where=f"tags of {self.version.name}", meaning=meaning
            )
        with tracking_errors():
            try:
                run = self.client.get_run(run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                raise BrokenLinkError(
                    link, expected=f"run {run_id}", found="no such run", where="MLflow", meaning=meaning
                ) from None
        if run.info.lifecycle_stage != "active":
            raise BrokenLinkError(
                link, expected=f"run {run_id}", found="a deleted run", where="MLflow", meaning=f"{meaning} for long"
            )
        return run


Check = Callable[[Chain], Iterator[Passed]]
