"""Hash → content: the objects that the hashes name, read again and hashed again."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from jpu.errors import DataError
from tasks.directories import SUFFIX
from tasks.lineage import METRICS
from tasks.objects import Objects
from tasks.verify.chain import BrokenLinkError, Chain, Passed

_AT_ONCE = 8
_NAMES = {
    "artifacts/subject": "subject (base model)",
    "artifacts/prepared": "prepared data",
    METRICS: "figures",
}


def check_contents(chain: Chain) -> Iterator[Passed]:
    """What the chain's stages hand on to each other, the figures and the data."""
    read = {path for _, entry in chain.stages() for path in entry.deps}
    yield from _check(chain, chain.objects, {path for path in read | {METRICS} if path in chain.snapshot.makers})


def check_every_content(chain: Chain) -> Iterator[Passed]:
    """Every output of the chain's stages, and, where the remote was read, the same in DVC's cache."""
    outs = {path for _, entry in chain.stages() for path in entry.outs}
    read = {path for _, entry in chain.stages() for path in entry.deps} | {METRICS}
    yield from _check(chain, chain.objects, outs - read, data=False)
    if chain.cache:
        yield from _check(chain, chain.cache, outs)


def name_of(path: str) -> str:
    """What an output is called: `adapter of round 2`."""
    parts = path.split("/")
    if len(parts) > 3 and parts[1] == "rounds":
        return f"{parts[3].partition('.')[0]} of round {parts[2]}"
    return _NAMES.get(path, path)


def _check(chain: Chain, place: Objects, paths: set[str], *, data: bool = True) -> Iterator[Passed]:
    """One link for each output, from the last stage back, then the data."""
    wanted = [
        (name_of(path), path, md5)
        for _, entry in reversed(list(chain.stages()))
        for path, md5 in entry.outs.items()
        if path in paths
    ]
    if data and chain.snapshot.data:
        wanted.append(("data", "data", chain.snapshot.data))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for name, path, oid in wanted:
            yield Passed(f"contents of {name}", _hash(pool, place, name, path, oid))


def _hash(pool: ThreadPoolExecutor, place: Objects, name: str, path: str, oid: str) -> str:
    _compare(place, name, path, oid, place.md5(oid))
    if not oid.endswith(SUFFIX):
        return f"MD5 {oid[:12]}, read from {place.name}"
    try:
        files = place.listing(oid) or {}
    except DataError as error:
        raise _broken(place, name, path, oid, error.what) from error
    for (inside, md5), found in zip(files.items(), pool.map(place.md5, files.values()), strict=True):
        _compare(place, name, f"{path}/{inside}", md5, found)
    return f"MD5 {oid[:12]} from {len(files)} files, read from {place.name}"


def _compare(place: Objects, name: str, path: str, oid: str, found: str | None) -> None:
    if found != oid:
        raise _broken(place, name, path, oid, found or "no such object")


def _broken(place: Objects, name: str, path: str, oid: str, found: str) -> BrokenLinkError:
    return BrokenLinkError(
        f"contents of {name}",
        expected=f"MD5 {oid}",
        found=found,
        where=f"{place.name}, {path} ({place.path(oid)})",
        meaning="what is stored under that hash was lost, changed or swapped",
    )
