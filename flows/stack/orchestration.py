"""The Prefect server: PostgreSQL behind it, one login, its own names only."""

from __future__ import annotations

import sys

from flows.own_servers import answers
from flows.stack.installation import LOOPBACK
from flows.stack.postgres import PREFECT, Postgres
from flows.stack.private import private_folder
from flows.stack.server import Server

ALLOWED_HOSTS = "JPU_PREFECT_ALLOWED_HOSTS"


class Orchestration(Server):
    """Prefect's API, pages and services (scheduler, automations) in one process."""

    name = "prefect"
    title = "Prefect"

    @property
    def address(self) -> str:
        """The API."""
        return f"{self.installation.url('prefect')}/api"

    def command(self) -> list[str]:
        """Uvicorn, as `prefect server start` runs it, with flows/stack/prefect_app.py around Prefect's application."""
        command = [sys.executable, "-m", "uvicorn", "--factory", "flows.stack.prefect_app:application"]
        command += ["--host", LOOPBACK, "--port", str(self.installation.ports["prefect"])]
        return [*command, "--log-level", "warning", "--lifespan", "on", "--timeout-graceful-shutdown", "3"]

    def environment(self) -> dict[str, str]:
        """Where its database is, and its login."""
        login, page = self.installation.credentials.prefect, self.installation.url("prefect")
        return super().environment() | {
            "PREFECT_HOME": str(self.installation.folder / "prefect"),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": Postgres(self.installation).uri(PREFECT, "asyncpg"),
            "PREFECT_SERVER_API_AUTH_STRING": f"{login.user}:{login.password}",
            # Its own services are clients of the API.
            "PREFECT_API_AUTH_STRING": f"{login.user}:{login.password}",
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"{page},{page.replace(LOOPBACK, 'localhost')}",
            "PREFECT_UI_API_URL": self.address,
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
            # In files: from memory they would be gone with a restart, and the runs that hold them be ended.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            ALLOWED_HOSTS: f"{LOOPBACK},localhost",
        }

    def prepare(self) -> None:
        """Its home, for the pages that it serves."""
        private_folder(self.installation.folder / "prefect")

    def healthy(self, since: float) -> bool:
        """Whether the API says that it is well."""
        return answers(f"{self.address}/health")
