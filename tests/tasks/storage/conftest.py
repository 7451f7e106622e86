"""One S3 server for all tests of storage, and stores on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.storage import Patience
from tasks.storage.s3 import Bucket
from tests.s3 import BUCKET, Server, keys, s3

__all__ = ["bucket", "keys", "s3"]


@pytest.fixture
def bucket(keys: Server, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Bucket]:
    """Makes a store at a prefix of this test's own."""

    def make(name: str = BUCKET, patience: Patience | None = None) -> Bucket:
        prefix = request.node.name.replace("[", "/").rstrip("]")
        return Bucket(name, prefix, patience or Patience(answer=20.0), tmp_path / "state")

    return make
