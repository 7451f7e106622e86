"""`jpu diff`: what changed between two versions in data, settings, code and figures.

Of the data it says which files changed and how many records of which kind there are, never their text. Folders are
read from DVC's cache, or from the remote where the cache has them not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from jpu.errors import DataError
from jpu.evaluation.names import name_of, place
from jpu.parsing import parse_jsonl
from tasks.gitstore import GitStore
from tasks.objects import Objects, open_objects
from tasks.rewriting import without_subject
from tasks.snapshots import KEPT, PIPELINE, Snapshot, snapshot_of
from tasks.versions import Version, find_version

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

T = TypeVar("T")

# Fields that say of which kind a record is, by the first that it has.
_KINDS = ("kind", "role")


def diff(client: MlflowClient, first: str, second: str, root: Path | str = ".") -> dict[str, Any]:
    """What `second` has changed against `first`, as plain values.

    Returns:
        `first`, `second` (names), `goes_on_from` (the versions that they were hardened from, or None), `data` (files by
        how they changed, records by file and kind), `params` (dotted key → [before, after]), `code` (files by how they
        changed, dependencies with another hash by stage), `figures` (name → before, after, better).

    Raises:
        DataError: There is no such version, nothing holds its dvc.lock, or its data are nowhere.
        InfrastructureError: MLflow or the remote cannot be reached.
    """
    git = GitStore(root)
    old, new = find_version(client, first), find_version(client, second)
    before, after = snapshot_of(git, old), snapshot_of(git, new)
    return {
        "first": old.name,
        "second": new.name,
        "goes_on_from": [snapshot.start.version if snapshot.start else None for snapshot in (before, after)],
        "data": _data(before, after, git.root),
        "params": _params(before.params, after.params),
        "code": _code(git, before, after),
        "figures": _figures(old, new),
    }


def _data(before: Snapshot, after: Snapshot, root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"md5": [before.data, after.data], "added": [], "removed": [], "changed": [], "records": {}}
    if before.data == after.data:
        return found
    with open_objects(root) as places:
        old, new = (_listing(places, snapshot.data) for snapshot in (before, after))
        for path in sorted({*old, *new}):
            if old.get(path) == new.get(path):
                continue
            found["added" if path not in old else "removed" if path not in new else "changed"].append(path)
            counts = [_records(places, files.get(path, ""), path) for files in (old, new)]
            kinds = {kind: [count[kind] for count in counts] for kind in sorted({*counts[0], *counts[1]})}
            if kinds:
                found["records"][path] = kinds
    return found


def _listing(places: tuple[Objects, Objects | None], oid: str) -> dict[str, str]:
    return _anywhere(places, oid, lambda objects: objects.listing(oid)) if oid else {}


def _records(places: tuple[Objects, Objects | None], md5: str, path: str) -> Counter[str]:
    """Records of a JSONL file by kind, those of templates by family as well; other files have none."""
    if not md5 or not path.endswith(".jsonl"):
        return Counter()
    data = _anywhere(places, path, lambda objects: objects.read(md5))
    return Counter(_kind(row) for _, row in parse_jsonl(data, where=path))


def _anywhere(places: tuple[Objects, Objects | None], what: str, read: Callable[[Objects], T | None]) -> T:
    """What the first place has, the cache before the remote. Raises DataError where none has it."""
    for objects in places:
        if objects is not None and (found := read(objects)) is not None:
            return found
    raise DataError("neither in DVC's cache nor in a remote", where=what, mend="`dvc push` from its clone.")


def _kind(row: Mapping[str, Any]) -> str:
    kind = next((str(row[key]) for key in _KINDS if row.get(key)), "record")
    return f"{kind} {row['family']}" if row.get("family") else kind


def _params(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Leaves that differ."""
    old, new = _leaves(before), _leaves(after)
    return {key: [old.get(key), new.get(key)] for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found.update(_leaves(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found


def _code(git: GitStore, before: Snapshot, after: Snapshot) -> dict[str, Any]:
    if before.commit and after.commit:
        # Of the kept files only the pipeline is code: what it loses to a champion's start is no change.
        same = {*KEPT} - ({PIPELINE} if _stages(before) != _stages(after) else set())
        files = [(how, path) for how, path in git.changed(before.commit, after.commit) if path not in same]
    else:
        files = []
    stages = {}
    # A stage of a round is held against that of the last round before.
    ran = {_kind_of(stage): before.lock[stage].deps for stage in before.chain}
    for stage in after.chain:
        old = ran.get(_kind_of(stage), {})
        moved = [
            path
            for path, md5 in after.lock[stage].deps.items()
            if path in old and old[path] != md5 and path not in after.outs and path != "data"
        ]
        if moved:
            stages[stage] = moved
    return {"files": files, "dependencies": stages}


def _kind_of(stage: str) -> str:
    return stage.partition("@")[0]


def _stages(snapshot: Snapshot) -> str:
    """The pipeline's text, as it is where it goes on from a champion."""
    return without_subject(snapshot.files[PIPELINE].decode())


def _figures(old: Version, new: Version) -> dict[str, dict[str, Any]]:
    """Figures after hardening that differ, and whether that is better."""
    found = {}
    names = {key for version in (old, new) for key in version.tags if key.startswith("after.")}
    for name in sorted(names, key=lambda key: place(key.removeprefix("after."))):
        sides = [_number(version.tags.get(name)) for version in (old, new)]
        if sides[0] != sides[1] and not name.startswith("after.relearned_"):
            key = name.removeprefix("after.")
            found[key] = {"before": sides[0], "after": sides[1], "change": _change(name_of(key).better, *sides)}
    return found


def _change(better: str, old: float | None, new: float | None) -> str:
    if old is None or new is None or not better:
        return ""
    return "better" if (new < old) == (better == "low") else "worse"


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)
