"""What a store of files is, whether a folder or an S3 prefix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jpu.errors import DataError, InfrastructureError

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""

MEBIBYTE = 1024 * 1024


class Changed(InfrastructureError):
    """A file was replaced, or is still being written, between two looks at it."""


@dataclass(frozen=True)
class Entry:
    """A file of a store as it was when it was listed.

    Attributes:
        name: Its name, relative to the store's root.
        size: Bytes.
        changed: When it was last written, seconds since the epoch.
        tag: Tells this version of the file from every other (an ETag; inode, size and time of a local file).
        plain: Whether it is a file; False for links, devices and their like, which are never opened.
    """

    name: str
    size: int
    changed: float
    tag: str
    plain: bool = True


class Store(Protocol):
    """Files under a root.

    Every method raises InfrastructureError where the server cannot be reached (worth another try), SettingsError for
    bad credentials, missing rights and a missing bucket, StorageError where a disk or a bucket is full.
    """

    always_whole: bool
    """Whether a file can be seen only when it is written to its end."""

    @property
    def where(self) -> str:
        """The root, as it may be shown."""

    def list(self, folder: str) -> Iterator[Entry]:
        """What lies in a folder, by name. A bucket may list what is deeper as well, with `/` in its name."""

    def read(self, entry: Entry, *, max_bytes: int) -> bytes:
        """The contents of exactly this version.

        Raises:
            Changed: It is not that version any more.
            DataError: It is larger than `max_bytes`, or gone.
        """

    def put(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all."""

    def move(self, entry: Entry, name: str) -> None:
        """Give a file another name. Its old one goes only when the new one holds the same contents.

        Asking again after a move that was interrupted, or done, is no error.

        Raises:
            Changed: It is not the version that was listed; that one stays where it is.
        """

    def present(self, names: Iterable[str]) -> set[str]:
        """Which of these files there are."""

    def upload(self, path: Path, name: str, *, progress: Progress | None = None) -> None:
        """Send a local file; one that was interrupted goes on where it was."""

    def download(self, name: str, path: Path, *, progress: Progress | None = None) -> None:
        """Bring a file here, whole or not at all; one that was interrupted goes on where it was."""


def too_large(where: str, max_bytes: int) -> DataError:
    """The error of a file over its limit."""
    return DataError(f"larger than {max_bytes / MEBIBYTE:g} MiB", where=where, mend="Split the file.")


def gone(where: str) -> DataError:
    """The error of a file that is not there."""
    return DataError("no such file", where=where, mend="Check the name, or that it was not taken by another run.")


def replaced(where: str) -> Changed:
    """The error of a file that is not the version that was listed."""
    return Changed("changed while it was read", where=where, mend="Wait until it is written, and run again.")
