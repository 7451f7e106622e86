"""A real S3 server for tests: SeaweedFS on a free port of 127.0.0.1, with keys of its own and a bucket.

A conftest that imports the fixtures `s3` and `keys` has one for all tests of its folder.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

BUCKET = "jpu"
_PATIENCE = 60.0


class Server:
    """SeaweedFS in a folder; it can be killed and started again, with the same keys, port and contents.

    Attributes:
        endpoint: Its address.
        key: Access key of the user who may do everything.
        secret: That user's secret key.
        reader: Access key and secret of a user who may only read and list.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key, self.secret = secrets.token_hex(8), secrets.token_hex(20)
        self.reader = (secrets.token_hex(8), secrets.token_hex(20))
        # SeaweedFS serves gRPC on each port + 10000 unless told otherwise.
        self.ports = dict(zip(("s3", "master", "volume", "filer"), _free_ports(4), strict=True))
        self.endpoint = f"http://127.0.0.1:{self.ports['s3']}"
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._write_config()

    def start(self) -> Server:
        """Start it, and wait until it answers and the bucket is there."""
        ports, grpc = self.ports, _free_ports(4)
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [
                    Path(sys.executable).with_name("weed"),
                    "server",
                    f"-dir={self.folder}",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    f"-master.port={ports['master']}",
                    f"-volume.port={ports['volume']}",
                    f"-filer.port={ports['filer']}",
                    f"-master.port.grpc={grpc[0]}",
                    f"-volume.port.grpc={grpc[1]}",
                    f"-filer.port.grpc={grpc[2]}",
                    f"-s3.port.grpc={grpc[3]}",
                    "-master.volumeSizeLimitMB=64",
                    "-volume.max=0",
                    "-s3",
                    # Catalogues that would take ports 8181 and 9101, whoever has them.
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                    f"-s3.port={ports['s3']}",
                    f"-s3.config={self.folder / 's3.json'}",
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._wait()
        return self

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=20)
            self.process = None

    def environment(self) -> dict[str, str]:
        """The variables with which any S3 client finds it."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            # Neither the user's own profile, nor a proxy on the way to this machine.
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def client(self) -> Any:
        """A plain boto3 client, to look at it from outside."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, proxies={}),
        )

    def names(self, prefix: str = "", bucket: str = BUCKET) -> list[str]:
        """Every key of the bucket."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]

    def _write_config(self) -> None:
        everything = ["Admin", "Read", "Write", "List", "Tagging"]
        users = [("owner", self.key, self.secret, everything), ("reader", *self.reader, ["Read", "List"])]
        config = {
            "identities": [
                {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
                for name, key, secret, actions in users
            ]
        }
        with open(os.open(self.folder / "s3.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(config, file)

    def _wait(self) -> None:
        client, until = self.client(), time.monotonic() + _PATIENCE
        while True:
            try:
                if BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
                    client.create_bucket(Bucket=BUCKET)
                client.put_object(Bucket=BUCKET, Key="ready", Body=b"1")
                client.delete_object(Bucket=BUCKET, Key="ready")
                return
            except (BotoCoreError, ClientError) as error:
                if time.monotonic() > until or self.process is None or self.process.poll() is not None:
                    raise AssertionError((self.folder / "log").read_text(errors="replace")[-4000:]) from error
                time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("s3")).start()
    yield server
    server.kill()


@pytest.fixture
def keys(s3: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, with its address and keys in the environment."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    return s3
