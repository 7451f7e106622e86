"""What is decided at the first start of the services and kept: folder, ports, credentials."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from flows.own_servers import HOME
from flows.stack.credentials import Credentials, keep_credentials
from flows.stack.ports import keep_ports
from flows.stack.private import private_folder
from jpu.errors import SettingsError

FOLDER = HOME / "services"
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Installation:
    """The services of one working tree.

    Attributes:
        folder: All their state is below it.
        ports: Name → port of 127.0.0.1.
        credentials: Logins and keys.
    """

    folder: Path
    ports: dict[str, int]
    credentials: Credentials

    @classmethod
    def make(cls, folder: Path = FOLDER) -> Installation:
        """Read what an earlier start has kept, or decide it now. Raises DataError or StorageError."""
        folder = folder.absolute()
        private_folder(folder)
        if os.geteuid() == 0:
            # PostgreSQL runs as another user then, who has to pass through here.
            folder.chmod(0o711)
        for name in ("private", "logs"):
            private_folder(folder / name)
        return cls(folder, keep_ports(folder / "ports.json"), keep_credentials(folder / "private/credentials.json"))

    @classmethod
    def read(cls, folder: Path = FOLDER) -> Installation:
        """Read what an earlier start has kept. Raises SettingsError where there was none, DataError, StorageError."""
        if not (folder / "private/credentials.json").exists():
            raise SettingsError("no services were ever started here", where=str(folder), mend="Run `jpu services`.")
        return cls.make(folder)

    @property
    def private(self) -> Path:
        """Folder of what only the services may read: credentials, and configuration that holds some."""
        return self.folder / "private"

    def log(self, name: str) -> Path:
        """Where the output of server `name` goes."""
        return self.folder / "logs" / f"{name}.log"

    def at(self, port: str) -> str:
        """`127.0.0.1:PORT` of a named port."""
        return f"{LOOPBACK}:{self.ports[port]}"

    def url(self, port: str) -> str:
        """`http://127.0.0.1:PORT` of a named port."""
        return f"http://{self.at(port)}"
