"""The variables by which clients find the services and log in."""

from __future__ import annotations

import shlex

from flows.stack.installation import Installation
from flows.stack.orchestration import Orchestration
from flows.stack.s3 import DVC, INBOX, INCOMING, REGION, S3
from flows.stack.tracking import Tracking


def pipeline_variables(installation: Installation) -> dict[str, str]:
    """What `jpu`, DVC, MLflow's and Prefect's clients read: for people, flows and workers."""
    credentials = installation.credentials
    return {
        "MLFLOW_TRACKING_URI": Tracking(installation).address,
        "MLFLOW_TRACKING_USERNAME": credentials.mlflow.user,
        "MLFLOW_TRACKING_PASSWORD": credentials.mlflow.password,
        "PREFECT_API_URL": Orchestration(installation).address,
        "PREFECT_API_AUTH_STRING": f"{credentials.prefect.user}:{credentials.prefect.password}",
        **_s3_variables(installation, credentials.s3_pipeline.user, credentials.s3_pipeline.password),
        "JPU_REMOTE": f"s3://{DVC}",
        "JPU_INBOX": f"s3://{INBOX}/{INCOMING}",
    }


def inbox_variables(installation: Installation) -> dict[str, str]:
    """What whoever drops files into the inbox needs, and no more."""
    login = installation.credentials.s3_inbox
    return {**_s3_variables(installation, login.user, login.password), "JPU_INBOX": f"s3://{INBOX}/{INCOMING}"}


def exports(variables: dict[str, str]) -> str:
    """`export NAME=VALUE` lines for a shell."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())


def _s3_variables(installation: Installation, key: str, secret: str) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL_S3": S3(installation).address,
    }
