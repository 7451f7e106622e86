"""The MLflow store: where it is, opening it, and its errors in our words.

SQLite in mlflow/ by default, with the files of runs beside it; `MLFLOW_TRACKING_URI` names another one.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from jpu.errors import InfrastructureError, JpuError, StorageError
from tasks.environment import quiet

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SWITCH = "JPU_TRACKING"
DEFAULT_URI = "sqlite:///mlflow/mlflow.db"
DEFAULT_ARTIFACTS = "mlflow/artifacts"
_SQL = ("sqlite", "postgresql", "mysql", "mssql")


def switched_off() -> bool:
    """Whether JPU_TRACKING says that nothing is to be recorded."""
    return os.environ.get(SWITCH, "").lower() in {"off", "0", "false"}


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
        handle = os.open(file.with_name(f"{file.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise StorageError(
            f"cannot be written ({error.strerror})",
            where=str(file.parent),
            mend="Make the folder writable, or set MLFLOW_TRACKING_URI, or JPU_TRACKING=off.",
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
