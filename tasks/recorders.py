"""Where a stage's record goes: nowhere, or into MLflow.

These two and the flow's relay (tasks/relay.py) speak the same few calls with plain JSON values, so that a stage does
not import MLflow (two seconds and more, with its store) when the flow that runs it has MLflow open already. MLflow's
client only, no global state: `MLFLOW_RUN_ID` in the environment has no effect.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from jpu.errors import DataError, InfrastructureError
from tasks.lineage import register
from tasks.repository import open_repo, repo_hash
from tasks.store import tracking_errors

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

Measurement = tuple[str, float, int, int]  # name, value, step, milliseconds since the epoch


class Recorder(Protocol):
    """One run's record. Paths are relative to the repository root; every value is JSON."""

    run_id: str | None

    def batch(
        self,
        *,
        metrics: Sequence[Sequence[Any]] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Write metrics (rows of `Measurement`), parameters and tags in as few calls as the store allows."""

    def inputs(self, paths: Sequence[str]) -> dict[str, str]:
        """Record files or folders as dataset inputs, with DVC's MD5 as digest; returns path → MD5."""

    def artifact(self, path: str, folder: str) -> None:
        """Copy a file, or the contents of a folder, to the run's artifacts."""

    def register(self) -> str | None:
        """Register the working tree's hardened model (tasks/lineage.py); returns the version's number."""

    def finish(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED."""


class NullRecorder:
    """Records nothing: JPU_TRACKING=off."""

    run_id: str | None = None

    def batch(
        self,
        *,
        metrics: Sequence[Sequence[Any]] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Do nothing."""

    def inputs(self, paths: Sequence[str]) -> dict[str, str]:
        """Hash nothing."""
        return {}

    def artifact(self, path: str, folder: str) -> None:
        """Copy nothing."""

    def register(self) -> str | None:
        """Register nothing."""
        return None

    def finish(self, status: str) -> None:
        """Do nothing."""


class MlflowRecorder:
    """One MLflow run, written through MLflow's client.

    Args:
        client: An open client (`open_client`).
        experiment: The experiment's id.
        tags: Tags of the new run, `mlflow.runName` among them.
    """

    def __init__(self, client: MlflowClient, experiment: str, tags: Mapping[str, str]) -> None:
        self.client = client
        self.experiment = experiment
        self.run_id: str | None = None
        with tracking_errors():
            self.run_id = client.create_run(experiment, tags=dict(tags)).info.run_id

    def batch(
        self,
        *,
        metrics: Sequence[Sequence[Any]] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Write in chunks of what one MLflow call takes: 1,000 metrics, 100 parameters, 100 tags."""
        from mlflow.entities import Metric, Param, RunTag

        points = [Metric(name, value, stamp, step) for name, value, step, stamp in metrics]
        settings = [Param(key, value[:6000]) for key, value in (params or {}).items()]
        labels = [RunTag(key, value[:5000]) for key, value in (tags or {}).items()]
        with tracking_errors():
            while points or settings or labels:
                self.client.log_batch(self._id, points[:800], settings[:100], labels[:100])
                points, settings, labels = points[800:], settings[100:], labels[100:]

    def inputs(self, paths: Sequence[str]) -> dict[str, str]:
        """Record dataset inputs whose source is the DVC path.

        Of the type "local", the one of MLflow's own that its pages show the path of.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        missing = next((path for path in paths if not Path(path).exists()), None)
        if missing:
            raise DataError("no such input", where=missing, mend="Run the stage that makes it.")
        with open_repo() as repo:
            hashes = {path: repo_hash(repo, path) for path in paths}
        datasets = [
            DatasetInput(
                Dataset(name=path, digest=md5, source_type="local", source=json.dumps({"uri": path, "dvc": md5})),
                [InputTag("mlflow.data.context", "input")],
            )
            for path, md5 in hashes.items()
        ]
        with tracking_errors():
            self.client.log_inputs(self._id, datasets)
        return hashes

    def artifact(self, path: str, folder: str) -> None:
        """Copy to the run's artifact store."""
        with tracking_errors():
            if Path(path).is_dir():
                self.client.log_artifacts(self._id, path, folder or None)
            else:
                self.client.log_artifact(self._id, path, folder or None)

    def register(self) -> str | None:
        """Register through the model registry of the same store."""
        with tracking_errors():
            return register(self.client, self.experiment, self._id)

    def finish(self, status: str) -> None:
        """End the run."""
        with tracking_errors():
            self.client.set_terminated(self._id, status=status)

    @property
    def _id(self) -> str:
        if self.run_id is None:
            raise InfrastructureError("the run was not created", where="MLflow", mend="Run `jpu doctor`.")
        return self.run_id
