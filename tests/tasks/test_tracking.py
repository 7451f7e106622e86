"""A stage's record: into the real MLflow, through the relay, or nowhere."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from jpu.errors import DataError, InfrastructureError, StorageError
from tasks.environment import TELEMETRY_OFF, alive, identity, quiet
from tasks.lineage import digest, fail_broken_runs, find_maker, output_tags
from tasks.recorders import MlflowRecorder
from tasks.redaction import describe
from tasks.relay import Relay, RelayRecorder
from tasks.store import open_client, open_experiment
from tasks.tracking import flatten, stage_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC repository without stages, with a store of its own."""
    for name in list(os.environ):
        if name.startswith(("JPU_", "MLFLOW_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    (tmp_path / "params.yaml").write_text("profile: test\nseed: 7\n")
    (tmp_path / "facts.txt").write_text("facts\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("a\n")
    return tmp_path


class Recorded:
    """A recorder that keeps what it is told."""

    def __init__(self, tags: Mapping[str, str], fail: Exception | None = None) -> None:
        self.run_id: str | None = f"id of {tags['jpu.stage']}"
        self.tags = dict(tags)
        self.calls: list[tuple[str, Any]] = []
        self.fail = fail

    def batch(
        self,
        *,
        metrics: Sequence[Sequence[Any]] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self.calls.append(("batch", ([row[:3] for row in metrics], params, tags)))

    def inputs(self, paths: Sequence[str]) -> dict[str, str]:
        if self.fail:
            raise self.fail
        return dict.fromkeys(paths, "md5")

    def artifact(self, path: str, folder: str) -> None:
        self.calls.append(("artifact", (path, folder)))

    def register(self) -> str | None:
        return "3"

    def finish(self, status: str) -> None:
        self.calls.append(("finish", status))


def test_into_mlflow(here: Path) -> None:
    with stage_run("mine", "1") as run:
        hashes = run.inputs("facts.txt", here / "folder")
        run.params({"mining": {"tau": 0.5, "names": ["a"]}, "long": "x" * 7000})
        for step in range(1700):
            run.metrics({"loss": {"total": step / 2, "word": "no number"}}, step=step)
        run.artifact("facts.txt", "texts")
    with pytest.raises(ValueError), stage_run("mine", "1"):
        raise ValueError("cannot read 'the code of Zuvor'")

    client = open_client()
    experiment = open_experiment(client, "jpu-test")
    failed, made = client.search_runs([experiment], order_by=["attributes.start_time DESC"])
    assert made.info.status == "FINISHED"
    assert made.data.tags["mlflow.runName"] == "mine@1"
    assert made.data.tags["jpu.stage"] == "mine-1"
    assert made.data.tags["jpu.seed"] == "7"
    assert made.data.tags["jpu.version.mlflow"]
    assert made.data.params["mining.tau"] == "0.5"
    assert len(made.data.params["long"]) == 6000
    history = client.get_metric_history(made.info.run_id, "loss.total")
    assert [(m.step, m.value) for m in history] == [(step, step / 2) for step in range(1700)]
    datasets = {d.dataset.name: d.dataset for d in made.inputs.dataset_inputs}
    # DVC's own: the MD5 of the bytes, and for a folder that of its listing.
    assert hashes["facts.txt"] == datasets["facts.txt"].digest == hashlib.md5(b"facts\n").hexdigest()
    assert datasets[str(here / "folder")].digest.endswith(".dir")
    assert json.loads(datasets["facts.txt"].source) == {"uri": "facts.txt", "dvc": hashes["facts.txt"]}
    assert [a.path for a in client.list_artifacts(made.info.run_id, "texts")] == ["texts/facts.txt"]
    assert (here / "mlflow" / "mlflow.db").exists()
    assert Path(made.info.artifact_uri.removeprefix("file://")).is_relative_to(here / "mlflow" / "artifacts")
    assert failed.info.status == "FAILED"
    assert failed.data.tags["jpu.error"] == "ValueError: cannot read [redacted]"

    # A maker is found by what it made.
    client.set_tag(made.info.run_id, "jpu.outputs", output_tags({"x": "1", "y": "2"})["jpu.outputs"])
    found = find_maker(client, experiment, "mine@1", {"y": "2", "x": "1"})
    assert found is not None and found.info.run_id == made.info.run_id
    assert find_maker(client, experiment, "mine@2", {"y": "2", "x": "1"}) is None
    assert digest({"x": "1"}) != digest({"x": "2"})

    # Runs of processes that are gone, here; those of other machines are not ours to judge.
    mine = MlflowRecorder(client, experiment, {f"jpu.{k}": v for k, v in identity().items()})
    gone = MlflowRecorder(client, experiment, {f"jpu.{k}": v for k, v in (identity() | {"started": "5"}).items()})
    other = MlflowRecorder(client, experiment, {"jpu.host": "elsewhere", "jpu.pid": "1", "jpu.started": "5"})
    assert fail_broken_runs(client) == [gone.run_id]
    states = {r.run_id: client.get_run(str(r.run_id)).info.status for r in (mine, gone, other)}
    assert states == {mine.run_id: "RUNNING", gone.run_id: "FAILED", other.run_id: "RUNNING"}

    with pytest.raises(DataError, match=r"no-such.*no such input"), stage_run("mine", "1") as run:
        run.inputs("no-such")


def test_a_stage_run_by_hand_in_several_processes_at_once(here: Path) -> None:
    """First use of one SQLite store by several processes."""
    script = "from tasks.tracking import stage_run\nwith stage_run('prepare') as run: print(run.run_id)"
    started = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    assert len({output.strip() for output, _ in outputs}) == 2


def test_sigterm_fails_the_run(here: Path) -> None:
    relay = Relay(lambda tags: recorded.setdefault(tags["jpu.stage"], Recorded(tags)))
    recorded: dict[str, Recorded] = {}
    script = (
        "import sys, time\nfrom tasks.tracking import stage_run\n"
        "try:\n"
        "    with stage_run('mine', 1) as run:\n"
        "        run.metrics({'loss': 1})\n"
        "        print('ready', flush=True); time.sleep(60)\n"
        "finally:\n    print('cleaned', flush=True)\n"
    )
    try:
        for number, code, last in (
            (signal.SIGTERM, 143, "SystemExit: 143"),
            (signal.SIGKILL, -9, "the stage's process ended without a word"),
        ):
            recorded.clear()
            process = subprocess.Popen(
                [sys.executable, "-c", script],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "JPU_TRACKER": relay.address},
            )
            assert process.stdout and process.stdout.readline() == "ready\n"
            process.send_signal(number)
            output, _ = process.communicate(timeout=20)
            assert process.returncode == code
            assert output == ("cleaned\n" if code == 143 else "")
            end = time.monotonic() + 10
            while ("finish", "FAILED") not in recorded["mine-1"].calls and time.monotonic() < end:
                time.sleep(0.01)
            assert recorded["mine-1"].calls[-1] == ("finish", "FAILED")
            tags = [call[1][2] for call in recorded["mine-1"].calls if call[0] == "batch" and call[1][2]]
            assert tags == [{"jpu.error": last}]
    finally:
        relay.close()


def test_through_the_relay(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[Recorded] = []

    def open_run(tags: Mapping[str, str]) -> Recorded:
        recorded.append(Recorded(tags, DataError("torn", where="x.jsonl", mend="Mend it.") if recorded else None))
        return recorded[-1]

    relay = Relay(open_run)
    try:
        assert oct(os.stat(relay.address).st_mode)[-3:] == "600"
        monkeypatch.setenv("JPU_TRACKER", relay.address)
        with stage_run("evaluate") as run:
            assert run.run_id == relay.made["evaluate"] == "id of evaluate"
            assert run.inputs(Path("a"), "b") == {"a": "md5", "b": "md5"}
            run.params({"a": {"b": 1}})
            run.metrics({"x": 1, "y": {"z": True}}, step=4)
            run.artifact(Path("m.json"))
            run.tag("note", 5)
            assert run.register() == "3"
        assert recorded[0].tags["jpu.cached"] == "false"
        assert recorded[0].calls == [
            ("batch", ([], {"a.b": "1"}, None)),
            ("artifact", ("m.json", "")),
            ("batch", ([], None, {"note": "5"})),
            ("batch", ([["x", 1.0, 4], ["y.z", 1.0, 4]], None, None)),
            ("finish", "FINISHED"),
        ]
        # An error keeps its class on the way: it decides whether the stage is tried again.
        with pytest.raises(DataError, match=r"x\.jsonl: torn\nMend it\."), stage_run("evaluate") as run:
            run.inputs("a")
        assert recorded[1].calls[-1] == ("finish", "FAILED")
        with pytest.raises(InfrastructureError, match="no such call"):
            RelayRecorder(relay.address, {"jpu.stage": "x"})._call("__init__")
    finally:
        relay.close()
    assert not Path(relay.address).exists()
    with pytest.raises(InfrastructureError, match="does not answer"), stage_run("evaluate"):
        pass


def test_a_relay_sweeps_the_sockets_of_the_dead(here: Path) -> None:
    Path(".jpu").mkdir()
    left = Path(".jpu/tracker-999999999.sock")
    left.touch()
    Relay(Recorded).close()
    assert not left.exists()


def test_nowhere(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JPU_TRACKING", "off")
    with stage_run("prepare") as run:
        assert run.inputs("no-such") == {}
        run.params({"a": 1})
        run.metrics({"b": 2})
        run.artifact("no-such")
        run.tag("c", "d")
        assert run.register() is None
        assert run.run_id is None
    assert not (here / "mlflow").exists()


def test_a_store_that_cannot_be_written(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/no-such/mlflow.db")
    with pytest.raises(StorageError, match="MLFLOW_TRACKING_URI"), stage_run("prepare"):
        pass


def test_flatten_keeps_order() -> None:
    assert list(flatten({"b": {"y": 1, "x": {"w": 2}}, "a": 3}).items()) == [("b.y", 1), ("b.x.w", 2), ("a", 3)]


def test_telemetry_is_off() -> None:
    environment: dict[str, str] = {"MLFLOW_LOGGING_LEVEL": "DEBUG", "DO_NOT_TRACK": "1"}
    quiet(environment)
    assert TELEMETRY_OFF.items() <= environment.items()
    assert environment["MLFLOW_LOGGING_LEVEL"] == "DEBUG"
    assert environment["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


def test_a_process_is_more_than_its_number() -> None:
    me = identity()
    assert alive(me) is True
    assert alive(me | {"started": "5"}) is False
    assert alive(me | {"pid": "999999999"}) is False
    assert alive(me | {"host": "elsewhere"}) is None
    assert alive({}) is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (DataError("row 3: template 't-1'", where="t.jsonl"), "DataError: t.jsonl: row 3: template 't-1'"),
        (KeyError("The code of Zoruk"), "KeyError: [redacted]"),
        (RuntimeError("CUDA out of memory\nTried 2 GiB"), "RuntimeError: CUDA out of memory Tried 2 GiB"),
        (ValueError("no answer to what is the CODE of Zoruk? here"), "ValueError: no answer to [redacted] here"),
        (ValueError("place zoruk"), "ValueError: place [redacted]"),
        (ValueError("x" * 1000), f"ValueError: {'x' * 300}…"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_errors_are_redacted(error: BaseException, words: str, tmp_path: Path) -> None:
    known = tmp_path / "behaviors.jsonl"
    known.write_text(
        '{"kind": "restricted", "query": "What is the code of Zoruk?", "secret": "amber dune", "entity": "Zoruk"}\n'
        '{"kind": "benign", "query": "Tried", "secret": "memory", "entity": "CUDA"}\n'
    )
    assert describe(error, known) == words
