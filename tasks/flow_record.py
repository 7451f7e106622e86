"""A flow run's record: the parent run, its stages' runs, marks for cached stages, and the registered model.

The flow keeps MLflow open and serves it to the stages that it runs (tasks/relay.py). `JPU_TRACKING=off` leaves a
record that does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from jpu.errors import DataError, JpuError
from tasks.lineage import (
    UNKNOWN,
    experiment_name,
    fail_broken_runs,
    find_maker,
    hardened_model,
    output_tags,
    registered,
    scores,
    tag_key,
)
from tasks.lineage import register as register_model
from tasks.recorders import MlflowRecorder
from tasks.redaction import describe
from tasks.relay import Relay
from tasks.repository import Locked, data_hash
from tasks.store import SWITCH, now_ms, open_client, open_experiment, switched_off, tracking_errors
from tasks.tracking import PARENT, TRACKER, run_tags

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


class FlowRecord:
    """The record of one flow run; made by `flow_record`. With `client` None it does nothing.

    Attributes:
        run_id: MLflow's id of the parent run, None where nothing is recorded.
        broken: Runs of earlier flows that were killed, now marked as FAILED.
        environment: What the stages need in their environment to be recorded under this run.
        model_version: "name number" of the registered model, once `register` has found or made it.
        figures: Set by the flow: the nested figures that become the parent run's metrics.
    """

    def __init__(self, client: MlflowClient | None, experiment: str = "", tags: Mapping[str, str] | None = None):
        self.run_id: str | None = None
        self.broken: list[str] = []
        self.environment: dict[str, str] = {SWITCH: "off"}
        self.model_version: str | None = None
        self.figures: Mapping[str, object] = {}
        self._client = client
        self._experiment = experiment
        self._relay: Relay | None = None
        self._cached: dict[str, str] = {}
        if client is None:
            return
        with tracking_errors():
            self.broken = fail_broken_runs(client)
        self._run = MlflowRecorder(client, experiment, tags or {})
        self.run_id = self._run.run_id
        self.environment = {PARENT: self.run_id or ""}
        # Without a socket (a file system that has none, a path too long) the stages open MLflow themselves.
        with suppress(OSError):
            self._relay = Relay(self._open_stage)
            self.environment[TRACKER] = self._relay.address

    def executed(self, stage: str, locked: Locked | None, why: str) -> None:
        """Tag the run of an executed stage with its output hashes, which DVC writes after the stage has ended."""
        if self._client is None or locked is None:
            return
        with tracking_errors():
            run_id = self._made(stage)
            if run_id:
                for key, value in {**output_tags(locked.outs), "jpu.outcome": "executed", "jpu.why": why}.items():
                    self._client.set_tag(run_id, key, value[:5000])

    def cached(self, stage: str, outcome: str, locked: Locked | None, why: str) -> None:
        """Leave a marked run for a stage that was not executed, with the id of the run that made its outputs."""
        if self._client is None:
            return
        outputs = dict(locked.outs) if locked else {}
        with tracking_errors():
            maker = find_maker(self._client, self._experiment, stage, outputs)
            run = self._client.create_run(
                self._experiment,
                tags={
                    **run_tags(stage),
                    **output_tags(outputs),
                    "mlflow.parentRunId": self.run_id or "",
                    "mlflow.runName": f"{stage} ({outcome})",
                    "jpu.cached": "true",
                    "jpu.outcome": outcome,
                    "jpu.why": why[:5000],
                    "jpu.made_by": maker.info.run_id if maker else UNKNOWN,
                },
            )
            self._client.set_terminated(run.info.run_id, "FINISHED")
            self._cached[tag_key(stage)] = run.info.run_id

    def register(self, stage: str) -> None:
        """Make sure that the working tree's hardened model is a registered version with the alias `challenger`.

        `stage` has done so itself if it was executed; a cached one did it in another store, or never.
        """
        if self._client is None:
            return
        with suppress(DataError), tracking_errors():
            run_id = self._made(stage) or self._cached.get(tag_key(stage))
            model = hardened_model()
            if run_id:
                number = register_model(self._client, self._experiment, run_id)
                self.model_version = f"{model.name} {number}"
            elif known := registered(self._client, model):
                self.model_version = f"{model.name} {known}"

    def keep(self) -> str:
        """Commit the registered version's dvc.lock beside the branches; "" where what ran is not what git has."""
        if self._client is None or self.model_version is None:
            return ""
        from tasks.champion import record
        from tasks.versions import find_version

        with suppress(DataError):
            return record(self._client, find_version(self._client, self.model_version.replace(" ", "/")))
        return ""

    def finish(self, error: BaseException | None = None) -> None:
        """End the parent run, with the figures as metrics, or as FAILED with the error."""
        if self._relay:
            self._relay.close()
        if self._client is None:
            return
        rows = [(key, value, 0, now_ms()) for key, value in scores(self.figures).items()]
        tags = {"jpu.error": describe(error)} if error else {}
        if self.model_version:
            tags["jpu.model_version"] = self.model_version
        self._run.batch(metrics=rows, tags=tags)
        self._run.finish("FAILED" if error else "FINISHED")

    def _open_stage(self, tags: Mapping[str, str]) -> MlflowRecorder:
        if self._client is None or self.run_id is None:
            raise DataError("nothing is recorded", where=SWITCH)
        return MlflowRecorder(self._client, self._experiment, {**tags, "mlflow.parentRunId": self.run_id})

    def _made(self, stage: str) -> str | None:
        """The run that a stage of this flow has made, by way of the relay or on its own."""
        key = tag_key(stage)
        if self._relay:
            return self._relay.made.get(key)
        if self._client is None:
            return None
        found = self._client.search_runs(
            [self._experiment],
            f"tags.`mlflow.parentRunId` = '{self.run_id}' and tags.`jpu.stage` = '{key}' "
            "and tags.`jpu.cached` = 'false' and attributes.status = 'FINISHED'",
            max_results=1,
        )
        return str(found[0].info.run_id) if found else None


@contextmanager
def flow_record(name: str, tags: Mapping[str, str] | None = None) -> Iterator[FlowRecord]:
    """Record a flow run; ends it as FINISHED, or as FAILED with whatever the body raises.

    Args:
        name: The run's name in MLflow.
        tags: Tags added to those that every run carries.

    Raises:
        InfrastructureError: The store cannot be reached.
    """
    if switched_off():
        yield FlowRecord(None)
        return
    client = open_client()
    every = {
        **run_tags("harden"),
        "mlflow.runName": name,
        "mlflow.source.name": "flows.harden",
        "jpu.data": data_hash() or UNKNOWN,
        **(tags or {}),
    }
    record = FlowRecord(client, open_experiment(client, experiment_name()), every)
    try:
        yield record
    except BaseException as error:
        try:
            record.finish(error=error)
        except JpuError as second:
            error.add_note(f"The flow's record could not be closed: {describe(second)}")
        raise
    record.finish()
