"""dvc.yaml and params.yaml, rewritten for a pipeline that goes on from a champion; all other text stays as it is.

Knows both files' layout and nothing of versions. The same text always becomes the same text, so that whoever has the
old file can tell whether the new one is what it should be.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node

from jpu.errors import SettingsError
from tasks.params import Document

# The stage whose outputs a champion brings along.
_SUBJECT = "subject"
_ROUNDS = ("mine", "identify", "unlearn")


def without_subject(text: str) -> str:
    """dvc.yaml without the stage that makes the subject, and without the comment above it; may have none.

    Raises:
        SettingsError: It is no such file, or a former round's stages could not be left out of it.
    """
    before, root = _parse(text, "dvc.yaml")
    stages = _child(root, "stages", "dvc.yaml")
    for name in _ROUNDS:
        if "foreach" not in (before["stages"].get(name) or {}):
            raise _not_ours(f"has no rounds of {name!r}", "dvc.yaml")
    keys = [key for key, _ in stages.value]
    names = [key.value for key in keys]
    if _SUBJECT not in names:
        return text
    at = names.index(_SUBJECT)
    if at + 1 == len(keys) or stages.flow_style:
        raise _not_ours(f"has no stage below {_SUBJECT!r}", "dvc.yaml")
    lines = text.splitlines(keepends=True)
    first, end = (_with_comment(lines, keys[index].start_mark.line) for index in (at, at + 1))
    after = "".join([*lines[:first], *lines[end:]])
    del before["stages"][_SUBJECT]
    if _parse(after, "dvc.yaml")[0] != before:
        raise _not_ours(f"cannot be read without {_SUBJECT!r}", "dvc.yaml")
    return after


def with_rounds(text: str, rounds: Mapping[str, str]) -> str:
    """params.yaml with other rounds.

    Args:
        text: The file.
        rounds: Round → the one that it goes on from, in order.

    Raises:
        SettingsError: It is no such file.
    """
    wanted, root = _parse(text, "params.yaml")
    node, last = (_child(root, name, "params.yaml") for name in ("rounds", "last_round"))
    quote = last.style or "'"
    words = {node: _written(node, rounds), last: f"{quote}{list(rounds)[-1]}{quote}"}
    after = text
    for one in sorted(words, key=lambda one: one.start_mark.index, reverse=True):
        after = after[: one.start_mark.index] + words[one] + after[_end(one) :]
    wanted |= {"rounds": {name: {"prev": prev} for name, prev in rounds.items()}, "last_round": list(rounds)[-1]}
    if _parse(after, "params.yaml")[0] != wanted:
        raise _not_ours("cannot be given other rounds", "params.yaml")
    return after


def with_settings(text: str, profile: str, settings: Mapping[str, int | float | bool | str]) -> str:
    """params.yaml with other values of single settings of a profile.

    Where the profile shares a section with others (an anchor), theirs change too.

    Args:
        text: The file.
        profile: The profile.
        settings: Dotted key below the profile (`unlearning.weights.retain`) → value.

    Raises:
        SettingsError: It is no such file, or has no such setting.
    """
    after = text
    for dotted, value in settings.items():
        key = ("profiles", profile, *dotted.split("."))
        document = Document("params.yaml", after, *_parse(after, "params.yaml"))
        found: Any = document.value
        for part in key:
            found = found.get(part) if isinstance(found, dict) else None
        if found is None or isinstance(found, dict | list):
            raise SettingsError(
                f"the champion's params.yaml has no setting {dotted!r}",
                where="params.yaml, key reharden.settings",
                mend=f"Name a single value below profiles.{profile}, or remove the key.",
            )
        after = document.replaced(key, json.dumps(value))
    return after


def _written(node: Node, rounds: Mapping[str, str]) -> str:
    """Rounds in the style of those that they replace."""
    if not isinstance(node, MappingNode) or node.flow_style:
        return json.dumps({name: {"prev": prev} for name, prev in rounds.items()})
    indent = " " * node.start_mark.column
    return f"\n{indent}".join(f"'{name}': {{prev: '{prev}'}}" for name, prev in rounds.items())


def _end(node: Node) -> int:
    """Where a value's text ends. A block's own mark lies behind the comments that follow it."""
    if isinstance(node, MappingNode) and not node.flow_style and node.value:
        return _end(node.value[-1][1])
    return int(node.end_mark.index)


def _with_comment(lines: list[str], line: int) -> int:
    """The first line of the comment right above a line."""
    while line and lines[line - 1].lstrip().startswith("#"):
        line -= 1
    return line


def _parse(text: str, name: str) -> tuple[dict[str, Any], Node]:
    try:
        value, root = (read(text) for read in (_yaml().load, _yaml().compose))
    except YAMLError as error:
        raise _not_ours(f"not YAML: {' '.join(str(error).split())}", name) from error
    if not isinstance(value, dict):
        raise _not_ours("not a table of keys and values", name)
    return value, root


def _child(root: Node, name: str, where: str) -> Node:
    found = next((value for key, value in root.value if key.value == name), None)
    if found is None:
        raise _not_ours(f"has no {name!r}", where)
    return found


def _yaml() -> YAML:
    # Pure: only this one knows the position of a node.
    return YAML(typ="safe", pure=True)


def _not_ours(what: str, name: str) -> SettingsError:
    return SettingsError(what, where=name, mend="Restore it from git.")
