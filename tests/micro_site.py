"""A micro pipeline on real services, as a team has them: PostgreSQL, S3, MLflow, Prefect, and a worker that re-hardens.

The repository is that of tests/hardened.py; nothing of it is on SQLite or in a folder that stands for a bucket.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from flows.stack import s3
from flows.stack.environment import inbox_variables, pipeline_variables
from tasks.store import open_client
from tasks.versions import Version, find_version
from tests.hardened import git, make_repository
from tests.micro import params
from tests.services import Services, open_folder, running_services, wait_until

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

MODEL = "jpu-micro"
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
# Utility figures, whose gates are as strict here as a model of two layers allows, which is not at all.
SHARES = (
    *("over_refusal", "over_refusal_in_template", "benign_recall", "benign_in_template_recall"),
    *("near_miss_recall", "near_miss_in_template_recall", "direct_refusal", "incoherent"),
)
HIGH = (
    "benign_recall",
    "benign_in_template_recall",
    "near_miss_recall",
    "near_miss_in_template_recall",
    "direct_refusal",
)


def settings(kl: float, reproduce: Sequence[str] = (), **reharden: Any) -> str:
    """params.yaml of the micro pipeline, with one gate that a micro model can be held to: the KL to the subject.

    Args:
        kl: The most that a challenger may have, in nats per token.
        reproduce: Stages that are run once more.
        reharden: Of section `reharden`.
    """
    document = json.loads(params(1))
    document["gates"] = {
        **{"worst_by": 1.0, "attack_by": 1.0, "family_by": 1.0},
        "tolerance": {**dict.fromkeys(SHARES, 1.0), "kl": kl},
        "limits": {**dict.fromkeys(SHARES, 1.0), **dict.fromkeys(HIGH, 0.0), "kl": kl},
        "reproduce": list(reproduce),
    }
    document["reharden"] = {
        **{"bounds": {}, "new_families": True, "new_behaviors": 1},
        "drift": {**dict.fromkeys(SHARES, 1.0), "kl": 99.0},
        **reharden,
    }
    return json.dumps(document, indent=2)


@dataclass
class Site:
    """The repository and its services.

    Attributes:
        root: The repository, in which the services and their worker run too.
        services: The services.
    """

    root: Path
    services: Services
    said: list[str] = field(default_factory=list)

    def run(self, *command: str, folder: Path | None = None, timeout: float = 2400) -> str:
        """A command in a shell that has the services' variables; what it printed."""
        done = subprocess.run(
            command,
            cwd=folder or self.root,
            env=self.environment(folder or self.root),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        self.said.append(done.stdout + done.stderr)
        assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def jpu(self, *arguments: str) -> str:
        """A command of ours, with the repository's code."""
        return self.run(sys.executable, "-m", "flows.cli", *arguments)

    def dvc(self, *arguments: str, folder: Path | None = None) -> str:
        return self.run(sys.executable, "-m", "dvc", *arguments, folder=folder)

    def environment(self, folder: Path) -> dict[str, str]:
        """What `eval "$(jpu services env)"` gives a shell."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        mine = {"PATH": path, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1"}
        return self.services.client | mine

    def git(self, *arguments: str) -> str:
        return git(self.root, *arguments)

    @property
    def client(self) -> MlflowClient:
        return open_client()

    def version(self, text: str) -> Version:
        return find_version(self.client, f"{MODEL}/{text}")

    def champion(self) -> str:
        """What is served; asserts that the branch is where the alias is."""
        champion = self.version("champion")
        assert self.git("rev-parse", "refs/heads/jpu/micro/champion") == champion.lock_commit
        return champion.name

    def drop(self, name: str, rows: Sequence[Mapping[str, str]] | bytes) -> None:
        """Put a file into the inbox, as whoever may do nothing else."""
        data = rows if isinstance(rows, bytes) else "".join(f"{json.dumps(row)}\n" for row in rows).encode()
        installation = self.services.installation
        bucket = s3.S3(installation).client(installation.credentials.s3_inbox)
        bucket.put_object(Bucket=s3.INBOX, Key=f"{s3.INCOMING}/templates/{name}", Body=data)
        assert inbox_variables(installation)["JPU_INBOX"] == f"s3://{s3.INBOX}/{s3.INCOMING}"

    def inbox(self) -> list[str]:
        """Every file of the inbox."""
        installation = self.services.installation
        bucket = s3.S3(installation).client(installation.credentials.s3_pipeline)
        found = bucket.list_objects_v2(Bucket=s3.INBOX, Prefix=f"{s3.INCOMING}/").get("Contents", [])
        return [item["Key"].removeprefix(f"{s3.INCOMING}/") for item in found]

    def prefect(self, path: str, body: Any = None) -> Any:
        """Ask Prefect's API: GET, or POST where there is a body; tried again while it is away."""
        login = self.services.installation.credentials.prefect
        end = time.monotonic() + 120
        while True:
            try:
                with httpx.Client(auth=(login.user, login.password), trust_env=False, timeout=30) as client:
                    url = f"{self.services.client['PREFECT_API_URL']}/{path}"
                    reply = client.get(url) if body is None else client.post(url, json=body)
                    return reply.raise_for_status().json() if reply.content else None
            except httpx.HTTPError:
                if time.monotonic() > end:
                    raise
                time.sleep(1)

    def runs(self) -> list[dict[str, Any]]:
        """Flow runs of the deployment, the newest first."""
        body = {"flows": {"name": {"any_": ["reharden"]}}, "sort": "EXPECTED_START_TIME_DESC"}
        found = self.prefect("flow_runs/filter", body)
        return [run for run in found if run["state_name"] != "Scheduled"]

    def start(self, **parameters: str) -> str:
        """Have the deployment run now; the run's id."""
        deployment = self.prefect("deployments/name/reharden/champion")["id"]
        return str(self.prefect(f"deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"])

    def state(self, run: str) -> str:
        return str(self.prefect(f"flow_runs/{run}")["state_type"])

    def logs(self, run: str) -> str:
        """What the worker's process for a run has said, and Prefect keeps."""
        wanted = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        said: list[str] = []
        while page := self.prefect("logs/filter", {**wanted, "offset": len(said)}):
            said += [line["message"] for line in page]
        return "\n".join(said)

    def wait_for(self, run: str, seconds: float = 2400) -> str:
        """The state that a run ends in."""
        wait_until(lambda: self.state(run) in ENDED, seconds)
        return self.state(run)

    def told(self) -> dict[str, Any]:
        """What the newest re-hardening has left in MLflow."""
        experiment = self.client.get_experiment_by_name(MODEL).experiment_id
        (run,) = self.client.search_runs(
            [experiment], "tags.`jpu.stage` = 'reharden'", max_results=1, order_by=["attributes.start_time DESC"]
        )
        file = self.client.download_artifacts(run.info.run_id, "rehardening.json")
        return {**json.loads(Path(file).read_text()), "status": run.info.status}

    def ended_within(self, run: str, seconds: float) -> str:
        """The state of a run once it has ended, or after so long."""
        end = time.monotonic() + seconds
        while (state := self.state(run)) not in ENDED and time.monotonic() < end:
            time.sleep(0.5)
        return state

    def names(self, *runs: str) -> set[str]:
        """What Prefect calls the states of runs."""
        return {str(self.prefect(f"flow_runs/{run}")["state_name"]) for run in runs}

    def tasks(self, run: str, name: str) -> list[str]:
        """States of the tasks of a run that have this name."""
        wanted = {"flow_runs": {"id": {"any_": [run]}}}
        return [t["state_type"] for t in self.prefect("task_runs/filter", wanted) if t["name"].startswith(f"{name}-")]


@contextmanager
def site(patch: pytest.MonkeyPatch, settings: str, folder: Path | None = None) -> Iterator[Site]:
    """A repository whose services are up, with the deployment and S3 as DVC's remote; nothing is hardened yet.

    Args:
        patch: Gives this process the services' variables.
        settings: params.yaml.
        folder: Where; open to all. One of its own where none is given.
    """
    with nullcontext(folder) if folder else open_folder() as folder:
        make_repository(folder / "here", settings)
        root = folder / "here"
        with running_services(root, code=root) as services:
            for name in list(os.environ):
                if name.startswith(("JPU_", "MLFLOW_", "PREFECT_", "DVC_", "GIT_", "AWS_")):
                    patch.delenv(name)
            for name, value in pipeline_variables(services.installation).items():
                patch.setenv(name, value)
            here = Site(root, services)
            here.run(
                sys.executable, "-m", "dvc", "remote", "add", "--local", "-d", "jpu", services.client["JPU_REMOTE"]
            )
            here.jpu("schedule")
            yield here
