"""Files and folders that only their owner may read."""

from __future__ import annotations

import os
from pathlib import Path

from jpu.errors import StorageError
from jpu.files import atomic_path


def private_folder(path: Path) -> Path:
    """Make `path` where it is missing, with no rights for group and others. Raises StorageError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise StorageError(
            f"cannot be made ({error.strerror})", where=str(path), mend="Make the folder above it writable."
        ) from error
    return path


def write_private(path: Path, data: str | bytes) -> Path:
    """Write `data` to `path`, whole or not at all, mode 0600 from the first byte. Raises StorageError."""
    with atomic_path(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
    return path
