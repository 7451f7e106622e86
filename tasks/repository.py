"""What DVC knows of this repository: its lock file, its data, and the hash that it gives a path.

Asks DVC in this process, because a `dvc` command costs a second to start. Changes nothing and runs no stage.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from jpu.errors import InfrastructureError, JpuError, SettingsError
from tasks.environment import quiet

if TYPE_CHECKING:
    from dvc.repo import Repo

DATA = "data.dvc"


@dataclass(frozen=True)
class Locked:
    """What `dvc.lock` says of a stage when it last succeeded: command, and path or parameter → hash or value."""

    cmd: str
    deps: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    outs: Mapping[str, str] = field(default_factory=dict)

    def difference(self, older: Locked | None) -> tuple[str, ...]:
        """In words, what changed among command, inputs and parameters since `older`."""
        if older is None:
            return ("never ran before",)
        words = [] if self.cmd == older.cmd else ["command changed"]
        for kind, new, old in (("", self.deps, older.deps), ("parameter ", self.params, older.params)):
            for key in sorted({*new, *old}):
                if key not in old:
                    words.append(f"{kind}{key} is new")
                elif key not in new:
                    words.append(f"{kind}{key} was removed")
                elif new[key] != old[key]:
                    words.extend(changed(f"{kind}{key.rpartition(':')[2]}", old[key], new[key]))
        return tuple(words)


def read_lock(root: Path | str = ".") -> dict[str, Locked]:
    """`dvc.lock` as stage name → record; empty where there is no such file.

    Raises:
        SettingsError: The file cannot be parsed.
    """
    path = Path(root) / "dvc.lock"
    stages = (_read_yaml(path) or {}).get("stages") or {}
    return {
        name: Locked(
            cmd=str(entry.get("cmd", "")),
            deps=_hashes(entry.get("deps")),
            params={
                f"{file}:{key}": value
                for file, keys in (entry.get("params") or {}).items()
                for key, value in (keys or {}).items()
            },
            outs=_hashes(entry.get("outs")),
        )
        for name, entry in stages.items()
    }


def data_hash(root: Path | str = ".") -> str:
    """The hash that `data.dvc` pins, "" where there is no such file."""
    document = _read_yaml(Path(root) / DATA) or {}
    return next(iter(_hashes(document.get("outs")).values()), "")


def read_params(root: Path | str = ".") -> dict[str, Any]:
    """params.yaml as plain values, unchecked: for names and tags. The checked reader is tasks.settings."""
    return _read_yaml(Path(root) / "params.yaml") or {}


@contextmanager
def open_repo(root: Path | str = ".") -> Iterator[Repo]:
    """DVC's view of the repository, waiting for another DVC process to end; DVC's errors become ours.

    Raises:
        SettingsError: dvc.yaml, params.yaml or dvc.lock cannot be understood.
        InfrastructureError: The lock is held by a process that does not end.
    """
    quiet()
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.lock import LockError
    from dvc.repo import Repo

    try:
        with Repo(os.fspath(root), _wait_for_lock=True) as repo:
            yield repo
    except JpuError:
        raise
    except NotDvcRepoError as error:
        raise SettingsError(
            "not a DVC repository",
            where=str(Path(root).resolve()),
            mend="Run from the folder that holds dvc.yaml, in a git clone.",
        ) from error
    except LockError as error:
        raise InfrastructureError(
            "DVC's lock is held", where=".dvc/tmp", mend="Wait for the other run to end, or end it."
        ) from error
    except DvcException as error:
        raise SettingsError(
            _one_line(error), where="dvc.yaml", mend="Check dvc.yaml and the parameters that it names."
        ) from error


def hash_path(path: Path | str, root: Path | str = ".") -> str:
    """MD5 of a file or folder exactly as DVC computes it (a folder's ends in `.dir`), from its cache where fresh.

    Raises:
        FileNotFoundError: There is nothing at `path`.
    """
    with open_repo(root) as repo:
        return repo_hash(repo, path)


def repo_hash(repo: Repo, path: Path | str) -> str:
    """`hash_path` for a repository that is already open."""
    from dvc.fs import localfs
    from dvc_data.hashfile.build import build

    absolute = os.path.abspath(os.path.join(repo.root_dir, path))
    _, _, found = build(repo.cache.local, absolute, localfs, "md5", ignore=repo.dvcignore, dry_run=True)
    return str(found.hash_info.value)


def changed(name: str, old: Any, new: Any) -> list[str]:
    """The leaves of a section that differ, each "name: old → new"; long values are not spelled out."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            words
            for key in dict.fromkeys([*old, *new])
            if old.get(key) != new.get(key)
            for words in changed(f"{name}.{key}", old.get(key), new.get(key))
        ]
    shown = f"{name}: {old} → {new}"
    return [shown if name.startswith("parameter") and len(shown) < 100 else f"{name} changed"]


def _hashes(entries: list[dict[str, Any]] | None) -> dict[str, str]:
    return {
        str(entry["path"]): str(entry.get(entry.get("hash", "md5")) or entry.get("md5") or "")
        for entry in entries or []
    }


def _read_yaml(path: Path) -> dict[str, Any] | None:
    try:
        # DVC's own parser: in YAML 1.2 `1e-3` is a number, in PyYAML's 1.1 a word.
        value = YAML(typ="safe").load(path)
    except FileNotFoundError:
        return None
    except (YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"not YAML: {_one_line(error)}", where=path.name, mend="Mend the line.") from error
    if not isinstance(value, dict | None):
        raise SettingsError("not a table of keys and values", where=path.name, mend="Restore it from git.")
    return value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
