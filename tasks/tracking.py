"""A stage's record: what went in, with which settings, what came out, and how it ended.

    with stage_run("mine", round) as run:
        run.inputs(paths.prepared, paths.adapter)
        run.params(settings.mining.model_dump())
        run.metrics({"parent_rate": 0.8}, step=1)

The record goes to the flow that runs the stage (JPU_TRACKER, see tasks/relay.py), or straight into MLflow when the
stage is run by `dvc repro` or by hand, or nowhere (JPU_TRACKING=off). Metrics are buffered and written in batches.
Callers pass no restricted text: what they log is stored as it is. Only the messages of errors are redacted here.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from tasks.environment import commit, identity, quiet, versions
from tasks.lineage import experiment_name, output_tags, stage_outputs, tag_key
from tasks.recorders import Measurement, MlflowRecorder, NullRecorder, Recorder
from tasks.redaction import describe
from tasks.repository import read_params
from tasks.store import now_ms, switched_off

PARENT = "JPU_PARENT_RUN"
TRACKER = "JPU_TRACKER"

_BUFFER = 800
_SECONDS = 5.0


class StageRun:
    """The record of one executed stage. Made by `stage_run`.

    Every method may raise InfrastructureError when the store is gone: better a stage that stops and resumes from
    its checkpoint than one without a record.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._buffer: list[Measurement] = []
        self._flushed = time.monotonic()

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run, None where nothing is recorded."""
        return self._recorder.run_id

    def inputs(self, *paths: Path | str) -> dict[str, str]:
        """Record files or folders as dataset inputs: the DVC path as source, DVC's MD5 as digest.

        Returns:
            Path → MD5; empty where nothing is recorded.
        """
        return self._recorder.inputs([os.fspath(path) for path in paths])

    def params(self, values: Mapping[str, Any]) -> None:
        """Record settings; nested sections become `section.key`."""
        self._recorder.batch(params={key: str(value) for key, value in flatten(values).items()})

    def metrics(self, values: Mapping[str, Any], step: int = 0) -> None:
        """Record numbers at a step; nested ones become `part.key`, anything that is no number is left out."""
        stamp = now_ms()
        self._buffer.extend(
            (key, float(value), step, stamp) for key, value in flatten(values).items() if isinstance(value, int | float)
        )
        if len(self._buffer) >= _BUFFER or time.monotonic() - self._flushed > _SECONDS:
            self.flush()

    def artifact(self, path: Path | str, folder: str = "") -> None:
        """Copy a file, or the contents of a folder, to the run's artifacts. Nothing restricted, ever."""
        self._recorder.artifact(os.fspath(path), folder)

    def tag(self, key: str, value: object) -> None:
        """Set a tag (key without `@`)."""
        self._recorder.batch(tags={key: str(value)})

    def register(self) -> str | None:
        """Register the hardened model in the working tree, and give it the alias `challenger`.

        For `evaluate`, after its outputs are written. Returns the version's number, None where nothing is
        recorded.
        """
        return self._recorder.register()

    def flush(self) -> None:
        """Write the buffered metrics now."""
        rows, self._buffer = self._buffer, []
        self._flushed = time.monotonic()
        if rows:
            self._recorder.batch(metrics=rows)


@contextmanager
def stage_run(name: str, round: int | str | None = None) -> Iterator[StageRun]:
    """Record what the body does as one MLflow run, nested under the flow's run where there is one.

    The run ends FINISHED, or FAILED with the error's class and redacted message, also on Ctrl-C and SIGTERM
    (which becomes SystemExit 143 in the body, so that files are cleaned up).

    Args:
        name: The stage as in dvc.yaml, without the round: `mine`.
        round: The round, for a stage that is unrolled.

    Raises:
        InfrastructureError: The store cannot be reached.
    """
    stage = name if round is None else f"{name}@{round}"
    recorder = open_recorder(stage)
    run = StageRun(recorder)
    with _terminable():
        try:
            yield run
            run.flush()
            if isinstance(recorder, MlflowRecorder) and recorder.run_id:
                # Under a flow it is the flow that does this, from dvc.lock.
                recorder.batch(tags=output_tags(stage_outputs(stage)))
        except BaseException as error:
            _fail(run, recorder, error)
            raise
        recorder.finish("FINISHED")


def open_recorder(stage: str) -> Recorder:
    """The recorder that the environment asks for. Raises InfrastructureError."""
    if switched_off():
        return NullRecorder()
    quiet()
    tags = run_tags(stage) | {"jpu.cached": "false"}
    address = os.environ.get(TRACKER)
    if address:
        from tasks.relay import RelayRecorder

        return RelayRecorder(address, tags)
    parent = os.environ.get(PARENT)
    if parent:
        tags["mlflow.parentRunId"] = parent
    from tasks.lineage import fail_broken_runs
    from tasks.store import open_client, open_experiment

    client = open_client()
    experiment = open_experiment(client, experiment_name())
    if not parent:
        fail_broken_runs(client)
    return MlflowRecorder(client, experiment, tags)


def run_tags(stage: str) -> dict[str, str]:
    """What every run carries: its stage, seed, profile, process, code and library versions."""
    params = read_params()
    head, dirty = commit()
    name, _, round = stage.partition("@")
    return {
        "mlflow.runName": stage,
        "mlflow.source.name": f"tasks.{name}",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": head,
        "jpu.git_dirty": str(dirty).lower(),
        "jpu.stage": tag_key(stage),
        "jpu.round": round,
        "jpu.profile": str(params.get("profile", "default")),
        "jpu.seed": str(params.get("seed", "")),
        **{f"jpu.{key}": value for key, value in identity().items()},
        **{f"jpu.version.{library}": number for library, number in versions().items()},
    }


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level of `outer.inner` keys, in order."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _fail(run: StageRun, recorder: Recorder, error: BaseException) -> None:
    """End the run as FAILED; what goes wrong here must not hide `error`."""
    try:
        run.flush()
        recorder.batch(tags={"jpu.error": describe(error)})
        recorder.finish("FAILED")
    except Exception as second:
        error.add_note(f"The run's record could not be closed: {describe(second)}")


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM raises SystemExit(143) inside. Outside the main thread, where Python forbids it, does nothing."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
