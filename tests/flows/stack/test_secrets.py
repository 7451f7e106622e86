"""No generated secret is anywhere but where it is kept; runs after the tests that have the services do something."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.stack import s3
from tests.services import Services

pytestmark = pytest.mark.e2e


def test_no_secret_in_any_log_file_database_bucket_or_process_list(services: Services) -> None:
    """Everything that the services have written, byte by byte, but for their private folder."""
    credentials = services.installation.credentials
    pipeline = s3.S3(services.installation).client(credentials.s3_pipeline)
    pipeline.put_object(Bucket=s3.DVC, Key="something", Body=b"something")
    wanted = [secret.encode() for secret in credentials.secrets()]
    private = services.installation.private
    assert all(secret in (private / "credentials.json").read_bytes() for secret in wanted)
    files = [file for file in services.root.rglob("*") if file.is_file() and not file.is_relative_to(private)]
    # Logs, PostgreSQL's tables and S3's volumes are among them.
    assert {"mlflow.log", "worker.log", "PG_VERSION", "screen.txt"} <= {file.name for file in files}
    assert {".dat", ".idx"} <= {file.suffix for file in files}
    found = [file for file in files for secret in wanted if secret in read(file)]
    lines = [Path(f"/proc/{process.pid}/cmdline").read_bytes() for process in services.processes()]
    assert len(lines) > 15
    assert found == []
    assert not [line for line in lines for secret in wanted if secret in line]


def read(file: Path) -> bytes:
    """Its bytes; nothing where PostgreSQL has just removed it."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""
