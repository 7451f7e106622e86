"""Stage → code and settings: what the lock file says that ran is what the commit holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tasks.code_hashes import CodeHashes
from tasks.repository import Locked
from tasks.verify.chain import BrokenLinkError, Chain, Passed
from tasks.verify.graph import in_words
from tasks.versions import PIPELINE, Snapshot
from tasks.witness import Difference, code_difference, code_paths, params_difference

Differ = Callable[[Snapshot, CodeHashes, Locked], Difference | None]


def check_code(chain: Chain) -> Iterator[Passed]:
    """Files and folders of code that the stages read, hashed again out of git."""
    made = chain.snapshot.makers
    paths = {path for _, entry in chain.stages() for path in code_paths(entry, made)}
    kept = _settle(
        chain,
        "code",
        lambda snapshot, code, entry: code_difference(entry, code, made),
        "the version was made by other code than its commit holds",
    )
    yield Passed("code", f"hashes of {len(paths)} files and folders are those of the commit's tree{kept}")


def check_params(chain: Chain) -> Iterator[Passed]:
    """Parameters in the lock file, held against the commit's params.yaml."""
    count = sum(len(entry.params) for _, entry in chain.stages())
    kept = _settle(
        chain,
        "params",
        lambda snapshot, code, entry: params_difference(entry, snapshot.params),
        "the version was made with other settings than its commit holds",
    )
    yield Passed("params", f"{count} sections in dvc.lock are those of params.yaml{kept}")


def check_pipeline(chain: Chain) -> Iterator[Passed]:
    """Commands, inputs and outputs of each stage, as dvc.yaml and params.yaml of the commit define them."""
    defined = _defined(chain)
    for stage, entry in chain.stages():
        found = defined.get(stage)
        sides = {
            "command": (entry.cmd, found.cmd if found else "no such stage"),
            "inputs": _sides(entry.deps, (d for d in found.deps if not hasattr(d, "params")) if found else ()),
            "outputs": _sides(entry.outs, found.outs if found else ()),
        }
        for what, (locked, asked) in sides.items():
            if locked != asked:
                raise BrokenLinkError(
                    f"{what} of {stage}",
                    expected=asked,
                    found=locked,
                    where=f"dvc.lock against {PIPELINE} of the commit",
                    meaning="the lock file is not one that this pipeline writes",
                )
    yield Passed("pipeline", f"commands, inputs and outputs of {len(chain.snapshot.chain)} stages are as in {PIPELINE}")


def _defined(chain: Chain) -> dict[str, Any]:
    """DVC's stages by name, read at the commit."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(chain.git.root), rev=chain.snapshot.commit) as repo:
            return {stage.name: stage for stage in repo.index.stages if hasattr(stage, "name")}
    except DvcException as error:
        raise BrokenLinkError(
            "pipeline",
            expected=f"a {PIPELINE} that DVC understands",
            found=" ".join(str(error).split())[:200],
            where=f"commit {chain.snapshot.commit[:12]}",
            meaning="the commit's own stages cannot be told",
        ) from error


def _settle(chain: Chain, link: str, differ: Differ, meaning: str) -> str:
    """Find a commit that agrees for each stage: its own, or, where it was not run since, an earlier version's."""
    kept: dict[str, int] = {}
    for stage, entry in chain.stages():
        found = differ(chain.snapshot, chain.code, entry)
        if found is None:
            continue
        for version, snapshot in chain.frozen(stage):
            if differ(snapshot, CodeHashes(chain.git, snapshot.commit), entry) is None:
                kept[stage] = version.number
                break
        else:
            raise BrokenLinkError(
                f"{link} of {stage}: {found.what}",
                expected=f"{found.ran} (dvc.lock)",
                found=found.held,
                where=f"commit {chain.snapshot.commit[:12]}",
                meaning=meaning,
            )
    return in_words(kept)


def _sides(locked: Mapping[str, str], defined: Any) -> tuple[str, str]:
    """Both as words, reduced to what only one of them has."""
    ours, theirs = set(locked), {str(one) for one in defined}
    return ", ".join(sorted(ours - theirs)) or "no other", ", ".join(sorted(theirs - ours)) or "no other"
