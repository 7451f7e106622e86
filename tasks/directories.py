"""Folders as DVC hashes them: a listing of path → MD5 in one JSON text, whose own MD5 ends in `.dir`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from jpu.errors import DataError

SUFFIX = ".dir"


def directory_hash(files: Mapping[str, str]) -> str:
    """The hash of a folder from its files' hashes, by path relative to it."""
    entries = [{"md5": md5, "relpath": path} for path, md5 in sorted(files.items())]
    text = json.dumps(entries, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + SUFFIX


def read_listing(data: bytes, where: str) -> dict[str, str]:
    """The listing that DVC stores as an object: relative path → MD5. Raises DataError."""
    try:
        return {str(entry["relpath"]): str(entry["md5"]) for entry in json.loads(data)}
    except (ValueError, TypeError, KeyError) as error:
        raise DataError("not a listing of a folder", where=where, mend="`dvc push` it from a good cache.") from error
