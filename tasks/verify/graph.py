"""Stage → stage: each stage read what the one before it wrote, by the hashes in the lock file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tasks.lineage import METRICS
from tasks.verify.chain import BrokenLinkError, Chain, Passed
from tasks.versions import kept_from
from tasks.witness import DATA_FOLDER


def check_graph(chain: Chain) -> Iterator[Passed]:
    """Every input that a stage makes has the hash that the stage gave it, or, for a frozen stage, once gave it."""
    snapshot = chain.snapshot
    if not snapshot.chain:
        raise BrokenLinkError(
            "stages",
            expected=f"a stage that makes {METRICS}",
            found="none",
            where="dvc.lock",
            meaning="the version was never evaluated, or dvc.lock was cut",
        )
    kept = kept_from(snapshot, chain.before)
    for stage, number in kept.items():
        if not number:
            raise _unknown_input(chain, stage)
    links = sum(path in snapshot.makers for _, entry in chain.stages() for path in entry.deps)
    yield Passed(
        "stages",
        f"{links} inputs of {len(snapshot.chain)} stages are what their makers wrote" + in_words(kept),
    )


def in_words(kept: Mapping[str, int]) -> str:
    """Which stages were kept from which version: `; kept from version 1: subject, mine@1`."""
    stages: dict[int, list[str]] = {}
    for stage, number in kept.items():
        stages.setdefault(number, []).append(stage)
    return "".join(f"; kept from version {number}: {', '.join(names)}" for number, names in stages.items())


def check_data(chain: Chain) -> Iterator[Passed]:
    """data.dvc pins what the stages that read the data have read."""
    pinned = chain.snapshot.data
    for stage, entry in chain.stages():
        read = entry.deps.get(DATA_FOLDER)
        if read is None or read == pinned or any(s.data == read for _, s in chain.frozen(stage)):
            continue
        raise BrokenLinkError(
            "data",
            expected=f"{pinned or 'nothing'} (data.dvc)",
            found=read,
            where=f"dvc.lock, input of {stage}",
            meaning="the version was made of other data than its commit pins",
        )
    yield Passed("data", f"data.dvc and what the stages read: {pinned[:12]}")


def _unknown_input(chain: Chain, stage: str) -> BrokenLinkError:
    """The first input of a stage that is not what the stage before wrote."""
    snapshot = chain.snapshot
    path, md5 = next(
        (path, md5)
        for path, md5 in snapshot.lock[stage].deps.items()
        if path in snapshot.makers and md5 != snapshot.out(path)
    )
    maker = snapshot.makers[path]
    return BrokenLinkError(
        f"{maker} → {stage}",
        expected=f"{snapshot.out(path)} ({path} as {maker} wrote it)",
        found=md5,
        where=f"dvc.lock, input of {stage}",
        meaning="the stage read what no stage of this version wrote, nor of an earlier one that it was kept from",
    )
