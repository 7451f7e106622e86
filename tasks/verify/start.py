"""Version → version: what the pipeline goes on from is what the version that champion.dvc names has made."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.pinned import START, parts
from tasks.verify.chain import BrokenLinkError, Chain, Passed
from tasks.versions import LOCK_COMMIT

_MEANING = "the version does not go on from the one that it names"


def check_start(chain: Chain) -> Iterator[Passed]:
    """The version that is named, its commit, and the hashes of what was taken over. Nothing where none is named."""
    start = chain.snapshot.start
    if start is None:
        return
    where = f"{START} at commit {chain.snapshot.commit[:12]}"
    older = chain.ancestor()
    if older is None:
        raise BrokenLinkError(
            START,
            expected=f"a version of {chain.version.model} before {chain.version.number}",
            found=start.version,
            where=where,
            meaning=_MEANING,
        )
    if start.commit != older.lock_commit:
        raise BrokenLinkError(
            START,
            expected=f"commit {older.lock_commit or 'none'} ({LOCK_COMMIT} of {older.name})",
            found=start.commit,
            where=where,
            meaning=_MEANING,
        )
    try:
        before = chain.of(older).snapshot
    except BrokenLinkError as broken:
        raise broken.of(older.name) from None
    made = {path: before.out(path) or "nothing" for path in parts(str(before.params.get("last_round")))}
    for path in dict.fromkeys([*made, *start.outs]):
        if made.get(path) != start.outs.get(path):
            raise BrokenLinkError(
                START,
                expected=f"{path} {made.get(path, 'not pinned')} (dvc.lock of {older.name})",
                found=start.outs.get(path, "not pinned"),
                where=where,
                meaning=_MEANING,
            )
    yield Passed(START, f"{', '.join(made)} are those of {older.name}, commit {start.commit[:12]}")
