"""A digest of the code that decides a run, the same for the same program however it is written down.

From some files it goes along their imports through the repository, and hashes what each file does: its syntax tree
without comments, docstrings and layout. Plumbing decides nothing and is left out, as in dvc.yaml. Of a registry's
files (attacks, defences) only those count that the run names: a new attack must not throw away hours of other runs.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from jpu.errors import SettingsError

ROOT = Path(__file__).resolve().parents[2]
# What a run imports and what does not decide its figures.
PLUMBING = frozenset(
    {
        *("jpu/__init__.py", "jpu/checkpoint.py", "jpu/errors.py", "jpu/files.py", "jpu/parsing.py"),
        *("tasks/__init__.py", "tasks/layout.py", "tasks/progress.py", "tasks/sections.py", "tasks/settings.py"),
        *("tasks/tracking.py", "tasks/fingerprint.py", "tasks/environment.py", "tasks/params.py", "tasks/stage.py"),
        # They refuse, and change nothing.
        *("tasks/sources.py", "tasks/validation.py", "tasks/suites.py", "tasks/expectations.py", "tasks/additions.py"),
        "jpu/evaluation/gates.py",
        # Where work is done: results are the same.
        *("jpu/rows.py", "jpu/processes.py", "jpu/spread.py", "jpu/sharding.py", "tasks/processes.py"),
        # What is planned and kept decides nothing of what is run.
        *("tasks/comparing/sections.py", "tasks/comparing/plan.py", "tasks/comparing/memory.py"),
    }
)
# Lists of what there is: a line more in them changes no run.
LISTS = frozenset(
    {
        *("jpu/attacks/__init__.py", "jpu/attacks/suites.py"),
        # The settings of a run are in its key by value.
        *("jpu/unlearning/defences/registry.py", "jpu/unlearning/defences/settings.py"),
    }
)
# Packages whose files stand side by side, each under a name.
REGISTRIES = frozenset({"jpu/attacks", "jpu/unlearning/defences"})


def code_digest(roots: Iterable[str], *, named: Iterable[str] = (), without: tuple[str, ...] = ()) -> str:
    """SHA-256 over what the files do.

    Args:
        roots: Files, as paths from the repository's root; all that they import is followed.
        named: Files of registries that the run uses.
        without: Beginnings of paths that are imported and have no part in it.
    """
    digest = hashlib.sha256()
    for path in sorted(p for p in reached([*roots, *named]) if not p.startswith(without)):
        digest.update(f"{path}\0{meaning(path)}\0".encode())
    return digest.hexdigest()


def reached(roots: Iterable[str]) -> set[str]:
    """The files that decide: those given, and what they import, directly or not, also by way of a list."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        path = waiting.pop()
        if path in found or path in PLUMBING:
            continue
        found.add(path)
        waiting += [p for p in imports(path) if not _registered(p, by=path)]
    return found - LISTS


def file_of(registry: str, name: str) -> str:
    """The file of a registry's entry, found without importing any.

    Args:
        registry: A folder of `REGISTRIES`.
        name: Name of the attack or defence.

    Raises:
        SettingsError: There is none of that name.
    """
    for path in sorted((ROOT / registry).glob("*.py")):
        if name in _names(path.relative_to(ROOT).as_posix()):
            return path.relative_to(ROOT).as_posix()
    raise SettingsError(f"nothing in {registry} is called {name!r}", mend="Check the name, or add it there.")


def names_in(registry: str) -> list[str]:
    """The names of a registry's entries, found without importing any."""
    found = (_names(path.relative_to(ROOT).as_posix()) for path in (ROOT / registry).glob("*.py"))
    return sorted(name for names in found for name in names)


@functools.cache
def meaning(path: str) -> str:
    """What a file does, as a digest: its syntax without docstrings."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                # A body has to hold something.
                node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree, annotate_fields=False).encode()).hexdigest()


@functools.cache
def imports(path: str) -> tuple[str, ...]:
    """The repository's files that a file imports, at its top or inside a function; a package is its `__init__.py`."""
    return tuple(dict.fromkeys(_imports(path)))


def _imports(path: str) -> Iterator[str]:
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            file = Path(*name.split("."))
            if file.parts[0] in {"jpu", "tasks"}:
                candidates = (file.with_suffix(".py"), file / "__init__.py")
                yield from (c.as_posix() for c in candidates if (ROOT / c).is_file())


def _registered(path: str, by: str) -> bool:
    """Whether a file is an entry of a registry, and is only reached through the list of all of them."""
    return Path(path).parent.as_posix() in REGISTRIES and by in LISTS and bool(_names(path))


@functools.cache
def _names(path: str) -> frozenset[str]:
    """The names that the classes of a file go by."""
    body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    return frozenset(_called(node) for node in body if isinstance(node, ast.ClassDef)) - {""}


def _called(node: ast.ClassDef) -> str:
    for part in node.body:
        if isinstance(part, ast.Assign) and isinstance(part.value, ast.Constant) and isinstance(part.value.value, str):
            for target in part.targets:
                if isinstance(target, ast.Name) and target.id == "name":
                    return part.value.value
    return ""
