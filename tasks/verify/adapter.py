"""Version → adapter: what MLflow would serve is, byte for byte, what the last round made, and safe to load."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from jpu.errors import ModelError
from jpu.unlearning.adapter_check import check_adapter
from tasks.directories import directory_hash
from tasks.store import tracking_errors
from tasks.verify.chain import BrokenLinkError, Chain, Passed

FOLDER = "adapter"


def check_adapter_artifact(chain: Chain) -> Iterator[Passed]:
    """The version's source is its run's artifact; its files hash to the adapter of dvc.lock; nothing in it runs."""
    version, snapshot = chain.version, chain.snapshot
    with tracking_errors():
        run = chain.client.get_run(version.run_id)
    source = f"{run.info.artifact_uri}/{FOLDER}"
    if version.source != source:
        raise BrokenLinkError(
            "adapter's place",
            expected=source,
            found=version.source or "nothing",
            where=f"source of {version.name}",
            meaning="MLflow serves files from elsewhere than the run that made them",
        )
    with _downloaded(chain, source) as folder:
        try:
            check_adapter(folder)
        except ModelError as error:
            raise BrokenLinkError(
                "adapter in MLflow",
                expected="an adapter that is safe to load",
                found=error.what,
                where=f"artifacts of run {version.run_id}",
                meaning="it must not be loaded",
            ) from error
        files = {
            path.relative_to(folder).as_posix(): hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
            for path in folder.rglob("*")
        }
    found, expected = directory_hash(files), snapshot.out(snapshot.adapter)
    if found != expected:
        raise BrokenLinkError(
            "adapter in MLflow",
            expected=expected,
            found=found,
            where=f"artifacts of run {version.run_id}",
            meaning="the adapter that MLflow serves is not the one that was hardened and measured",
        )
    yield Passed("adapter in MLflow", f"MD5 {expected[:12]} from {len(files)} files; no code, no links")


@contextmanager
def _downloaded(chain: Chain, source: str) -> Iterator[Path]:
    """The artifact's folder: MLflow's own where it is on this disk, since a copy would lose links; else a copy."""
    if urlsplit(source).scheme == "file":
        yield Path(url2pathname(urlsplit(source).path))
        return
    with tempfile.TemporaryDirectory(prefix="jpu-verify-") as folder, tracking_errors():
        yield Path(chain.client.download_artifacts(chain.version.run_id, FOLDER, folder))
