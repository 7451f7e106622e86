"""What the supervisor asks of a server."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import ClassVar

from flows.stack.installation import Installation
from tasks.environment import quiet

# The user's own settings for clients are none of a server's: it would pick up keys and addresses from them.
_CLIENTS = ("AWS_", "MLFLOW_", "PREFECT_", "WEED_", "PG", "JPU_")


class Server(ABC):
    """One server: how it is started, and how to tell that it is well.

    Attributes:
        name: Of its log and its place in records.
        title: As people know it.
        grace: Seconds between SIGINT and SIGTERM when it is ended.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    grace: ClassVar[float] = 5.0

    def __init__(self, installation: Installation) -> None:
        self.installation = installation

    @property
    @abstractmethod
    def address(self) -> str:
        """Where clients find it."""

    @abstractmethod
    def command(self) -> list[str]:
        """Program and arguments; never a secret among them, for everybody can read those."""

    @abstractmethod
    def healthy(self, since: float) -> bool:
        """Whether the process that was started at `since` (seconds since the epoch) serves; told in a few seconds."""

    def environment(self) -> dict[str, str]:
        """The whole environment of its process."""
        return clean_environment()

    def prepare(self) -> None:
        """Make what must be there before it starts. Runs before every start."""
        return

    def provision(self) -> None:
        """Make what it shall hold, through itself. Runs when it first serves, and does again only what is missing."""
        return

    def leftovers(self) -> None:
        """Remove what it leaves outside the installation's folder. Runs after it has ended."""
        return


def clean_environment() -> dict[str, str]:
    """This process's environment without the user's settings for clients of the services; telemetry off."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(_CLIENTS)}
    quiet(environment)
    environment["PYTHONUNBUFFERED"] = "1"
    return environment
