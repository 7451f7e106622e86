"""Rows in MLflow: one experiment, a run for each, found again by its key so that none is there twice.

Rows that others made are recorded as well, when they are first seen here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from jpu.comparison.metrics import UTILITY, WORST, metrics_of
from jpu.comparison.rows import Row
from jpu.comparison.statistics import point
from tasks.comparing.plan import Run
from tasks.environment import quiet
from tasks.recorders import MlflowRecorder
from tasks.store import now_ms, open_client, open_experiment, switched_off, tracking_errors
from tasks.tracking import flatten

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EXPERIMENT = "jpu-compare"
_KEY = "jpu.compare.key"


class Records:
    """The experiment, open; nothing where JPU_TRACKING is off.

    Raises:
        InfrastructureError: The store cannot be reached.
    """

    def __init__(self) -> None:
        self._client: MlflowClient | None = None
        self._known: set[str] = set()
        if not switched_off():
            quiet()
            self._client = open_client()
            self._experiment = open_experiment(self._client, EXPERIMENT)
            self._known = set(self._keys(self._client))

    def keep(self, run: Run, row: Row) -> None:
        """Record a row, unless it is there. Raises InfrastructureError."""
        if self._client is None or row.key in self._known:
            return
        tags = {
            "mlflow.runName": run.name,
            _KEY: row.key,
            "jpu.compare.subject": row.subject,
            "jpu.compare.method": row.method,
            "jpu.compare.kind": row.kind,
            "jpu.seed": str(row.seed),
            "jpu.compare.weights": row.weights,
            "jpu.compare.machine": row.cost.machine,
            **{f"jpu.version.{name}": number for name, number in row.libraries.items()},
        }
        recorder = MlflowRecorder(self._client, self._experiment, tags)
        stamp = now_ms()
        figures = {metric.key: point(metric, row) for metric in (WORST, UTILITY, *metrics_of([row]))}
        figures |= {name: value for name, value in row.figures.items() if name not in figures}
        if row.figures.get("out_of_time"):
            # Such a run was not counted, nor held against the KL budget, where it ended: its zeros are no figures.
            figures |= {"steps": None, "kl_held_out": None}
        figures |= {"trial": float(row.trial), "evaluate_seconds": row.cost.evaluate_seconds}
        recorder.batch(
            metrics=[(name, value, 0, stamp) for name, value in figures.items() if value is not None],
            params={name: str(value) for name, value in flatten(row.settings).items()},
        )
        recorder.finish("FINISHED")
        self._known.add(row.key)

    def _keys(self, client: MlflowClient) -> Iterable[str]:
        token: str | None = None
        while True:
            with tracking_errors():
                page = client.search_runs(
                    [self._experiment], filter_string="attributes.status = 'FINISHED'", page_token=token
                )
            yield from (run.data.tags[_KEY] for run in page if _KEY in run.data.tags)
            token = page.token
            if not token:
                return
