"""A pipeline that goes on from a champion: the model and buffer that it starts with are data, no longer stages.

New data would otherwise remake the subject and every former round, as all of these depend on it. `champion.dvc` pins
them by their hashes, and says which version and commit they are of, where the record of their making is. DVC's
commands treat it as any other file of theirs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jpu.errors import DataError
from jpu.files import read_text, write_bytes, write_text
from tasks.gitstore import GitStore
from tasks.pinned import START, parts
from tasks.rewriting import with_rounds, without_subject
from tasks.snapshots import LOCK, PARAMS, PIPELINE, Snapshot, snapshot_at
from tasks.versions import Version


def start_from(version: Version, root: Path | str = ".", *, rounds: int = 1) -> list[str]:
    """Rewrite the pipeline of a checkout of a version's commit: new rounds, from that version.

    What was written is the same each time, so one that was cut off is called again. Other settings that were changed
    in params.yaml are kept; artifacts are not touched.

    Args:
        version: Whose commit is checked out.
        root: The checkout.
        rounds: How many new rounds.

    Returns:
        Their numbers.

    Raises:
        DataError: Another commit is checked out, or it holds nothing that a round can start from.
        SettingsError: dvc.yaml or params.yaml are not this repository's.
    """
    git = GitStore(root)
    head = git.commit("HEAD") or ""
    if head != version.lock_commit:
        raise DataError(
            f"stands at commit {head[:12] or 'none'}, not at {version.lock_commit[:12] or 'one'} of {version.name}",
            where=str(git.root),
            mend="Check out the version's commit (tasks/checkout.py). Nothing was written.",
        )
    snapshot = snapshot_at(git, head)
    last = str(snapshot.params.get("last_round", ""))
    made, lock = _made(snapshot)
    wanted = parts(last)
    missing = [path for path in wanted if path not in made]
    if missing:
        raise DataError(
            f"holds no {missing[0]}", where=f"{LOCK} of {version.name}", mend="Choose another version to start from."
        )
    numbers = [str(int(last) + more) for more in range(1, rounds + 1)]
    prevs = dict(zip(numbers, [last, *numbers], strict=False))
    pipeline = without_subject(snapshot.files[PIPELINE].decode())
    params = with_rounds(read_text(git.root / PARAMS), prevs)
    # What is no stage any more would stay in the lock file, since DVC leaves alone what it does not know.
    kept = {name: entry for name, entry in lock["stages"].items() if name in _stages(pipeline)}
    pinned = {
        "desc": "What this pipeline goes on from",
        "meta": {"version": version.name, "commit": version.lock_commit},
        "outs": [made[path] for path in wanted],
    }
    write_text(git.root / START, _dumped(pinned))
    write_text(git.root / PARAMS, params)
    write_bytes(git.root / PIPELINE, pipeline.encode())
    write_text(git.root / LOCK, _dumped({**lock, "stages": kept}))
    return numbers


def _made(snapshot: Snapshot) -> tuple[dict[str, Any], dict[str, Any]]:
    """Path → DVC's entry for what the version made or had itself started from; and the lock file."""
    lock = _loaded(snapshot.files[LOCK])
    entries = list(_loaded(snapshot.files[START])["outs"]) if START in snapshot.files else []
    for stage in lock["stages"].values():
        entries += stage.get("outs") or []
    return {str(entry["path"]): entry for entry in entries}, lock


def _stages(pipeline: str) -> set[str]:
    """Names of the stages that are no rounds; a former round's entry does not belong to a new one."""
    return {name for name, stage in _loaded(pipeline.encode())["stages"].items() if "foreach" not in stage}


def _loaded(data: bytes) -> dict[str, Any]:
    from dvc.utils.serialize import parse_yaml

    return dict(parse_yaml(data.decode(), ""))


def _dumped(document: dict[str, Any]) -> str:
    """As DVC writes its own files."""
    from dvc.utils.serialize import dumps_yaml

    return str(dumps_yaml(document))
