"""What git holds of a version: pipeline, lock file, the data's hash, the settings, and what it starts from.

Of a commit (`snapshot_at`), of a working tree (`snapshot_here`), or of a registered version, wherever its is
(`snapshot_of`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from jpu.errors import DataError
from jpu.files import write_bytes
from tasks.gitstore import GitStore
from tasks.lineage import METRICS, SUBJECT, UNKNOWN
from tasks.pinned import START, Start, read_start
from tasks.repository import DATA, Locked, data_hash, read_lock, read_params
from tasks.versions import Version

LOCK, PARAMS, PIPELINE = "dvc.lock", "params.yaml", "dvc.yaml"
# What a version's commit adds to its code; START only where it goes on from another version.
KEPT = (LOCK, DATA, PARAMS, PIPELINE, START)
PREPARED = "artifacts/prepared"


@dataclass(frozen=True)
class Snapshot:
    """What the kept files say together: at a commit, or in a working tree (commit "")."""

    commit: str
    lock: Mapping[str, Locked]
    data: str
    params: Mapping[str, Any]
    start: Start | None
    files: Mapping[str, bytes] = field(repr=False, default_factory=dict)

    @property
    def adapter(self) -> str:
        """Path of the last round's adapter."""
        return f"artifacts/rounds/{self.params.get('last_round', '')}/adapter"

    @cached_property
    def makers(self) -> dict[str, str]:
        """Output → the stage that makes it."""
        return {path: stage for stage, entry in self.lock.items() for path in entry.outs}

    @cached_property
    def outs(self) -> dict[str, str]:
        """Output → hash: of what the stages made, and of what they start from."""
        pinned = dict(self.start.outs) if self.start else {}
        return pinned | {path: md5 for entry in self.lock.values() for path, md5 in entry.outs.items()}

    def out(self, path: str) -> str:
        """Hash of an output, "" where no stage makes it and nothing pins it."""
        return self.outs.get(path, "")

    @cached_property
    def chain(self) -> tuple[str, ...]:
        """The stages behind the evaluation, each after those that it reads from."""
        found: dict[str, None] = {}

        def visit(stage: str, above: tuple[str, ...]) -> None:
            if stage in found or stage in above or stage not in self.lock:
                return
            for path in self.lock[stage].deps:
                if path in self.makers:
                    visit(self.makers[path], (*above, stage))
            found[stage] = None

        visit(self.makers.get(METRICS, ""), ())
        return tuple(found)

    @property
    def identity(self) -> dict[str, str]:
        """The tags of the version that this is, as tasks/lineage.py gives them."""
        return {
            "jpu.adapter": self.out(self.adapter),
            "jpu.metrics": self.out(METRICS),
            "jpu.subject": self.out(SUBJECT),
            "jpu.data": self.data or UNKNOWN,
        }


def snapshot_at(git: GitStore, commit: str) -> Snapshot:
    """What a commit holds.

    Raises:
        DataError: One of them is not in there.
        SettingsError: One of them cannot be parsed.
    """
    files = {}
    for name in KEPT:
        data = git.read(commit, name)
        if data is not None:
            files[name] = data
        elif name not in (DATA, START):
            raise DataError(f"holds no {name}", where=f"commit {commit[:12]}", mend="Record the version again.")
    with tempfile.TemporaryDirectory(prefix="jpu-snapshot-") as folder:
        for name, data in files.items():
            write_bytes(Path(folder, name), data)
        return _read(Path(folder), commit, files)


def snapshot_here(root: Path | str = ".") -> Snapshot:
    """What the working tree holds. Raises SettingsError where a file cannot be parsed."""
    folder = Path(root)
    files = {name: (folder / name).read_bytes() for name in KEPT if (folder / name).exists()}
    return _read(folder, "", files)


def snapshot_of(git: GitStore, version: Version) -> Snapshot:
    """What the version's commit holds; for one that has none, the working tree where that is this version.

    Raises:
        DataError: Nothing holds the version's lock file.
    """
    if version.lock_commit and git.commit(version.lock_commit):
        return snapshot_at(git, version.lock_commit)
    here = snapshot_here(git.root)
    if all(version.tags.get(key) == value for key, value in here.identity.items()):
        return here
    raise DataError(
        "no commit holds its dvc.lock, and the working tree is another version",
        where=version.name,
        mend="Fetch the tag with `git fetch --tags`, or harden it again.",
    )


def _read(folder: Path, commit: str, files: Mapping[str, bytes]) -> Snapshot:
    return Snapshot(commit, read_lock(folder), data_hash(folder), read_params(folder), read_start(folder), files)
