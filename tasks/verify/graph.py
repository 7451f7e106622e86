"""Stage → stage: each stage read what the one before it wrote, by the hashes in the lock file."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.lineage import METRICS
from tasks.pinned import START
from tasks.verify.chain import BrokenLinkError, Chain, Passed
from tasks.witness import DATA_FOLDER


def check_graph(chain: Chain) -> Iterator[Passed]:
    """Every input has the hash that the stage which makes it gave it, or the pipeline's start."""
    snapshot = chain.snapshot
    if not snapshot.chain:
        raise BrokenLinkError(
            "stages",
            expected=f"a stage that makes {METRICS}",
            found="none",
            where="dvc.lock",
            meaning="the version was never evaluated, or dvc.lock was cut",
        )
    links = 0
    for stage, entry in chain.stages():
        for path, md5 in entry.deps.items():
            if path not in snapshot.outs:
                continue
            links += 1
            if md5 != snapshot.out(path):
                maker = snapshot.makers.get(path, START)
                raise BrokenLinkError(
                    f"{maker} → {stage}",
                    expected=f"{snapshot.out(path)} ({path} of {maker})",
                    found=md5,
                    where=f"dvc.lock, input of {stage}",
                    meaning="the stage read something else than this version holds",
                )
    yield Passed("stages", f"{links} inputs of {len(snapshot.chain)} stages are what their makers wrote")


def check_data(chain: Chain) -> Iterator[Passed]:
    """data.dvc pins what the stages that read the data have read."""
    pinned = chain.snapshot.data
    for stage, entry in chain.stages():
        read = entry.deps.get(DATA_FOLDER)
        if read not in (None, pinned):
            raise BrokenLinkError(
                "data",
                expected=f"{pinned or 'nothing'} (data.dvc)",
                found=read,
                where=f"dvc.lock, input of {stage}",
                meaning="the version was made of other data than its commit pins",
            )
    yield Passed("data", f"data.dvc and what the stages read: {pinned[:12]}")
