"""A local folder as a store."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jpu import files
from jpu.errors import DataError, StorageError
from tasks.storage.base import Entry, Progress, gone, replaced, too_large


class Folder:
    """The files under a local folder. Links are listed and never followed; folders are not descended into."""

    always_whole = False

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def where(self) -> str:
        """The folder."""
        return str(self.root)

    def list(self, folder: str) -> Iterator[Entry]:
        """What lies directly in a folder; nothing where there is no such folder."""
        with _storage_errors(self.root / folder):
            try:
                found = sorted(os.scandir(self.root / folder), key=lambda entry: entry.name)
            except FileNotFoundError:
                return
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    continue
                try:
                    info = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                yield Entry(
                    f"{folder}/{entry.name}", info.st_size, info.st_mtime, _tag(info), stat.S_ISREG(info.st_mode)
                )

    def read(self, entry: Entry, *, max_bytes: int) -> bytes:
        """The contents of exactly this version. Raises Changed, DataError or StorageError."""
        path = self.root / entry.name
        if not entry.plain:
            raise DataError("not a plain file", where=str(path), mend="Put the file itself there.")
        with _storage_errors(path):
            try:
                # Not blocking: a pipe that took the file's place would keep us for ever.
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                raise gone(str(path)) from None
            with open(descriptor, "rb") as file:
                if _tag(os.fstat(descriptor)) != entry.tag:
                    raise replaced(str(path))
                data = file.read(max_bytes + 1)
                if _tag(os.fstat(descriptor)) != entry.tag:
                    raise replaced(str(path))
        if len(data) > max_bytes:
            raise too_large(str(path), max_bytes)
        return data

    def put(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all. Raises StorageError."""
        files.write_bytes(self.root / name, data)

    def move(self, entry: Entry, name: str) -> None:
        """Rename it. Raises Changed or StorageError."""
        source, target = self.root / entry.name, self.root / name
        with _storage_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                if _tag(os.lstat(source)) != entry.tag:
                    raise replaced(str(source))
                os.rename(source, target)
            except FileNotFoundError:
                if target.exists():
                    return
                raise gone(str(source)) from None
            if _tag(os.lstat(target)) != entry.tag:
                # Replaced in between, and we have moved the newer one: it goes back.
                os.rename(target, source)
                raise replaced(str(source))

    def present(self, names: Iterable[str]) -> set[str]:
        """Which of these files there are."""
        return {name for name in names if (self.root / name).is_file()}

    def upload(self, path: Path, name: str, *, progress: Progress | None = None) -> None:
        """Copy a local file into the folder. Raises DataError or StorageError."""
        _copy(path, self.root / name, progress)

    def download(self, name: str, path: Path, *, progress: Progress | None = None) -> None:
        """Copy a file out of the folder. Raises DataError or StorageError."""
        _copy(self.root / name, path, progress)


def _copy(source: Path, target: Path, progress: Progress | None) -> None:
    if not source.is_file():
        raise gone(str(source))
    with files.atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
    if progress:
        progress(target.stat().st_size, target.stat().st_size)


def _tag(info: os.stat_result) -> str:
    return f"{info.st_dev}-{info.st_ino}-{info.st_size}-{info.st_mtime_ns}"


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot be used ({error.strerror or error})",
            where=str(error.filename or path),
            mend="Check that it is a file, its rights, and the disk.",
        ) from error
