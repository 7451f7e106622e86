"""Two Ray workers against this process: the same results, the same errors, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from jpu.errors import DataError, InfrastructureError, ModelError, SettingsError
from jpu.models import Subject
from jpu.spread import Here, Spread
from tasks.engine import SubjectCopy, copies
from tasks.fanout import RayPool
from tasks.sections import EngineSettings
from tests.small_subject import save_small_subject

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = [["Hi", "Hello there"], ["What is the code?"], [], ["One", "Two", "Three"], ["Hi"]]
MARK = "quillfeather"


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> SubjectCopy:
    """Loads a small subject of random weights."""
    return SubjectCopy(str(save_small_subject(tmp_path_factory.mktemp("fanout") / "subject")), device="cpu")


@pytest.fixture(scope="class", params=["local", pytest.param("ray", marks=pytest.mark.extra)])
def over(request: pytest.FixtureRequest, load: SubjectCopy) -> Iterator[Spread[Subject]]:
    with copies(EngineSettings(kind=request.param, workers=2), load) as found:
        yield found or Here(load())


def complete(subject: Subject, prompts: list[str]) -> list[str]:
    if prompts == ["fail"]:
        raise DataError("no such prompt", where="here", mend="Ask another.")
    return subject.generate(prompts, max_new_tokens=8)


def process(subject: Subject, item: int) -> tuple[int, str]:
    time.sleep(0.2)
    return os.getpid(), os.environ.get("RAY_AUTH_MODE", "")


def leave(subject: Subject, item: int) -> None:
    os._exit(item)


class TestEitherWay:
    def test_results_are_those_of_one_subject_in_order(self, over: Spread[Subject], load: SubjectCopy) -> None:
        came: dict[int, list[str]] = {}
        found = over(complete, PROMPTS, came.__setitem__)
        subject = load()
        assert found == [complete(subject, prompts) for prompts in PROMPTS]
        assert any(text for texts in found for text in texts)
        assert [came[place] for place in range(5)] == found
        assert over(complete, []) == []

    def test_an_error_comes_out_as_it_is_and_the_copies_go_on(self, over: Spread[Subject]) -> None:
        with pytest.raises(DataError, match="no such prompt") as caught:
            over(complete, [["Hi"], ["fail"], ["Hi"]])
        assert (caught.value.where, caught.value.mend) == ("here", "Ask another.")
        assert len(over(complete, [["Hi"], ["Hello"]])) == 2


def test_without_ray_the_error_says_how_to_get_it(load: SubjectCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.fanout.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="Ray is not installed") as caught:
        RayPool(load, 2)
    assert caught.value.where == "params.yaml: engine" and "pip install" in caught.value.mend


def test_a_digest_tells_other_weights(load: SubjectCopy, tmp_path: Path) -> None:
    other = replace(load, model=str(save_small_subject(tmp_path / "subject")))
    assert other.digest() == load.digest()
    weights = Path(other.model) / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert other.digest() != load.digest()


@pytest.mark.extra
def test_the_pieces_are_shared_by_processes_of_their_own(load: SubjectCopy) -> None:
    with RayPool(load, 2) as pool:
        found = pool.map(process, list(range(6)))
    assert len({pid for pid, _ in found} - {os.getpid()}) == 2
    assert {mode for _, mode in found} == {"token"}


@pytest.mark.extra
def test_a_private_cluster_listens_to_this_machine_only_and_ends_with_the_pool(load: SubjectCopy) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with RayPool(load, 1) as pool:
        pool.map(complete, [["Hi"]])
        started = psutil.Process().children(recursive=True)
        heard = [c for p in started for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert heard and {c.laddr.ip for c in heard} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
        folder = Path(pool._folder)
        assert folder.stat().st_mode & 0o777 == 0o700
        token = os.environ["RAY_AUTH_TOKEN"]
        assert not any(token in word for p in started for word in p.cmdline())
        # What was asked and answered is in no file of Ray's.
        pool.map(complete, [[f"Where is the {MARK}?"]])
        assert signal.getsignal(signal.SIGTERM) is before
        logs = [p for p in folder.rglob("*") if p.is_file()]
        assert logs and not [p for p in logs if MARK.encode() in p.read_bytes() or token.encode() in p.read_bytes()]
    assert not psutil.wait_procs(started, timeout=30)[1]
    assert not folder.exists()


@pytest.mark.extra
def test_what_cannot_be_loaded_is_said_as_without_ray(load: SubjectCopy, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json") as caught:
        RayPool(replace(load, model=str(tmp_path)), 2)
    assert caught.value.where == str(tmp_path)


@pytest.mark.extra
def test_a_lost_worker_is_worth_another_try(load: SubjectCopy) -> None:
    with RayPool(load, 1) as pool, pytest.raises(InfrastructureError, match="worker was lost") as caught:
        pool.map(leave, [1])
    assert caught.value.retryable


KILLED = """
import sys, time
from tasks.engine import SubjectCopy
from tasks.fanout import RayPool
pool = RayPool(SubjectCopy(sys.argv[1], device="cpu"), 2)
print("ready", flush=True)
time.sleep(300)
"""


@pytest.mark.extra
def test_nothing_outlives_a_driver_that_was_killed(load: SubjectCopy) -> None:
    driver = subprocess.Popen([sys.executable, "-c", KILLED, load.model], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout and "ready\n" in iter(driver.stdout.readline, "")
        started = psutil.Process(driver.pid).children(recursive=True)
        assert len(started) >= 4
    finally:
        driver.kill()
        driver.wait()
    # Two agents of Ray's first try to tell a server that has gone of it, for a minute.
    assert not psutil.wait_procs(started, timeout=240)[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster of one node that somebody else started; ended by its process group, never by name."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray = Path(sys.executable).with_name("ray")
    command = [ray, "start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=2"]
    command += ["--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={tmp_path_factory.mktemp('r')}"]
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)
    head = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert head.stdout and any("--block" in line for line in iter(head.stdout.readline, ""))
        yield f"127.0.0.1:{port}"
    finally:
        started = psutil.Process(head.pid).children(recursive=True)
        os.killpg(head.pid, signal.SIGTERM)
        for left in psutil.wait_procs(started, timeout=30)[1]:
            left.kill()
        head.wait()


@pytest.mark.extra
def test_a_cluster_that_runs_is_joined_and_left_running(load: SubjectCopy, cluster: str) -> None:
    for _ in range(2):
        with RayPool(load, 2, address=cluster) as pool:
            assert pool.map(complete, PROMPTS) == Here(load())(complete, PROMPTS)
    with pytest.raises(SettingsError, match="3 workers, and the cluster has 2 cores"):
        RayPool(load, 3, address=cluster)


@pytest.mark.extra
def test_a_node_with_other_files_is_refused(load: SubjectCopy, cluster: str) -> None:
    class Changed(SubjectCopy):
        def digest(self) -> str:
            return super().digest() if os.getpid() == here else "other"

    here = os.getpid()
    with pytest.raises(InfrastructureError, match="other files or other code"):
        RayPool(Changed(load.model, device="cpu"), 1, address=cluster)


@pytest.mark.extra
def test_a_cluster_that_is_not_there_is_said_with_the_key(load: SubjectCopy) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        # Bound, and not listened on.
        address = f"127.0.0.1:{held.getsockname()[1]}"
        for given in (address, f"ray://{address}"):
            with pytest.raises(InfrastructureError, match="Ray cannot be reached") as caught:
                RayPool(load, 1, address=given)
            assert caught.value.where == "params.yaml: engine.address" and caught.value.retryable
