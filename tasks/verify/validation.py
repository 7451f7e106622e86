"""Version → Great Expectations: what was found when the data were checked, and that all of it held.

`prepare` writes its results into its output and into its run. `mine` and `evaluate` check what they made as well; a
failing check fails their runs (tasks/verify/runs.py).
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.snapshots import PREPARED
from tasks.store import tracking_errors
from tasks.verify.chain import BrokenLinkError, Chain, Passed

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

RESULTS = "validation.json"
_MEANING = "the data were not checked, or did not pass"


def check_validation(chain: Chain) -> Iterator[Passed]:
    """The results in the run of `prepare` are those in the prepared data, and every expectation holds."""
    stage = chain.snapshot.makers[PREPARED]
    run = chain.run(stage)
    where = f"artifacts of run {run.info.run_id}, {RESULTS}"
    data = read_artifact(chain.client, run.info.run_id)
    if data is None:
        raise BrokenLinkError("validation", expected="its results", found="none", where=where, meaning=_MEANING)
    results = parse_results(data)
    failed = [name for name, success in results if not success]
    if failed or not results:
        raise BrokenLinkError(
            "validation",
            expected="every expectation to hold",
            found=f"{failed[0]} failed" if failed else "no expectation at all",
            where=where,
            meaning=_MEANING,
        )
    oid = chain.snapshot.out(PREPARED)
    expected = (chain.objects.listing(oid) or {}).get(RESULTS, "none")
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if expected != found:
        raise BrokenLinkError(
            "validation",
            expected=f"MD5 {expected} ({PREPARED}/{RESULTS})",
            found=found,
            where=where,
            meaning="the results in MLflow are not those that the stage wrote",
        )
    yield Passed("validation", f"{len(results)} expectations hold; the results are those of the data")


def parse_results(data: bytes) -> list[tuple[str, bool]]:
    """Suite and name of each expectation, and whether it held; empty for what is no such file."""
    try:
        document: Mapping[str, list[dict[str, Any]]] = json.loads(data)
        return [
            (f"{when} {one['suite']}.{one['expectation']}", one["success"] is True)
            for when, group in document.items()
            for one in group
        ]
    except (ValueError, TypeError, KeyError, AttributeError):
        return []


def read_artifact(client: MlflowClient, run_id: str) -> bytes | None:
    """The results among a run's artifacts, None where there are none. Raises InfrastructureError."""
    with tempfile.TemporaryDirectory(prefix="jpu-verify-") as folder, tracking_errors():
        if RESULTS not in {one.path for one in client.list_artifacts(run_id)}:
            return None
        return Path(client.download_artifacts(run_id, RESULTS, folder)).read_bytes()
