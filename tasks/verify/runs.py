"""Version → runs: each stage's run is there, ended well, and wrote what the lock file says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tasks.lineage import digest, tag_key
from tasks.repository import Locked
from tasks.verify.chain import BrokenLinkError, Chain, Passed

if TYPE_CHECKING:
    from mlflow.entities import Run


def check_runs(chain: Chain) -> Iterator[Passed]:
    """The run of every stage of the chain, from the last round back."""
    for stage, entry in reversed(list(chain.stages())):
        run = chain.run(stage)
        _finished(stage, run)
        _outputs(stage, entry, run)
        _inputs(stage, entry, run)
        yield Passed(f"run of {stage}", f"{run.info.run_id[:12]}, finished; outputs as in dvc.lock")


def _finished(stage: str, run: Run) -> None:
    where = f"run {run.info.run_id}"
    if run.info.status != "FINISHED":
        meaning = "the stage, or one of its data checks, failed"
        raise BrokenLinkError(
            f"run of {stage}", expected="FINISHED", found=run.info.status, where=where, meaning=meaning
        )
    if run.data.tags.get("jpu.stage") != tag_key(stage):
        raise BrokenLinkError(
            f"run of {stage}",
            expected=tag_key(stage),
            found=run.data.tags.get("jpu.stage", "no such tag"),
            where=f"{where}, tag jpu.stage",
            meaning="the version names another stage's run",
        )


def _outputs(stage: str, entry: Locked, run: Run) -> None:
    expected = {f"jpu.out/{path}": md5 for path, md5 in entry.outs.items()} | {"jpu.outputs": digest(entry.outs)}
    for key, value in expected.items():
        found = run.data.tags.get(key, "no such tag")
        if found != value:
            raise BrokenLinkError(
                f"run of {stage}",
                expected=f"{value} (dvc.lock)",
                found=found,
                where=f"run {run.info.run_id}, tag {key}",
                meaning="the run did not make what the version holds",
            )


def _inputs(stage: str, entry: Locked, run: Run) -> None:
    for one in run.inputs.dataset_inputs if run.inputs else ():
        name, md5 = one.dataset.name, one.dataset.digest
        if entry.deps.get(name, md5) != md5:
            raise BrokenLinkError(
                f"run of {stage}",
                expected=f"{entry.deps[name]} (dvc.lock)",
                found=md5,
                where=f"run {run.info.run_id}, dataset {name}",
                meaning="the run read something else than the lock file says",
            )
