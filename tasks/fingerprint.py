"""A digest of what a stage is made from, to tell whose checkpoint is whose."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def fingerprint(*inputs: Path, params: Mapping[str, Any]) -> str:
    """SHA-256 over settings and every byte of the input files and folders.

    Code is left out on purpose: it would throw away hours of training for a changed comment. A checkpoint that the
    present code cannot read is ignored.
    """
    digest = hashlib.sha256(json.dumps(params, sort_keys=True, default=str).encode())
    for path in inputs:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            digest.update(f"\0{file.as_posix()}\0".encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
