"""What the services are for: DVC, MLflow and Prefect's clients find them by the printed variables alone."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from flows.stack import s3
from flows.stack.environment import pipeline_variables
from tests.services import Services

pytestmark = pytest.mark.e2e


def run(services: Services, script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=services.root,
        env=services.client,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_shell_gets_what_a_client_needs(services: Services) -> None:
    printed = services.call("env").stdout
    # Through a shell, as a person would: quoting that is wrong would show.
    shell = subprocess.run(["/bin/sh", "-c", f"{printed}\nenv"], capture_output=True, text=True, check=True).stdout
    wanted = pipeline_variables(services.installation)
    assert set(wanted) > {"MLFLOW_TRACKING_URI", "PREFECT_API_URL", "AWS_SECRET_ACCESS_KEY", "JPU_REMOTE"}
    assert [f"{name}={value}" for name, value in wanted.items() if f"{name}={value}" not in shell.splitlines()] == []


def test_who_writes_to_the_inbox_gets_that_login_alone(services: Services) -> None:
    printed = services.call("env", "--inbox").stdout
    credentials = services.installation.credentials
    assert credentials.s3_inbox.password in printed
    assert [secret for secret in credentials.secrets() if secret in printed] == [credentials.s3_inbox.password]


def test_status_shows_all_of_them_up(services: Services) -> None:
    shown = services.call("status")
    assert shown.returncode == 0
    rows = [line for line in shown.stdout.splitlines() if line.startswith("│")]
    assert [row.split("│")[1].strip() for row in rows] == ["PostgreSQL", "S3", "MLflow", "Prefect", "Worker"]
    assert all("│ up " in row for row in rows)


def test_a_second_start_is_refused(services: Services) -> None:
    done = services.call()
    assert done.returncode == 2
    assert f"its services run already (process {services.process.pid})" in done.stderr
    assert services.call("status").returncode == 0


def test_mlflow_keeps_records_in_postgresql_and_files_in_s3(services: Services) -> None:
    said = run(
        services,
        """
        from pathlib import Path
        from mlflow.tracking import MlflowClient
        client = MlflowClient()
        experiment = client.create_experiment("used")
        run = client.create_run(experiment).info.run_id
        Path("figures.txt").write_text("0.5")
        client.log_artifact(run, "figures.txt")
        client.create_registered_model("used")
        client.create_model_version("used", f"runs:/{run}/figures.txt", run)
        client.set_registered_model_alias("used", "champion", "1")
        print(client.get_run(run).info.artifact_uri, client.get_model_version_by_alias("used", "champion").version)
        """,
    )
    uri, version = said.split()
    assert uri.startswith("mlflow-artifacts:/")
    assert version == "1"
    login = services.installation.credentials.s3_mlflow
    key = uri.removeprefix("mlflow-artifacts:/") + "/figures.txt"
    assert s3.S3(services.installation).client(login).get_object(Bucket=s3.MLFLOW, Key=key)["Body"].read() == b"0.5"


def test_dvc_pushes_and_pulls_with_nothing_but_the_environment(services: Services) -> None:
    folder = services.root / "dvc"
    folder.mkdir()

    def dvc(*arguments: str) -> None:
        command = [sys.executable, "-m", "dvc", *arguments]
        done = subprocess.run(command, cwd=folder, env=services.client, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    dvc("init", "-q", "--no-scm")
    dvc("remote", "add", "--local", "-d", "jpu", services.client["JPU_REMOTE"])
    (folder / "data").write_text("a behavior")
    dvc("add", "-q", "data")
    dvc("push", "-q")
    (folder / "data").unlink()
    for cached in (folder / ".dvc/cache").rglob("*"):
        if cached.is_file():
            cached.unlink()
    dvc("pull", "-q")
    assert (folder / "data").read_text() == "a behavior"
    written = (folder / ".dvc/config.local").read_text() + (folder / ".dvc/config").read_text()
    assert services.installation.credentials.redacted(written) == written


def test_the_worker_runs_a_deployment(services: Services) -> None:
    (services.root / "deployed.py").write_text(
        textwrap.dedent(
            """
            import os
            from pathlib import Path
            from prefect import flow

            @flow
            def note():
                Path("noted.txt").write_text(os.environ["MLFLOW_TRACKING_URI"])
            """
        )
    )
    said = run(
        services,
        """
        from pathlib import Path
        from prefect import flow
        from prefect.deployments import run_deployment
        source = flow.from_source(str(Path.cwd()), "deployed.py:note")
        source.deploy("by-hand", work_pool_name="jpu", print_next_steps=False)
        print(run_deployment("note/by-hand", timeout=120, poll_interval=0.5).state.name)
        """,
    )
    assert said.split()[-1] == "Completed"
    assert (services.root / "noted.txt").read_text() == services.client["MLFLOW_TRACKING_URI"]


def test_the_worker_runs_what_is_on_a_schedule(services: Services) -> None:
    """SQLAlchemy 2.1 satisfies Prefect's metadata, and with it no run is ever put on the schedule."""
    (services.root / "scheduled.py").write_text("from prefect import flow\n\n@flow\ndef tick():\n    pass\n")
    said = run(
        services,
        """
        import time
        from pathlib import Path
        from prefect import flow
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
        source = flow.from_source(str(Path.cwd()), "scheduled.py:tick")
        deployment = source.deploy("often", work_pool_name="jpu", interval=5, print_next_steps=False)
        with get_client(sync_client=True) as client:
            mine = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
            end, done = time.monotonic() + 150, []
            while not done and time.monotonic() < end:
                time.sleep(1)
                runs = client.read_flow_runs(deployment_filter=mine)
                done = [run for run in runs if run.auto_scheduled and run.state.is_completed()]
            client.delete_deployment(deployment)
        print("ran" if done else "never ran")
        """,
    )
    assert said.split()[-1] == "ran"


def test_one_run_at_a_time_on_all_machines_of_a_server(services: Services) -> None:
    said = run(
        services,
        """
        from flows import limit
        from jpu.errors import InfrastructureError
        limit._PATIENCE = 2.0
        with limit.one_everywhere("jpu-test"):
            try:
                with limit.one_everywhere("jpu-test"):
                    print("two at once")
            except InfrastructureError as error:
                print(error)
        with limit.one_everywhere("jpu-test"):
            print("free again")
        """,
    )
    assert "another run is under way, here or on another machine" in said and "two at once" not in said
    assert said.rstrip().endswith("free again")
