"""`champion.dvc`: what a pipeline goes on from, pinned by its hashes as data, and the version that it is of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jpu.errors import SettingsError
from tasks.params import read_document

START = "champion.dvc"


@dataclass(frozen=True)
class Start:
    """What a pipeline goes on from.

    Attributes:
        version: Name of the registered version, `jpu-sandbox/3`.
        commit: The git commit that holds its dvc.lock.
        outs: Path → hash of what is pinned.
    """

    version: str
    commit: str
    outs: Mapping[str, str]


def parts(last_round: str) -> tuple[str, ...]:
    """What the next round needs of a version whose last round is given."""
    folder = f"artifacts/rounds/{last_round}"
    return ("artifacts/subject", f"{folder}/adapter", f"{folder}/buffer.jsonl")


def read_start(root: Path | str = ".") -> Start | None:
    """What the pipeline in a folder goes on from; None where it makes its subject itself.

    Raises:
        SettingsError: `champion.dvc` cannot be understood.
    """
    path = Path(root) / START
    if not path.exists():
        return None
    document = read_document(path).value
    try:
        meta = document["meta"]
        outs = {str(out["path"]): str(out["md5"]) for out in document["outs"]}
        return Start(str(meta["version"]), str(meta["commit"]), outs)
    except (KeyError, TypeError) as error:
        raise SettingsError("says not of which version it is", where=str(path), mend="Restore it from git.") from error
