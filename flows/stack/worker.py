"""Prefect's worker for the process work pool `jpu`: runs deployments on this machine, from this folder."""

from __future__ import annotations

import sys
from datetime import datetime

from flows.own_servers import CLIENTS
from flows.stack.environment import pipeline_variables
from flows.stack.server import Server

POOL = "jpu"
_NAME = "jpu-services"


class Worker(Server):
    """Makes the pool where it is missing. What it runs finds the services by the variables of environment.py."""

    name = "worker"
    title = "Worker"
    # A flow run that is under way is given the time to end its stage.
    grace = 20.0

    @property
    def address(self) -> str:
        """The pool: a worker listens nowhere."""
        return f"work pool {POOL}"

    def command(self) -> list[str]:
        """`prefect worker start`."""
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
        return [*command, "--name", _NAME, "--install-policy", "never"]

    def environment(self) -> dict[str, str]:
        """A client's, which the flow runs inherit."""
        return (
            super().environment()
            | pipeline_variables(self.installation)
            | CLIENTS
            | {
                "PREFECT_HOME": str(self.installation.folder / "prefect"),
                "PREFECT_LOGGING_COLORS": "false",
            }
        )

    def healthy(self, since: float) -> bool:
        """Whether the server has heard of it since it was started."""
        import httpx

        variables = pipeline_variables(self.installation)
        user, _, password = variables["PREFECT_API_AUTH_STRING"].partition(":")
        url = f"{variables['PREFECT_API_URL']}/work_pools/{POOL}/workers/filter"
        try:
            reply = httpx.post(url, json={}, auth=(user, password), timeout=5, trust_env=False)
        except httpx.HTTPError:
            return False
        found = reply.json() if reply.status_code == 200 else []
        beats = [worker["last_heartbeat_time"] for worker in found if worker["name"] == _NAME]
        return any(datetime.fromisoformat(beat).timestamp() >= since for beat in beats if beat)
