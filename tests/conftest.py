"""What tests share: disks that are full and folders that may not be written to, real ones."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

_NOBODY = 65534
_TMPFS = ("-t", "tmpfs", "-o", "size=1m", "tmpfs")
_LARGEST_FILE = 256

# The same examples every time, however busy the machine is, and no database beside the repository.
hypothesis.settings.register_profile("jpu", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("jpu")


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that holds a megabyte: a small file system, or, for who may not mount one, a limit on every file."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount and not subprocess.run([mount, *_TMPFS, str(folder)], capture_output=True, check=False).returncode:
        try:
            yield folder
        finally:
            subprocess.run(["umount", str(folder)], check=True)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST_FILE, hard))
    try:
        yield folder
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def read_only() -> Iterator[Callable[..., Path]]:
    """Makes a folder that may be read and not written to. Root gives up its rights until the test ends.

    What is to be in it is put there by the function that the fixture is called with.
    """
    folder = Path(tempfile.mkdtemp())
    is_root = os.geteuid() == 0

    def make(fill: Callable[[Path], object] = lambda _: None) -> Path:
        folder.chmod(0o755)
        fill(folder)
        folder.chmod(0o555)
        if is_root:
            os.seteuid(_NOBODY)
        return folder

    try:
        yield make
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)
