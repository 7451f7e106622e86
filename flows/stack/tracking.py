"""The MLflow server: PostgreSQL behind it, artifacts in S3 by way of it, logins for everybody."""

from __future__ import annotations

import sys

from flows.own_servers import answers
from flows.stack.installation import LOOPBACK
from flows.stack.postgres import MLFLOW, MLFLOW_USERS, Postgres
from flows.stack.private import write_private
from flows.stack.s3 import MLFLOW as BUCKET
from flows.stack.s3 import REGION, S3
from flows.stack.server import Server
from jpu.errors import InfrastructureError

# Anybody who has a login may read everything, and owns what they made.
_CONFIGURATION = """[mlflow]
default_permission = READ
database_uri = {database}
admin_username = {admin}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
# Each request checks a password, which is slow on purpose: a good one is remembered for a minute.
auth_cache_ttl_seconds = 60
"""


class Tracking(Server):
    """MLflow with its app `basic-auth`. Clients need its address and a login, and no key of S3's."""

    name = "mlflow"
    title = "MLflow"

    @property
    def address(self) -> str:
        """The tracking URI, and the page for browsers."""
        return self.installation.url("mlflow")

    def command(self) -> list[str]:
        """`mlflow server`; the address of its database has a password in it and goes by the environment."""
        command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"]
        command += ["--host", LOOPBACK, "--port", str(self.installation.ports["mlflow"])]
        # A line for each request would fill the disk of who leaves it running.
        return [*command, "--artifacts-destination", f"s3://{BUCKET}", "--uvicorn-opts", "--no-access-log"]

    def environment(self) -> dict[str, str]:
        """Where its database and its bucket are, with the logins for both."""
        credentials, port = self.installation.credentials, self.installation.ports["mlflow"]
        return super().environment() | {
            "MLFLOW_BACKEND_STORE_URI": Postgres(self.installation).uri(MLFLOW, "psycopg2"),
            "MLFLOW_AUTH_CONFIG_PATH": str(self.installation.private / "mlflow-auth.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": credentials.mlflow_admin.password,
            "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
            "MLFLOW_FLASK_SERVER_SECRET_KEY": credentials.signing["flask"],
            "MLFLOW_SERVER_ALLOWED_HOSTS": f"{LOOPBACK}:{port},localhost:{port}",
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": f"http://{LOOPBACK}:{port},http://localhost:{port}",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_S3_ENDPOINT_URL": S3(self.installation).address,
            "AWS_ACCESS_KEY_ID": credentials.s3_mlflow.user,
            "AWS_SECRET_ACCESS_KEY": credentials.s3_mlflow.password,
            "AWS_DEFAULT_REGION": REGION,
        }

    def prepare(self) -> None:
        """Write the configuration of its logins."""
        database = Postgres(self.installation).uri(MLFLOW_USERS, "psycopg2")
        admin = self.installation.credentials.mlflow_admin.user
        text = _CONFIGURATION.format(database=database, admin=admin)
        write_private(self.installation.private / "mlflow-auth.ini", text)

    def healthy(self, since: float) -> bool:
        """Whether its health page answers."""
        return answers(f"{self.address}/health")

    def provision(self) -> None:
        """The user of pipeline and people. Raises InfrastructureError where the server will not have them."""
        import httpx

        admin, user = self.installation.credentials.mlflow_admin, self.installation.credentials.mlflow
        reply = httpx.post(
            f"{self.address}/api/2.0/mlflow/users/create",
            json={"username": user.user, "password": user.password},
            auth=(admin.user, admin.password),
            timeout=30,
            trust_env=False,
        )
        if reply.status_code != 200 and "RESOURCE_ALREADY_EXISTS" not in reply.text:
            raise InfrastructureError(
                f"cannot add its user (HTTP {reply.status_code})",
                where=self.address,
                mend=f"See {self.installation.log(self.name)}.",
            )
