"""`jpu lineage`: what a version was made of, from its adapter back to the data, the base model and the code.

Reads tags, the lock file of the version's commit and the runs' states; hashes nothing (tasks/verify does).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.gitstore import GitStore
from tasks.lineage import METRICS, SUBJECT
from tasks.snapshots import PREPARED, Snapshot, snapshot_at, snapshot_of
from tasks.store import tracking_errors
from tasks.verify.validation import parse_results, read_artifact
from tasks.versions import Version, find_version, versions

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_ROUND = {"unlearn": ("adapter", "buffer.jsonl"), "identify": ("path",), "mine": ("batch.jsonl",)}


def lineage(client: MlflowClient, text: str, root: Path | str = ".") -> dict[str, Any]:
    """The tree behind a version, as plain values.

    Returns:
        `version`, `aliases`, `adapter`, `figures`, `rounds` (the last first, with those of the versions that this one
        goes on from: `kept_from`), `data`, `subject`, `git`; each hash is DVC's, each run has its id, its state and
        its page relative to MLflow's.

    Raises:
        DataError: There is no such version, or nothing holds its dvc.lock.
        InfrastructureError: MLflow cannot be reached.
    """
    git = GitStore(root)
    version = find_version(client, text)
    snapshot = snapshot_of(git, version)
    line = [(version, snapshot), *_before(client, git, version, snapshot)]
    # The oldest of the line made the subject.
    made_for, made = line[-1]
    return {
        "version": version.name,
        "aliases": list(version.aliases),
        **{key: version.tags[f"jpu.{key}"] for key in ("promoted_at", "replaces", "replaced_by") if _has(version, key)},
        "adapter": {"path": snapshot.adapter, "md5": snapshot.out(snapshot.adapter)},
        "figures": {"path": METRICS, "md5": snapshot.out(METRICS), "run": _run(client, version, snapshot, METRICS)},
        "rounds": [
            {**_round(client, v, s, number), "kept_from": 0 if v is version else v.number}
            for v, s in line
            for number in _rounds(s)
        ],
        "data": {
            "md5": snapshot.data,
            "prepared": {"path": PREPARED, "md5": snapshot.out(PREPARED)},
            "run": _run(client, version, snapshot, PREPARED),
            "validation": _validation(client, version, snapshot),
        },
        "subject": {
            "path": SUBJECT,
            "md5": snapshot.out(SUBJECT),
            "run": _run(client, made_for, made, SUBJECT),
            "kept_from": 0 if made_for is version else made_for.number,
        },
        "git": {
            "commit": version.lock_commit,
            "tag": version.git_tag if git.commit(f"refs/tags/{version.git_tag}") else "",
            "code": git.parent(version.lock_commit) if snapshot.commit else version.tags.get("jpu.git_commit", ""),
        },
    }


def _has(version: Version, key: str) -> bool:
    return f"jpu.{key}" in version.tags


def _before(
    client: MlflowClient, git: GitStore, version: Version, snapshot: Snapshot
) -> Iterator[tuple[Version, Snapshot]]:
    """The versions that one goes on from, the newest first, as far as git has them."""
    known = {one.name: one for one in versions(client, version.model)}
    while snapshot.start and (older := known.get(snapshot.start.version)):
        if older.number >= version.number or not git.commit(older.lock_commit):
            return
        version, snapshot = older, snapshot_at(git, older.lock_commit)
        yield version, snapshot


def _rounds(snapshot: Snapshot) -> list[str]:
    """Numbers of the rounds in the chain, the last first."""
    numbers = [stage.partition("@")[2] for stage in snapshot.chain if stage.startswith("unlearn@")]
    return list(reversed(numbers))


def _round(client: MlflowClient, version: Version, snapshot: Snapshot, number: str) -> dict[str, Any]:
    stages = {}
    for name, outs in _ROUND.items():
        paths = [f"artifacts/rounds/{number}/{out}" for out in outs]
        stages[name] = {
            "run": _run(client, version, snapshot, paths[0]),
            "outs": {path: snapshot.out(path) for path in paths},
        }
    mined = snapshot.lock[f"mine@{number}"].deps if f"mine@{number}" in snapshot.lock else {}
    return {"round": number, "stages": stages, "prepared": mined.get(PREPARED, "")}


def _run(client: MlflowClient, version: Version, snapshot: Snapshot, path: str) -> dict[str, str]:
    """The run that made an output: id, state, page. The state of one that is gone is "missing"."""
    from mlflow.exceptions import MlflowException

    stage = snapshot.makers.get(path, "")
    run_id = version.maker(stage)
    if not run_id:
        return {"stage": stage, "run_id": "", "status": "unknown", "page": ""}
    with tracking_errors():
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {"stage": stage, "run_id": run_id, "status": "missing", "page": ""}
    status = run.info.status if run.info.lifecycle_stage == "active" else "deleted"
    page = f"#/experiments/{run.info.experiment_id}/runs/{run_id}"
    return {"stage": stage, "run_id": run_id, "status": status, "page": page}


def _validation(client: MlflowClient, version: Version, snapshot: Snapshot) -> dict[str, Any]:
    """How many expectations there were and which failed; none at all where the results are gone."""
    run = _run(client, version, snapshot, PREPARED)
    data = read_artifact(client, run["run_id"]) if run["page"] else None
    results = parse_results(data or b"")
    return {"expectations": len(results), "failed": [name for name, success in results if not success]}
