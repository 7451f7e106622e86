"""What tests share: disks that are full and folders that may not be written to, real ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

_NOBODY = 65534

# The same examples every time, however busy the machine is, and no database beside the repository.
hypothesis.settings.register_profile("jpu", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("jpu")


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte. Skipped where this process may not mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("may not mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


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
