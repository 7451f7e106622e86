"""`jpu verify`: the chain behind a registered version, derived again and hashed again, link by link.

Each file here checks one group of links; `CHECKS` is their order. What it can tell: whether MLflow, git and the DVC
remote (the cache, where no remote is configured) still agree about one version, and which link is the first that does
not. What it cannot: whether someone who may write to all three has replaced a whole chain by another; sign the git
tags, or keep their hashes elsewhere, for that. It loads no model and runs no code of the version.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jpu.errors import DataError, SettingsError
from tasks.gitstore import GitStore
from tasks.objects import Objects, open_objects
from tasks.verify.adapter import check_adapter_artifact
from tasks.verify.chain import BrokenLinkError, Chain, Check, Passed
from tasks.verify.code import check_code, check_params, check_pipeline
from tasks.verify.commit import check_commit, check_identity
from tasks.verify.contents import check_contents, check_every_content
from tasks.verify.figures import check_figures
from tasks.verify.graph import check_data, check_graph
from tasks.verify.runs import check_runs
from tasks.verify.validation import check_validation
from tasks.versions import LOCK_COMMIT, Version, find_version, kept_from, snapshot_at, versions

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

CHECKS: tuple[Check, ...] = (
    check_commit,
    check_identity,
    check_adapter_artifact,
    check_graph,
    check_runs,
    check_data,
    check_contents,
    check_pipeline,
    check_code,
    check_params,
    check_figures,
    check_validation,
)


@dataclass(frozen=True)
class Verdict:
    """What was found about a version: the links that hold, in order, and the first that does not."""

    version: str
    passed: tuple[Passed, ...]
    broken: BrokenLinkError | None

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "version": self.version,
            "holds": self.broken is None,
            "passed": [asdict(one) for one in self.passed],
            "broken": None if self.broken is None else self.broken.as_dict(),
        }


def verify(
    client: MlflowClient,
    text: str,
    root: Path | str = ".",
    *,
    deep: bool = False,
    say: Callable[[Passed], object] = lambda passed: None,
) -> Verdict:
    """Derive the chain of a version again.

    Args:
        client: MLflow's client.
        text: The version (tasks/versions.py).
        root: The repository's folder.
        deep: Read every output of every stage, the cache as well as the remote, and verify the earlier versions that
            this one goes on from.
        say: Called with each link that holds, as soon as it is known.

    Raises:
        DataError: There is no such version.
        InfrastructureError: MLflow, git or the remote cannot be reached: nothing is said about the version.
    """
    git = GitStore(root)
    passed: list[Passed] = []
    waiting, seen = [find_version(client, text)], set()
    first = waiting[0].name

    def keep(one: Passed) -> None:
        passed.append(one)
        say(one)

    try:
        with open_objects(git.root) as (cache, remote):
            while waiting:
                version = waiting.pop(0)
                seen.add(version.number)
                if version.name != first:
                    keep(Passed("goes on from", f"{version.name}, whose chain follows"))
                chain = _chain(client, git, version, remote or cache, cache if remote else None)
                for check in (*CHECKS, *((check_every_content,) if deep else ())):
                    for one in check(chain):
                        keep(one)
                if deep:
                    older = set(kept_from(chain.snapshot, chain.before).values()) - seen
                    waiting += [v for v in chain.versions if v.number in older]
    except BrokenLinkError as broken:
        return Verdict(version.name, tuple(passed), broken)
    return Verdict(first, tuple(passed), None)


def _chain(client: MlflowClient, git: GitStore, version: Version, objects: Objects, cache: Objects | None) -> Chain:
    """The version with what its commit holds. Raises BrokenLinkError where there is no such commit or no lock in it."""
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
        snapshot = snapshot_at(git, commit)
    except (DataError, SettingsError) as error:
        raise BrokenLinkError(
            "dvc.lock", expected="a lock file", found=error.what, where=f"commit {commit[:12]}", meaning=meaning
        ) from error
    return Chain(version, snapshot, client, git, objects, cache, tuple(versions(client, version.model)))
