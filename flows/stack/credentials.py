"""Passwords and keys of the services: drawn once, kept in one file that only its owner may read."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from flows.stack.private import write_private
from jpu.errors import DataError
from jpu.files import read_json

HIDDEN = "…"


@dataclass(frozen=True)
class Login:
    """A user and their password, or an access key and its secret."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Credentials:
    """Every login and key. Each one may do what its holder needs, and no more.

    Attributes:
        postgres: PostgreSQL's superuser: makes the databases, and is used by nobody else.
        mlflow_database: Owner of MLflow's two databases.
        prefect_database: Owner of Prefect's database.
        s3_admin: Makes the buckets.
        s3_pipeline: Reads and writes DVC's bucket and the inbox.
        s3_mlflow: Reads and writes MLflow's bucket: the MLflow server's own.
        s3_inbox: Whoever drops files into the inbox: may write there, and read nothing.
        mlflow_admin: MLflow's administrator.
        mlflow: MLflow's user for pipeline and people.
        prefect: Prefect's one login.
        signing: Keys with which the servers sign tokens for each other: S3's four, and Flask's.
    """

    postgres: Login
    mlflow_database: Login
    prefect_database: Login
    s3_admin: Login
    s3_pipeline: Login
    s3_mlflow: Login
    s3_inbox: Login
    mlflow_admin: Login
    mlflow: Login
    prefect: Login
    signing: dict[str, str] = field(repr=False)

    def secrets(self) -> list[str]:
        """Everything that nobody but its holder may see."""
        logins = [getattr(self, f.name) for f in fields(self) if f.name != "signing"]
        return [*(login.password for login in logins), *self.signing.values()]

    def redacted(self, text: str) -> str:
        """`text` without any secret."""
        for secret in self.secrets():
            text = text.replace(secret, HIDDEN)
        return text


def keep_credentials(path: Path) -> Credentials:
    """Read the credentials in `path`; where there is no such file, draw new ones and write it, mode 0600.

    Raises:
        DataError: The file is broken.
        StorageError: It cannot be written.
    """
    if not path.exists():
        drawn = _draw()
        write_private(path, json.dumps(asdict(drawn), indent=2) + "\n")
        return drawn
    known = read_json(path)
    try:
        logins = {f.name: Login(**known[f.name]) for f in fields(Credentials) if f.name != "signing"}
        return Credentials(**logins, signing={key: str(value) for key, value in known["signing"].items()})
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            "not the credentials of the services",
            where=str(path),
            mend="Restore it. Without it their data are of no use: then remove the whole folder.",
        ) from error


def _draw() -> Credentials:
    def login(user: str) -> Login:
        return Login(user, secrets.token_urlsafe(24))

    def key() -> Login:
        return Login(f"JPU{secrets.token_hex(8).upper()}", secrets.token_urlsafe(30))

    return Credentials(
        postgres=login("postgres"),
        mlflow_database=login("mlflow"),
        prefect_database=login("prefect"),
        s3_admin=key(),
        s3_pipeline=key(),
        s3_mlflow=key(),
        s3_inbox=key(),
        mlflow_admin=login("admin"),
        mlflow=login("jpu"),
        prefect=login("jpu"),
        signing={name: secrets.token_urlsafe(32) for name in ("write", "read", "filer_write", "filer_read", "flask")},
    )
