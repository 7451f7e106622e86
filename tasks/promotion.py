"""One move of the champion: the alias in MLflow and the branch in git, together or not at all.

MLflow and git have no transaction in common. So the move is written down first (a journal beside git's own files, seen
by every working tree of the repository), the branch moves by compare-and-swap, the alias is read again and moves last.
A failure takes the branch back; what a kill leaves is completed by the next command, since all checks came before.

MLflow cannot compare and swap: two machines that promote within the same few milliseconds are told apart by the branch
only where they share the git repository. On one machine a lock keeps moves apart.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jpu.errors import DataError, InfrastructureError, JpuError
from jpu.files import read_json, write_json
from tasks.alias import Alias
from tasks.gitstore import GitStore
from tasks.versions import CHAMPION, Version, versions
from tasks.working_tree import keep, put_in_place, unsaved

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

Kind = Literal["promotion", "rollback"]


@dataclass(frozen=True)
class Change:
    """A move of the champion, as it is written down before it is made.

    Attributes:
        kind: What moves it.
        old: Number of the version that was the champion, 0 for none.
        new: Number of the one that becomes it.
        old_commit: What the branch was at, "" for nothing.
        new_commit: The new version's commit.
        at: When, in UTC.
        tree: The working tree that is put in order after the move ("" for none).
    """

    kind: Kind
    old: int
    new: int
    old_commit: str
    new_commit: str
    at: str
    tree: str = ""


class Promotion:
    """The champion of one profile, in one MLflow store and one git repository.

    Args:
        client: MLflow's client.
        git: The repository.
        model: The registered model.
        profile: The profile, part of the branch's name.
    """

    def __init__(self, client: MlflowClient, git: GitStore, model: str, profile: str) -> None:
        self.ref = f"refs/heads/jpu/{profile}/{CHAMPION}"
        self.journal = git.common / "jpu" / f"champion-{profile}.json"
        self._client, self._git, self._model = client, git, model
        self._alias = Alias(client, model)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One move at a time on this machine; the kernel frees the lock with the process."""
        self.journal.parent.mkdir(exist_ok=True)
        with self.journal.with_suffix(".lock").open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InfrastructureError(
                    "another command moves the champion", where=handle.name, mend="Wait for it to end."
                ) from None
            yield

    def champion(self) -> int:
        """Number of the version with the alias, 0 where no version has it."""
        return self._alias.number()

    def branch(self) -> str:
        """The commit that the branch is at, "" where it is not there."""
        return self._git.commit(self.ref) or ""

    def move(
        self,
        to: Version,
        *,
        expected: str = "",
        kind: Kind = "promotion",
        tree: str = "",
        then: Callable[[], object] = lambda: None,
    ) -> Change:
        """Move alias and branch to a recorded version.

        Args:
            to: The version.
            expected: Number of the version that has to be the champion until now; "" for any.
            kind: A rollback also takes a branch that disagrees with the alias.
            tree: A working tree that is put in order after the move, for `recover` to know.
            then: Puts it in order. When this fails, the champion has moved, and the journal stays.

        Raises:
            DataError: Alias and branch disagree, or the champion is not the expected one; nothing was moved.
            InfrastructureError: MLflow or git failed; nothing was moved, or the journal stays for `recover`.
        """
        old, branch = self.champion(), self.branch()
        change = Change(kind, old, to.number, branch, to.lock_commit, _now(), tree)
        if (old, branch) == (to.number, to.lock_commit) and not tree:
            # Also where an earlier try of the same move was cut off, and has just been completed.
            return change
        if expected and expected.rpartition("/")[2] != str(old):
            raise DataError(
                f"the champion is version {old or 'none'} by now, not {expected}",
                where=self._model,
                mend="Compare with that one. Nothing was moved.",
            )
        if kind == "promotion":
            self._agree(old, branch)
        write_json(self.journal, asdict(change))
        try:
            if branch != to.lock_commit:
                self._git.move(self.ref, to.lock_commit, branch or None, f"jpu {kind} of {to.name}")
            self._move_alias(change)
        except BaseException:
            self._take_back(change)
            raise
        self._alias.note(change.new, change.old, how=change.kind, at=change.at)
        then()
        self.journal.unlink()
        return change

    def recover(self) -> str:
        """Complete or undo the move that the journal tells of; in words, "" where there is none.

        Raises:
            DataError: Somebody else has moved alias or branch in between.
            InfrastructureError: MLflow or git failed; the journal stays.
            StorageError: The working tree of a rollback cannot be put in order; the journal stays.
        """
        if not self.journal.exists():
            return ""
        change = Change(**read_json(self.journal))
        alias, branch = self.champion(), self.branch()
        if alias not in (change.old, change.new) or branch not in (change.old_commit, change.new_commit):
            raise DataError(
                f"a {change.kind} from version {change.old or 'none'} to {change.new} was cut off, and since then the "
                f"alias was moved to {alias or 'none'} and the branch to {branch[:12] or 'nothing'}",
                where=str(self.journal),
                mend="Remove that file, then `jpu rollback VERSION` to the version that is to be served.",
            )
        if (alias, branch) == (change.old, change.old_commit) != (change.new, change.new_commit):
            self.journal.unlink()
            return f"undone: a {change.kind} to version {change.new} that had moved nothing yet"
        if branch != change.new_commit:
            self._git.move(self.ref, change.new_commit, branch or None, f"jpu {change.kind}, completed")
        if alias != change.new:
            self._alias.set(change.new)
        self._alias.note(change.new, change.old, how=change.kind, at=change.at)
        kept = self._put_in_place(change) if change.tree and Path(change.tree).exists() else ""
        self.journal.unlink()
        return f"completed: the {change.kind} from version {change.old or 'none'} to {change.new}{kept}"

    def _put_in_place(self, change: Change) -> str:
        """The working tree of a rollback; what was worked on there since the kill is kept."""
        git = GitStore(change.tree)
        work = unsaved(git, versions(self._client, self._model))
        kept = f" (what was there is in {keep(git.root, work)})" if work else ""
        put_in_place(git.root, change.new_commit)
        return kept

    def _agree(self, old: int, branch: str) -> None:
        commit = next((v.lock_commit for v in versions(self._client, self._model) if v.number == old), "")
        if commit != branch:
            raise DataError(
                f"the alias says version {old or 'none'} (commit {commit[:12] or 'none'}), the branch is at "
                f"{branch[:12] or 'nothing'}",
                where=self.ref,
                mend="`jpu rollback VERSION` sets both to the version that is to be served. Nothing was moved.",
            )

    def _move_alias(self, change: Change) -> None:
        now = self.champion()
        if now != change.old:
            raise InfrastructureError(
                f"version {now} became the champion at the same time",
                where=self._model,
                mend="Look at it, then try again. Nothing was moved.",
            )
        self._alias.set(change.new)

    def _take_back(self, change: Change) -> None:
        """After a failure: both as they were. Where that fails too, the journal stays for `recover`."""
        try:
            if self.champion() == change.new != change.old:
                self._alias.set(change.old)
            if self.branch() == change.new_commit != change.old_commit:
                self._git.move(self.ref, change.old_commit or None, change.new_commit, f"jpu {change.kind}, undone")
        except JpuError:
            return
        self.journal.unlink(missing_ok=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
