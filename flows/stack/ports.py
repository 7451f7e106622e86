"""Ports of the services: chosen once and kept, so that addresses in shells and browsers stay good."""

from __future__ import annotations

import random
from pathlib import Path

from flows.own_servers import free_port
from jpu.errors import DataError, SettingsError
from jpu.files import read_json, write_json

# The ones that people use, then those on which the parts of SeaweedFS talk to each other.
PUBLIC = ("postgres", "s3", "mlflow", "prefect")
INTERNAL = ("master", "master_grpc", "volume", "volume_grpc", "filer", "filer_grpc", "s3_grpc")
# Below the range from which the kernel takes ports for outgoing connections: what is free stays free.
_RANGE = range(20000, 30000)


def keep_ports(path: Path) -> dict[str, int]:
    """Read the ports in `path`; where there is no such file, choose free ones and write it.

    Raises:
        DataError: The file is broken.
    """
    names = (*PUBLIC, *INTERNAL)
    if not path.exists():
        chosen = dict(zip(names, _choose(len(names)), strict=True))
        write_json(path, chosen)
        return chosen
    known = read_json(path)
    if not isinstance(known, dict) or any(type(known.get(name)) is not int for name in names):
        raise DataError("not the ports of the services", where=str(path), mend="Remove it: new ones are chosen.")
    return {name: known[name] for name in names}


def check_free(ports: dict[str, int], where: Path) -> None:
    """Make sure that nobody listens on any of them. Raises SettingsError."""
    for name, port in ports.items():
        try:
            free_port(port)
        except SettingsError as error:
            raise SettingsError(
                f"port {port} ({name}) is taken",
                where=str(where),
                mend="End what listens there, or remove that file: new ports are chosen.",
            ) from error


def _choose(count: int) -> list[int]:
    found: list[int] = []
    for port in random.SystemRandom().sample(_RANGE, len(_RANGE)):
        try:
            found.append(free_port(port))
        except SettingsError:
            continue
        if len(found) == count:
            return found
    raise SettingsError("no free ports", where=f"127.0.0.1:{_RANGE.start}-{_RANGE.stop - 1}", mend="End some servers.")
