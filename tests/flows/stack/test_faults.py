"""Whatever dies: its successor goes on with the same state, and nothing is left when all of it ends."""

from __future__ import annotations

import signal

import httpx
import psutil
import pytest

from flows.stack import s3
from flows.stack.record import Entry, read_record
from tests.services import Services, wait_until

pytestmark = pytest.mark.e2e


def runs(services: Services) -> int:
    """Have MLflow write a run with a file; how many there are, each with its file."""
    login = services.installation.credentials.mlflow
    with httpx.Client(
        base_url=services.client["MLFLOW_TRACKING_URI"] + "/api/2.0",
        auth=(login.user, login.password),
        trust_env=False,
        timeout=30,
    ) as client:
        found = client.get("mlflow/experiments/get-by-name", params={"experiment_name": "faults"})
        if found.status_code == 404:
            found = client.post("mlflow/experiments/create", json={"name": "faults"}).raise_for_status()
        experiment = found.json().get("experiment", found.json())["experiment_id"]
        client.post("mlflow/runs/create", json={"experiment_id": experiment}).raise_for_status()
        written = client.post("mlflow/runs/search", json={"experiment_ids": [experiment]}).json()["runs"]
        files = f"mlflow-artifacts/artifacts/{experiment}"
        client.put(f"{files}/{len(written)}.txt", content=b"figures").raise_for_status()
        assert all(client.get(f"{files}/{number + 1}.txt").content == b"figures" for number in range(len(written)))
        return len(written)


def pool(services: Services) -> str:
    """Id of the work pool, from Prefect's database."""
    login, url = services.installation.credentials.prefect, services.client["PREFECT_API_URL"]
    reply = httpx.get(f"{url}/work_pools/jpu", auth=(login.user, login.password), trust_env=False, timeout=20)
    return str(reply.json()["id"])


def kill(*entries: Entry) -> None:
    """Kill -9 the servers, behind the backs of their guards."""
    for entry in entries:
        for process in psutil.Process(entry.pid).children():
            process.kill()


def test_postgresql_dies_and_its_clients_live_on(services: Services) -> None:
    before, written, known = services.entry("PostgreSQL"), runs(services), pool(services)
    kill(before)
    wait_until(lambda: "PostgreSQL is up again." in services.screen())
    after = services.entry("PostgreSQL")
    assert (after.restarts, after.state) == (before.restarts + 1, "up")
    assert runs(services) == written + 1
    assert pool(services) == known
    assert [entry.title for entry in read_record(services.folder) if entry.restarts] == ["PostgreSQL"]


def test_all_die_at_once_and_go_on(services: Services) -> None:
    entries, written, known = read_record(services.folder), runs(services), pool(services)
    services.clear_screen()
    kill(*entries)
    wait_until(lambda: all(f"{entry.title} is up again." in services.screen() for entry in entries))
    assert runs(services) == written + 1
    assert pool(services) == known


def test_kill_9_of_the_supervisor_leaves_nothing_but_the_state(services: Services) -> None:
    written, known, installation = runs(services), pool(services), services.installation
    inbox = s3.S3(installation).client(installation.credentials.s3_pipeline)
    inbox.put_object(Bucket=s3.INBOX, Key="kept", Body=b"kept")
    processes = services.processes()
    assert len([process for process in processes if process.name() == "postgres"]) > 5
    services.end(signal.SIGKILL)
    wait_until(lambda: not [process for process in processes if running(process)])
    assert services.call("status").stdout == "No services run here. `jpu services` starts them.\n"
    # A shell may ask before the start, and is told that nobody is there yet.
    assert "do not run now" in services.call("env").stderr
    services.clear_screen()
    services.start()
    assert services.installation == installation
    assert inbox.get_object(Bucket=s3.INBOX, Key="kept")["Body"].read() == b"kept"
    assert (runs(services), pool(services)) == (written + 1, known)


def running(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
