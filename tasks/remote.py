"""Data and models, sent to DVC's default remote and brought from it; a remote that is away is worth another try.

Nothing is done where no remote is configured. What was sent before a failure is not sent again.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jpu.errors import InfrastructureError, JpuError, StorageError

if TYPE_CHECKING:
    from dvc.repo import Repo

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def push(repo: Repo, targets: Sequence[str] = ()) -> None:
    """Send outputs, all where none are named, to the default remote.

    Raises:
        InfrastructureError: The remote cannot be reached.
        StorageError: A disk is full.
    """
    if name := default(repo):
        with transfer_errors(name):
            repo.push(targets=list(targets) or None)


def fetch(repo: Repo, targets: Sequence[str] = ()) -> None:
    """Bring what DVC's cache lacks of outputs, all where none are named. Raises as `push` does."""
    if name := default(repo):
        with transfer_errors(name):
            repo.fetch(targets=list(targets) or None)


def default(repo: Repo) -> str:
    """Name of the default remote, "" where none is configured."""
    return str(repo.config["core"].get("remote") or "")


@contextmanager
def transfer_errors(remote: str) -> Iterator[None]:
    """Whatever DVC and the libraries under it raise: botocore's, aiohttp's and fsspec's errors have no common base."""
    try:
        yield
    except JpuError:
        raise
    except Exception as error:
        where, said = f"remote {remote}", " ".join(str(error).split())[:300] or type(error).__name__
        if _full(error):
            raise StorageError(
                f"the disk is full ({said})", where=where, mend="Free some space, then again."
            ) from error
        raise InfrastructureError(
            f"DVC cannot send or bring what it has to: {said}",
            where=where,
            mend="Check that it is there and the credentials (`jpu doctor`), then again: it goes on where it was.",
        ) from error


def _full(error: BaseException | None) -> bool:
    """Whether a full disk is what is behind an error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False
