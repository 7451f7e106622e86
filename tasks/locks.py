"""DVC's read/write lock, cleared of what killed processes have left in it.

DVC's main lock is the kernel's and ends with its process; `.dvc/tmp/rwlock` is a JSON file that names process ids.
DVC drops an entry of a dead process when it stands in the way, but takes any process that was since given that
number for the owner (in a container that happens at once), and refuses a file that a kill has cut short.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jpu.errors import InfrastructureError
from jpu.files import write_json


def clear_stale_locks(root: Path | str = ".") -> list[int]:
    """Drop entries of processes that are gone, and a lock file that cannot be read.

    Returns:
        The process ids whose entries were dropped.

    Raises:
        InfrastructureError: Another process keeps the file locked.
    """
    path = Path(root) / ".dvc" / "tmp" / "rwlock"
    if not path.exists():
        return []
    from dvc.lock import LockError, make_lock

    try:
        with make_lock(str(path.with_name("rwlock.lock")), tmp_dir=str(path.parent)):
            return _clear(path)
    except LockError as error:
        raise InfrastructureError(
            "held by another process", where=str(path), mend="Wait for the other DVC to end."
        ) from error


def _clear(path: Path) -> list[int]:
    try:
        lock = json.loads(path.read_text(encoding="utf-8"))
        write: dict[str, Any] = lock.get("write", {})
        read: dict[str, Any] = lock.get("read", {})
        entries = [*filter(None, write.values()), *(entry for group in read.values() for entry in group)]
        dead = {int(entry["pid"]) for entry in entries if not _dvc_lives(entry)}
    except (ValueError, AttributeError, TypeError, KeyError):
        path.unlink()
        return []
    if dead:
        kept = {
            "write": {key: entry for key, entry in write.items() if entry and int(entry["pid"]) not in dead},
            "read": {key: [e for e in group if int(e["pid"]) not in dead] for key, group in read.items()},
        }
        write_json(path, {"write": kept["write"], "read": {key: group for key, group in kept["read"].items() if group}})
    return sorted(dead)


def _dvc_lives(entry: Mapping[str, Any]) -> bool:
    """Whether the entry's process runs and is a DVC, not another one under the same number."""
    import psutil

    try:
        return "dvc" in " ".join(psutil.Process(int(entry["pid"])).cmdline())
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
