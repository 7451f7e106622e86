"""DVC's objects by their hashes: in the cache of this clone, or in the remote, local folder or S3 alike.

An object's name is the MD5 of its content; a folder's is that of its listing (tasks/directories.py). Reads only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jpu.errors import InfrastructureError
from tasks.directories import SUFFIX, read_listing
from tasks.repository import open_repo

if TYPE_CHECKING:
    from pathlib import Path

    from dvc.repo import Repo

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Objects:
    """A place that holds objects.

    Attributes:
        name: What it is called: `the remote store`, `DVC's cache`.
        is_remote: Whether it is a remote.
    """

    name: str
    is_remote: bool
    _odb: Any

    def path(self, oid: str) -> str:
        """Where an object is, or would be."""
        return str(self._odb.oid_to_path(oid))

    def has(self, oid: str) -> bool:
        """Whether there is such an object. Raises InfrastructureError."""
        with self._reached():
            return bool(self._odb.fs.exists(self.path(oid)))

    def read(self, oid: str) -> bytes | None:
        """An object's bytes, None where it is not there. Raises InfrastructureError."""
        chunks = self._chunks(oid)
        return None if chunks is None else b"".join(chunks)

    def md5(self, oid: str) -> str | None:
        """MD5 of an object's content, read as a stream; None where it is not there. Raises InfrastructureError."""
        chunks = self._chunks(oid)
        if chunks is None:
            return None
        found = hashlib.md5(usedforsecurity=False)
        for chunk in chunks:
            found.update(chunk)
        return found.hexdigest() + (SUFFIX if oid.endswith(SUFFIX) else "")

    def listing(self, oid: str) -> dict[str, str] | None:
        """Relative path → MD5 of a folder, None where its object is not there.

        Raises:
            DataError: The object is no listing.
            InfrastructureError: The place cannot be reached.
        """
        data = self.read(oid)
        return None if data is None else read_listing(data, self.path(oid))

    def missing(self, oid: str) -> list[str]:
        """Hashes that are not there, of an object and, for a folder, of everything in it. As `listing` raises."""
        if not oid.endswith(SUFFIX):
            return [] if self.has(oid) else [oid]
        entries = self.listing(oid)
        if entries is None:
            return [oid]
        return [md5 for md5 in dict.fromkeys(entries.values()) if not self.has(md5)]

    def _chunks(self, oid: str) -> Iterator[bytes] | None:
        with self._reached():
            try:
                file = self._odb.fs.open(self.path(oid), "rb")
            except FileNotFoundError:
                return None

        def chunks() -> Iterator[bytes]:
            with self._reached(), file:
                while chunk := file.read(_CHUNK):
                    yield chunk

        return chunks()

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """What a file system raises about a server that is away; a missing object is no such thing."""
        try:
            yield
        except (FileNotFoundError, InfrastructureError):
            raise
        except Exception as error:
            raise InfrastructureError(
                f"cannot be read: {' '.join(str(error).split())[:300]}",
                where=self.name,
                mend="Check that it is there and the credentials (`jpu doctor`), then try again.",
            ) from error


@contextmanager
def open_objects(root: Path | str = ".") -> Iterator[tuple[Objects, Objects | None]]:
    """DVC's cache, and the default remote where one is configured.

    Raises:
        InfrastructureError: The remote is configured and not there.
        SettingsError: DVC's configuration cannot be understood.
    """
    with open_repo(root) as repo:
        yield local_objects(repo), default_remote(repo)


def local_objects(repo: Repo) -> Objects:
    """The cache of a repository that is open."""
    return Objects("DVC's cache", False, repo.cache.local)


def default_remote(repo: Repo) -> Objects | None:
    """The default remote, None where none is configured. Raises InfrastructureError where it is not there."""
    name = repo.config["core"].get("remote")
    if not name:
        return None
    remote = Objects(f"remote {name}", True, repo.cloud.get_remote_odb(name=name))
    with remote._reached():
        if not remote._odb.fs.exists(remote._odb.path):
            raise InfrastructureError(
                "is configured, and there is nothing in it, or it is not there",
                where=remote.name,
                mend="`dvc push` fills it; `dvc remote list` shows its address.",
            )
    return remote
