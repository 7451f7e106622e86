"""The pipeline as DVC sees it: which stages there are, in which order, what changed, and what hash a path has.

`dvc.yaml` is the only topology and DVC the only judge of what is up to date; this file asks it, in this process,
because a `dvc` command costs a second to start. It changes nothing and runs no stage.
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
class Stage:
    """One stage: its name (`mine@1`), what it reads and writes, and the stages it waits for."""

    name: str
    deps: tuple[str, ...]
    outs: tuple[str, ...]
    upstream: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The stages in an order that DVC's graph allows, and for each changed one the reasons in words.

    `data` holds the reasons why `data.dvc` and the data folder differ, empty where they agree.
    """

    stages: tuple[Stage, ...]
    changes: Mapping[str, tuple[str, ...]]
    data: tuple[str, ...] = ()

    def stage(self, name: str) -> Stage:
        """The stage called `name`. Raises SettingsError when there is none."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise SettingsError(
            f"no stage {name!r}", where="dvc.yaml", mend=f"Stages: {', '.join(s.name for s in self.stages)}."
        )

    def select(self, wanted: list[str] | None) -> tuple[Stage, ...]:
        """The stages called by name (`mine@1`) or by group (`mine`), in order; all for None.

        Raises:
            SettingsError: A name is neither a stage nor a group.
        """
        if not wanted:
            return self.stages
        for name in wanted:
            if not any(name in (stage.name, stage.name.partition("@")[0]) for stage in self.stages):
                self.stage(name)
        return tuple(s for s in self.stages if {s.name, s.name.partition("@")[0]} & set(wanted))

    def waiting(self) -> dict[str, str]:
        """Stages that are unchanged by themselves and stand after a changed one, with that one's name."""
        found: dict[str, str] = {}
        for stage in self.stages:
            if stage.name in self.changes:
                continue
            first = next((up for up in stage.upstream if up in self.changes or up in found), None)
            if first:
                found[stage.name] = first
        return found


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
                    words.extend(_changed(f"{kind}{key.rpartition(':')[2]}", old[key], new[key]))
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


def read_plan(root: Path | str = ".") -> Plan:
    """Order, state and reasons of every stage, in one pass. Raises what `open_repo` raises."""
    with open_repo(root) as repo:
        stages = _in_order(repo.index.graph)
        status: dict[str, Any] = repo.status()
    lock, params = read_lock(root), read_params(root)
    return Plan(
        stages=tuple(stages),
        changes={
            name: _reasons(what, lock.get(name), params)
            for name, what in status.items()
            if not name.endswith(".dvc")
        },
        data=_reasons(status.get(DATA, []), None, params),
    )


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


def _in_order(graph: Any) -> list[Stage]:
    """Depth-first post-order, as `dvc repro` walks the graph, from the leaves in the order of dvc.yaml."""
    import networkx

    ordered = [stage for stage in networkx.dfs_postorder_nodes(graph) if stage.addressing != DATA]
    return [
        Stage(
            name=stage.addressing,
            deps=tuple(str(dep) for dep in stage.deps if dep.protocol == "local" and not _is_params(dep)),
            outs=tuple(str(out) for out in stage.outs),
            upstream=tuple(sorted(up.addressing for up in graph.successors(stage) if up.addressing != DATA)),
        )
        for stage in ordered
    ]


def _is_params(dependency: Any) -> bool:
    return hasattr(dependency, "params")


def _reasons(entries: list[Any], locked: Locked | None, params: Mapping[str, Any]) -> tuple[str, ...]:
    """DVC's nested status as words: "parameter seed: 0 → 1", "input data is missing", "output x not in cache"."""
    if locked is None and any("changed deps" in entry for entry in entries if isinstance(entry, dict)):
        return ("never ran before",)
    words: list[str] = []
    for entry in entries:
        if isinstance(entry, str):
            words.append(entry)
            continue
        for kind, paths in entry.items():
            noun = "input" if "deps" in kind else "output"
            for path, state in paths.items():
                if not isinstance(state, dict):
                    words.append(f"{noun} {path} {_state(state)}")
                    continue
                for key, how in state.items():
                    old = locked.params.get(f"{path}:{key}") if locked else None
                    if how == "modified" and path == "params.yaml":
                        words.extend(_changed(f"parameter {key}", old, _lookup(params, key)))
                    else:
                        words.append(f"parameter {key} {_state(how)}")
    return tuple(words)


def _changed(name: str, old: Any, new: Any) -> list[str]:
    """The leaves of a section that differ, each "name: old → new"; long values are not spelled out."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            words
            for key in dict.fromkeys([*old, *new])
            if old.get(key) != new.get(key)
            for words in _changed(f"{name}.{key}", old.get(key), new.get(key))
        ]
    shown = f"{name}: {old} → {new}"
    return [shown if name.startswith("parameter") and len(shown) < 100 else f"{name} changed"]


def _lookup(params: Mapping[str, Any], key: str) -> Any:
    value: Any = params
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _state(state: str) -> str:
    return {"new": "is new", "modified": "changed", "deleted": "is missing"}.get(state, state)


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
