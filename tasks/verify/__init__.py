"""`jpu verify`: the chain behind a registered version, derived again and hashed again, link by link.

Each file here checks one group of links; `CHECKS` is their order. What it can tell: whether MLflow, git and the DVC
remote (the cache, where no remote is configured) still agree about one version, and which link is the first that does
not. What it cannot: whether someone who may write to all three has replaced a whole chain by another; sign the git
tags, or keep their hashes elsewhere, for that. It loads no model and runs no code of the version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.gitstore import GitStore
from tasks.objects import open_objects
from tasks.verify.adapter import check_adapter_artifact
from tasks.verify.chain import BrokenLinkError, Chain, Check, Passed, read_snapshot
from tasks.verify.code import check_code, check_params, check_pipeline
from tasks.verify.commit import check_commit, check_identity
from tasks.verify.contents import check_contents, check_every_content
from tasks.verify.figures import check_figures
from tasks.verify.graph import check_data, check_graph
from tasks.verify.runs import check_runs
from tasks.verify.start import check_start
from tasks.verify.validation import check_validation
from tasks.versions import Version, find_version, versions

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

CHECKS: tuple[Check, ...] = (
    check_commit,
    check_start,
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
    """What was found about a version: the links that hold, in order, and the first that does not.

    The links of an earlier version stand after `from version N`; a broken one of it has its name in front.
    """

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
    """Derive the chain of a version again, and those of the versions that it goes on from.

    Args:
        client: MLflow's client.
        text: The version (tasks/versions.py).
        root: The repository's folder.
        deep: Read every output of every stage, and the cache as well as the remote.
        say: Called with each link that holds, as soon as it is known.

    Raises:
        DataError: There is no such version.
        InfrastructureError: MLflow, git or the remote cannot be reached: nothing is said about the version.
    """
    git = GitStore(root)
    passed: list[Passed] = []
    first = find_version(client, text)
    version: Version | None = first
    try:
        with open_objects(git.root) as (cache, remote):
            places = (remote or cache, cache if remote else None)
            known = tuple(versions(client, first.model))
            while version:
                chain = Chain(version, read_snapshot(git, version), client, git, *places, known)
                for one in _links(chain, deep):
                    passed.append(one)
                    say(one)
                version = chain.ancestor()
    except BrokenLinkError as broken:
        named = broken if version in (first, None) else broken.of(version.name)
        return Verdict(first.name, tuple(passed), named)
    return Verdict(first.name, tuple(passed), None)


def _links(chain: Chain, deep: bool) -> Iterator[Passed]:
    for check in (*CHECKS, *((check_every_content,) if deep else ())):
        yield from check(chain)
    if older := chain.ancestor():
        yield Passed(f"from version {older.number}", f"{older.name}, whose chain follows")
