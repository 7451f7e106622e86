"""The data folder changes from one version that data.dvc pins to the next, or not at all.

A journal says which files data/inbox/ had, so that what a killed or failed taking-in has written is removed again: its
files still lie in the inbox. DVC pins the whole at the end.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jpu import files
from jpu.errors import DataError, InfrastructureError, JpuError, SettingsError
from tasks.additions import INBOX
from tasks.locks import clear_stale_locks
from tasks.repository import DATA, data_hash, hash_path, open_repo

FOLDER = Path("data")
STATE = Path(".jpu/inbox")
JOURNAL = STATE / "journal.json"


class Version:
    """The version that is being made.

    Attributes:
        before: Hash that data.dvc pinned.
    """

    def __init__(self, before: str) -> None:
        self.before = before

    def pin(self) -> str:
        """Let data.dvc pin the folder as it is now; returns its hash. Raises InfrastructureError or StorageError."""
        after = hash_path(FOLDER)
        if after != self.before:
            # It would say how to commit data.dvc, which may be the caller's business.
            logging.getLogger("dvc.repo.scm_context").setLevel(logging.WARNING)
            with open_repo() as repo:
                repo.add(targets=[str(FOLDER)])
        JOURNAL.unlink(missing_ok=True)
        return after


@contextmanager
def versioned() -> Iterator[Version]:
    """Change data/inbox/ and pin it, one process at a time; where the body fails, the folder is as it was.

    Raises:
        DataError: The folder is not what data.dvc pins.
        InfrastructureError: Another taking-in runs.
        StorageError: The folder cannot be written.
    """
    STATE.mkdir(parents=True, exist_ok=True)
    with open(STATE / "lock", "a+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InfrastructureError(
                "another taking-in runs here", where=str(STATE / "lock"), mend="Wait for it to end."
            ) from None
        clear_stale_locks()
        version = Version(_settled())
        there = sorted(str(path) for path in _held())
        text = files.read_text(DATA) if version.before else ""
        files.write_json(JOURNAL, {"files": there, DATA: text})
        try:
            yield version
        except BaseException:
            _settled()
            raise


def _settled() -> str:
    """Undo what an unfinished taking-in has left; returns the hash that data.dvc pins.

    Raises:
        DataError: The folder differs from it all the same.
    """
    journal = _journal()
    if journal and not _pinned(journal):
        files.write_text(DATA, journal[DATA])
    pinned = data_hash()
    if pinned and FOLDER.exists() and hash_path(FOLDER) != pinned and journal:
        for path in _held():
            if str(path) not in journal["files"]:
                path.unlink()
    if pinned and (not FOLDER.exists() or hash_path(FOLDER) != pinned):
        raise DataError(
            f"the folder is not what {DATA} pins",
            where=str(FOLDER),
            mend=f"`jpu data` brings it where it is missing; `dvc add {FOLDER}` keeps your change; "
            f"`dvc checkout --force {DATA}` drops it. Nothing was taken in.",
        )
    JOURNAL.unlink(missing_ok=True)
    return pinned


def _pinned(journal: dict[str, Any]) -> bool:
    """Whether data.dvc can be read, and pins something where it did."""
    try:
        return bool(data_hash()) or not journal[DATA]
    except SettingsError:
        return False


def _journal() -> dict[str, Any]:
    try:
        found = files.read_json(JOURNAL)
        return found if isinstance(found, dict) and {"files", DATA} <= found.keys() else {}
    except JpuError:
        return {}


def _held() -> list[Path]:
    """Every file in data/inbox, also what a killed writer has left under a temporary name."""
    return sorted(path for path in INBOX.rglob("*") if path.is_file())
