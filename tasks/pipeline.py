"""The pipeline as DVC sees it: which stages there are, in which order, and what changed.

`dvc.yaml` is the only topology and DVC the only judge of what is up to date. Changes nothing and runs no stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jpu.errors import SettingsError
from tasks.repository import DATA, Locked, changed, open_repo, read_lock, read_params


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


def read_plan(root: Path | str = ".") -> Plan:
    """Order, state and reasons of every stage, in one pass. Raises what `open_repo` raises."""
    with open_repo(root) as repo:
        stages = _in_order(repo.index.graph)
        status: dict[str, Any] = repo.status()
    lock, params = read_lock(root), read_params(root)
    return Plan(
        stages=tuple(stages),
        changes={
            name: _reasons(what, lock.get(name), params) for name, what in status.items() if not name.endswith(".dvc")
        },
        data=_reasons(status.get(DATA, []), None, params),
    )


def _in_order(graph: Any) -> list[Stage]:
    """Depth-first post-order, as `dvc repro` walks the graph, from the leaves in the order of dvc.yaml."""
    import networkx

    # Not data.dvc, nor what a champion brings along (tasks/start.py): there is nothing to run.
    ordered = [stage for stage in networkx.dfs_postorder_nodes(graph) if not stage.is_data_source]
    return [
        Stage(
            name=stage.addressing,
            deps=tuple(str(dep) for dep in stage.deps if dep.protocol == "local" and not _is_params(dep)),
            outs=tuple(str(out) for out in stage.outs),
            upstream=tuple(sorted(up.addressing for up in graph.successors(stage) if not up.is_data_source)),
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
                        words.extend(changed(f"parameter {key}", old, _lookup(params, key)))
                    else:
                        words.append(f"parameter {key} {_state(how)}")
    return tuple(words)


def _lookup(params: Mapping[str, Any], key: str) -> Any:
    value: Any = params
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _state(state: str) -> str:
    return {"new": "is new", "modified": "changed", "deleted": "is missing"}.get(state, state)
