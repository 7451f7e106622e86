"""Stage → code and settings: what the lock file says that ran is what the commit holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tasks.snapshots import PIPELINE
from tasks.verify.chain import BrokenLinkError, Chain, Passed
from tasks.witness import Difference, code_difference, code_paths, params_difference


def check_code(chain: Chain) -> Iterator[Passed]:
    """Files and folders of code that the stages read, hashed again out of git."""
    made = chain.snapshot.outs
    paths = {path for _, entry in chain.stages() for path in code_paths(entry, made)}
    for stage, entry in chain.stages():
        _hold(chain, f"code of {stage}", code_difference(entry, chain.code, made), "by other code")
    yield Passed("code", f"hashes of {len(paths)} files and folders are those of the commit's tree")


def check_params(chain: Chain) -> Iterator[Passed]:
    """Parameters in the lock file, held against the commit's params.yaml."""
    count = sum(len(entry.params) for _, entry in chain.stages())
    for stage, entry in chain.stages():
        _hold(chain, f"params of {stage}", params_difference(entry, chain.snapshot.params), "with other settings")
    yield Passed("params", f"{count} sections in dvc.lock are those of params.yaml")


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


def _hold(chain: Chain, link: str, found: Difference | None, how: str) -> None:
    if found:
        raise BrokenLinkError(
            f"{link}: {found.what}",
            expected=f"{found.ran} (dvc.lock)",
            found=found.held,
            where=f"commit {chain.snapshot.commit[:12]}",
            meaning=f"the version was made {how} than its commit holds",
        )


def _sides(locked: Mapping[str, str], defined: Any) -> tuple[str, str]:
    """Both as words, reduced to what only one of them has."""
    ours, theirs = set(locked), {str(one) for one in defined}
    return ", ".join(sorted(ours - theirs)) or "no other", ", ".join(sorted(theirs - ours)) or "no other"
