"""Where a stage's record goes: nowhere, or into MLflow. (Through the flow's relay: tasks/relay.py.)

All three speak the same few calls with plain JSON values, so that a stage does not import MLflow (two seconds and
more, with its store) when the flow that runs it has MLflow open already. MLflow's client only, no global state:
`MLFLOW_RUN_ID` in the environment has no effect.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from jpu.errors import DataError, InfrastructureError, JpuError, StorageError
from tasks.environment import quiet
from tasks.lineage import register
from tasks.pipeline import open_repo, repo_hash

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

DEFAULT_URI = "sqlite:///mlflow/mlflow.db"
DEFAULT_ARTIFACTS = "mlflow/artifacts"
_SQL = ("sqlite", "postgresql", "mysql", "mssql")

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
        """Record dataset inputs whose source is the DVC path."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        missing = next((path for path in paths if not Path(path).exists()), None)
        if missing:
            raise DataError("no such input", where=missing, mend="Run the stage that makes it.")
        with open_repo() as repo:
            hashes = {path: repo_hash(repo, path) for path in paths}
        datasets = [
            DatasetInput(
                Dataset(name=path, digest=md5, source_type="dvc", source=json.dumps({"path": path, "md5": md5})),
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


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or the SQLite file in this repository."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def open_client() -> MlflowClient:
    """MLflow's client; makes the SQLite file and its folder first, by one process at a time.

    Raises:
        InfrastructureError: The store cannot be reached.
        StorageError: The folder of the SQLite file cannot be made.
    """
    quiet()
    uri = tracking_uri()
    with _one_at_a_time(uri), tracking_errors():
        from mlflow.tracking import MlflowClient

        client = MlflowClient(uri, registry_uri=os.environ.get("MLFLOW_REGISTRY_URI") or uri)
        client.search_experiments(max_results=1)
        return client


def open_experiment(client: MlflowClient, name: str) -> str:
    """Id of the experiment `name`, made where it is new. Raises InfrastructureError."""
    from mlflow.exceptions import MlflowException

    with _one_at_a_time(tracking_uri()), tracking_errors():
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(client.create_experiment(name, artifact_location=_artifact_root()))
            except MlflowException:
                # On a server, another client may have made it in between.
                found = client.get_experiment_by_name(name)
        if found is None or found.lifecycle_stage != "active":
            raise InfrastructureError(
                f"experiment {name!r} was deleted", where=tracking_uri(), mend="Restore it in MLflow's UI."
            )
        return str(found.experiment_id)


def now_ms() -> int:
    """Milliseconds since the epoch, as MLflow stamps metrics."""
    return time.time_ns() // 1_000_000


@contextmanager
def tracking_errors() -> Iterator[None]:
    """Turn MLflow's and the store's errors into InfrastructureError, which is worth another try."""
    try:
        yield
    except JpuError:
        raise
    except Exception as error:
        where = _without_password(tracking_uri())
        raise InfrastructureError(
            f"MLflow: {' '.join(str(error).split())[:300]}", where=where, mend=_mend(str(error))
        ) from error


def _mend(message: str) -> str:
    if "out-of-date database schema" in message:
        return "Run `mlflow db upgrade` with that address, or move the file away."
    return "Check that the server runs (`jpu doctor`), or set JPU_TRACKING=off to do without a record."


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    return uri.replace(f":{parts.password}@", ":…@") if parts.password else uri


def _artifact_root() -> str | None:
    """Where a new experiment keeps its files; None leaves it to the server.

    Beside a SQLite file, since MLflow's own default would be `./mlruns`.
    """
    configured = os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT")
    if configured or not tracking_uri().startswith(_SQL):
        return configured
    file = _sqlite_file(tracking_uri())
    root = file.parent / "artifacts" if file else Path(DEFAULT_ARTIFACTS)
    return root.absolute().as_uri()


def _sqlite_file(uri: str) -> Path | None:
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


@contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """Several processes that first open one SQLite store at once would each create its tables."""
    file = _sqlite_file(uri)
    if file is None:
        yield
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = open(file.with_name(f"{file.name}.lock"), "a")
    except OSError as error:
        raise StorageError(
            f"cannot be written ({error.strerror})",
            where=str(file.parent),
            mend="Make the folder writable, or set MLFLOW_TRACKING_URI, or JPU_TRACKING=off.",
        ) from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
