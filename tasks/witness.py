"""Whether a commit's code and settings are those that a stage of the lock file ran with."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.code_hashes import CodeHashes
from tasks.repository import Locked
from tasks.snapshots import PARAMS

DATA_FOLDER = "data"


@dataclass(frozen=True)
class Difference:
    """What a stage ran with, and what the commit holds in its place."""

    what: str
    ran: str
    held: str


def code_paths(entry: Locked, made: Container[str]) -> list[str]:
    """Those of a stage's inputs that neither a stage makes nor data.dvc pins."""
    return [path for path in entry.deps if path not in made and path != DATA_FOLDER]


def code_difference(entry: Locked, code: CodeHashes, made: Container[str]) -> Difference | None:
    """The first file or folder of code whose hash is another one in the commit."""
    for path in code_paths(entry, made):
        if code.hash(path) != entry.deps[path]:
            return Difference(path, entry.deps[path], code.hash(path) or "no such path")
    return None


def params_difference(entry: Locked, params: Mapping[str, Any]) -> Difference | None:
    """The first parameter that is another one in the commit's params.yaml."""
    for key, value in entry.params.items():
        file, _, dotted = key.partition(":")
        found = _lookup(params, dotted) if file == PARAMS else None
        if found != value:
            return Difference(dotted, *_first_leaf(value, found))
    return None


def _lookup(params: Mapping[str, Any], dotted: str) -> Any:
    value: Any = params
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _first_leaf(ran: Any, held: Any, key: str = "") -> tuple[str, str]:
    """The first leaf that differs, on both sides."""
    if isinstance(ran, Mapping) and isinstance(held, Mapping):
        for name in dict.fromkeys([*ran, *held]):
            if ran.get(name) != held.get(name):
                return _first_leaf(ran.get(name), held.get(name), f"{key}{name}.")
    name = key.rstrip(".")
    return (f"{name} = {ran}", f"{name} = {held}") if name else (str(ran), str(held))
