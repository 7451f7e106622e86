"""boto3's S3 client: time limits, retries, and nothing that a bucket elsewhere than at AWS would stumble over.

Credentials, endpoint and region come from the environment or the AWS tools' own files, never from params.yaml.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from jpu.data.fetch import shown
from tasks.storage.patience import Patience

CONNECTIONS = 16


def make_client(patience: Patience) -> Any:
    """The client. Safe to share between threads; asks nothing of the server."""
    client = _client(patience, "auto")
    host = urlsplit(client.meta.endpoint_url).hostname or ""
    # Other servers are not found under BUCKET.HOST.
    return client if host.endswith((".amazonaws.com", ".amazonaws.com.cn")) else _client(patience, "path")


def endpoint(client: Any) -> str:
    """The address of the server, without user and password."""
    return shown(str(client.meta.endpoint_url))


def _client(patience: Patience, style: str) -> Any:
    return boto3.session.Session().client(
        "s3",
        config=Config(
            connect_timeout=patience.connect,
            read_timeout=patience.answer,
            # Not adaptive: its own rate limit slows every thread down after one error.
            retries={"mode": "standard", "total_max_attempts": patience.attempts},
            max_pool_connections=CONNECTIONS,
            tcp_keepalive=True,
            s3={"addressing_style": style},
        ),
    )
