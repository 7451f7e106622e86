"""What a chain is checked against, and how a broken link says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from tasks.code_hashes import CodeHashes
from tasks.gitstore import GitStore
from tasks.objects import Objects
from tasks.repository import Locked
from tasks.versions import Snapshot, Version, earlier

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

    def as_dict(self) -> dict[str, str]:
        """As plain values."""
        return {name: getattr(self, name) for name in ("link", "expected", "found", "where", "meaning")}


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

    @cached_property
    def before(self) -> tuple[tuple[Version, Snapshot], ...]:
        """Earlier versions with their snapshots, the newest first."""
        return tuple(earlier(self.git, list(self.versions), self.version))

    def stages(self) -> Iterator[tuple[str, Locked]]:
        """The stages of the chain with their entries in the lock file, in order."""
        for stage in self.snapshot.chain:
            yield stage, self.snapshot.lock[stage]

    def frozen(self, stage: str) -> Iterator[tuple[Version, Snapshot]]:
        """Earlier versions whose lock file has the very same entry of a stage: it was not run again since."""
        return ((v, s) for v, s in self.before if s.lock.get(stage) == self.snapshot.lock[stage])

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
