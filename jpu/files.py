"""Files that are either whole or not there, and readers that say where a file is broken.

Everything that the pipeline writes goes through here: into a temporary name beside the target, flushed to the
disk, then renamed over it. A failure or a kill leaves the target as it was; what a kill leaves behind under a
temporary name is removed by the next writer of the same target.

Does not lock: two writers of one target each write a whole file, and the last one stays.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from jpu.errors import DataError, JpuError, StorageError
from jpu.parsing import decode, parse_json, parse_jsonl

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_TEMPORARY = re.compile(r"-(\d+)-[0-9a-f]{8}\.tmp$")


# Writing


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path to write one file to; rename it to `path` when the body ends well.

    For writers that want a path (safetensors, tokenizers). Parent folders are made. Whatever the body raises,
    the temporary file is removed and `path` stays as it was.

    Raises:
        StorageError: The file cannot be written (full disk, rights, read-only file system).
    """
    target = Path(path)
    with _storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        temporary = _temporary(target)
        try:
            yield temporary
            _sync(temporary)
            os.replace(temporary, target)
            _sync(target.parent)
        finally:
            _remove(temporary)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield a new temporary folder; it takes the place of `path`, whole, when the body ends well.

    An old folder of that name is set aside first, and put back if the exchange fails.

    Raises:
        StorageError: The folder cannot be written (full disk, rights, read-only file system).
    """
    target = Path(path)
    with _storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        temporary, aside = _temporary(target), _temporary(target)
        try:
            temporary.mkdir()
            yield temporary
            for written in (*temporary.rglob("*"), temporary):
                _sync(written)
            _exchange(temporary, target, aside)
            _sync(target.parent)
        except StorageError as error:
            # A file that was written into the folder: the user knows it by its final name.
            error.where = (error.where or "").replace(str(temporary), str(target))
            raise
        finally:
            _remove(temporary)
            _remove(aside)


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all. Raises StorageError."""
    with atomic_path(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with open(descriptor, "wb") as file:
            file.write(data)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all. Raises StorageError."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys: equal values give equal bytes. Raises StorageError."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_jsonl(path: Path | str, records: Iterable[BaseModel | Mapping[str, Any]]) -> None:
    """Write one JSON object a line, fields in the order of the record. Raises StorageError."""
    lines = []
    for record in records:
        fields = record.model_dump(mode="json") if isinstance(record, BaseModel) else dict(record)
        lines.append(json.dumps(fields, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(path, "".join(lines))


# Reading


def read_bytes(path: Path | str) -> bytes:
    """Read a whole file.

    Raises:
        DataError: There is no such file.
        StorageError: It is there and cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise DataError(
            "no such file", where=str(path), mend="Check the path, or run the stage that makes it."
        ) from None
    except OSError as error:
        raise StorageError(
            f"cannot be read ({error.strerror or error})",
            where=str(path),
            mend="Check that it is a file and its rights.",
        ) from error


def read_text(path: Path | str) -> str:
    """Read a whole file as UTF-8, without a byte order mark. Raises DataError or StorageError."""
    return decode(read_bytes(path), where=str(path))


def read_json(path: Path | str) -> Any:
    """Read one JSON value. Raises DataError or StorageError."""
    return parse_json(read_text(path), where=str(path))


def read_jsonl(path: Path | str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) for every line that is not blank.

    Raises:
        DataError: A line is not UTF-8, not JSON, breaks off, or is not an object; names file and line.
        StorageError: The file cannot be read.
    """
    yield from parse_jsonl(read_bytes(path), where=str(path))


def sha256(data: bytes | Path) -> str:
    """Hex SHA-256 of bytes, or of a file's contents."""
    return hashlib.sha256(read_bytes(data) if isinstance(data, Path) else data).hexdigest()


# How


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}-{os.getpid()}-{secrets.token_hex(4)}.tmp")


def _sweep(target: Path) -> None:
    """Remove what killed writers of the same target have left."""
    for left in target.parent.glob(f".{glob.escape(target.name)}-*.tmp"):
        found = _TEMPORARY.search(left.name)
        if found and not _alive(int(found[1])):
            _remove(left)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk; file systems that cannot flush a folder are left alone."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(descriptor)


def _exchange(new: Path, target: Path, aside: Path) -> None:
    if target.exists() or target.is_symlink():
        os.rename(target, aside)
    try:
        os.rename(new, target)
    except OSError:
        if aside.exists() or aside.is_symlink():
            os.rename(aside, target)
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


@contextmanager
def _storage_errors(target: Path) -> Iterator[None]:
    """Turn what the operating system says about writing `target` into a StorageError."""
    try:
        yield
    except Exception as error:
        number = _write_failure(error, target)
        if number is None:
            raise
        if number in _FULL:
            what, mend = (
                "no space left to write it",
                "Free space on that disk (or raise the quota), then run again.",
            )
        elif number in _FORBIDDEN:
            what, mend = "not allowed to write it", "Make the folder writable, or choose another one."
        else:
            what, mend = "cannot be written", "Check the path and the disk."
        raise StorageError(
            f"{what} ({os.strerror(number)})", where=str(target), mend=f"{mend} Nothing was written."
        ) from error


def _write_failure(error: Exception, target: Path) -> int | None:
    """The error number, where `error` is about writing `target`; None for every other error."""
    if isinstance(error, JpuError):
        return None
    if not isinstance(error, OSError):
        # Libraries in Rust (safetensors, tokenizers) raise their own class and keep the number in the text.
        found = re.search(r"\(os error (\d+)\)", str(error))
        return int(found[1]) if found and int(found[1]) in _FULL | _FORBIDDEN else None
    if error.filename is None or error.errno in _FULL:
        return error.errno
    # The body may well have failed on another file, which this error must not be blamed on.
    named = Path(os.fsdecode(error.filename))
    ours = target.is_relative_to(named) or any(part.startswith(f".{target.name}-") for part in named.parts)
    return error.errno if ours else None
