"""params.yaml as a document: its values, and the line of each key.

Reads YAML 1.2 with DVC's own library, so that both see the same values (`1e-3` is a number, `on`
is a word). Knows nothing of what the keys mean: see `tasks.settings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from jpu import files
from jpu.errors import DataError, SettingsError

PARAMS = "params.yaml"


@dataclass(frozen=True)
class Document:
    """A parsed YAML file.

    Attributes:
        path: The file.
        text: Its text.
        value: Its value: mappings, lists and scalars.
        root: Its nodes, which know their lines.
    """

    path: str
    text: str
    value: dict[str, Any]
    root: Node

    def line(self, key: Sequence[str | int]) -> int:
        """Line of a key, from 1; that of the nearest parent where the key is missing.

        Keys that come through a YAML merge (`<<: *name`) are found where they are written.
        """
        line, node = 1, self.root
        for part in key:
            found = _child(node, part)
            if found is None:
                break
            line, node = found
        return line

    def where(self, key: Sequence[str | int]) -> str:
        """File, line and dotted name of a key."""
        return f"{self.path} line {self.line(key)}, key {'.'.join(map(str, key))}" if key else self.path

    def replaced(self, key: Sequence[str | int], word: str) -> str:
        """The text with the scalar at `key` written as `word`, everything else untouched."""
        node = self.root
        for part in key:
            found = _child(node, part)
            if found is None:
                raise KeyError(part)
            node = found[1]
        return self.text[: node.start_mark.index] + word + self.text[node.end_mark.index :]


def read_document(path: Path | str = PARAMS) -> Document:
    """Parse a YAML file.

    Raises:
        SettingsError: No such file, not UTF-8, not YAML, a key given twice, or not a mapping.
        StorageError: The file cannot be read.
    """
    try:
        text = files.read_text(path)
    except DataError as error:
        raise SettingsError(
            error.what,
            where=error.where,
            mend="Run from the repository's folder, or restore the file from git.",
        ) from None
    try:
        root = _yaml().compose(text)
        value = _yaml().load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path} line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
        what = " ".join((error.problem or "cannot be parsed").split())
        raise SettingsError(f"not YAML: {what}", where=place, mend="Mend that line.") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(
            f"not YAML: {' '.join(str(error).split())}",
            where=str(path),
            mend="Restore it from git, or mend it.",
        ) from None
    if not isinstance(value, dict) or root is None:
        raise SettingsError(
            "not a table of keys and values",
            where=str(path),
            mend="Restore it from git, or write `key: value` lines.",
        )
    return Document(str(path), text, value, root)


def _yaml() -> YAML:
    # A new one each time: the parser keeps state. Pure: only this one knows the position of a node.
    return YAML(typ="safe", pure=True)


def _child(node: Node, part: str | int) -> tuple[int, Node] | None:
    """Line (from 1) and value node of a key or index."""
    if isinstance(node, SequenceNode):
        items: list[Node] = node.value
        if isinstance(part, int) and part < len(items):
            return items[part].start_mark.line + 1, items[part]
        return None
    if not isinstance(node, MappingNode):
        return None
    merged: list[Node] = []
    for name, value in node.value:
        if isinstance(name, ScalarNode) and name.value == str(part):
            return name.start_mark.line + 1, value
        if name.tag == "tag:yaml.org,2002:merge" or name.value == "<<":
            merged += value.value if isinstance(value, SequenceNode) else [value]
    return next((found for source in merged if (found := _child(source, part))), None)
