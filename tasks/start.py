"""A pipeline that goes on from a champion: the model and buffer that it starts with are data, no longer stages.

New data would otherwise remake the subject and every former round, as all of these depend on it. `champion.dvc` pins
them by their hashes, and says which version and commit they are of, where the record of their making is. `dvc pull`
and `dvc repro` treat it as any other file of DVC's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from jpu.errors import DataError, SettingsError
from jpu.files import write_text
from tasks.layout import SUBJECT, RoundFolder
from tasks.params import PARAMS

START = "champion.dvc"
_PIPELINE, _LOCK = "dvc.yaml", "dvc.lock"
# The stages whose outputs a new round starts from, beside the rounds themselves.
_MADE_ONCE = ("subject",)


@dataclass(frozen=True)
class Champion:
    """What a pipeline starts from.

    Attributes:
        version: Name and number of the registered version.
        commit: The git commit with its dvc.lock.
    """

    version: str
    commit: str


def start_from(champion: Champion, root: Path | str = ".") -> str:
    """Rewrite the pipeline of a checkout of the champion's commit: one new round, from the champion.

    Args:
        champion: Whose commit is checked out.
        root: The checkout.

    Returns:
        The new round's number.

    Raises:
        DataError: dvc.lock does not hold what a round starts from.
        SettingsError: dvc.yaml or params.yaml are not this repository's.
    """
    folder = Path(root)
    params, pipeline, lock = (_read(folder / name) for name in (PARAMS, _PIPELINE, _LOCK))
    last = str(params["last_round"])
    before = RoundFolder(last)
    wanted = [str(SUBJECT), str(before.adapter), str(before.buffer)]
    known = _outputs(lock, folder)
    missing = [path for path in wanted if path not in known]
    if missing:
        raise DataError(f"holds no {missing[0]}", where=str(folder / _LOCK), mend="Check out a champion's commit.")
    stages = pipeline.get("stages") or {}
    for name in ("mine", "identify", "unlearn"):
        if "foreach" not in (stages.get(name) or {}):
            raise SettingsError(
                f"has no rounds of {name!r}", where=str(folder / _PIPELINE), mend="Restore it from git."
            )
    number = str(int(last) + 1)
    params["rounds"] = {number: {"prev": last}}
    params["last_round"] = number
    for name in _MADE_ONCE:
        stages.pop(name, None)
    meta = {"version": champion.version, "commit": champion.commit}
    pinned = {"desc": "What this pipeline starts from.", "meta": meta, "outs": [known[path] for path in wanted]}
    kept = {name: entry for name, entry in lock["stages"].items() if name in stages}
    _write(folder / START, pinned)
    _write(folder / PARAMS, params)
    _write(folder / _PIPELINE, pipeline)
    _write(folder / _LOCK, {**lock, "stages": kept})
    return number


def read_start(root: Path | str = ".") -> Champion | None:
    """The champion that a pipeline starts from; None where it makes its subject itself.

    Raises:
        DataError: `champion.dvc` does not say.
    """
    path = Path(root) / START
    if not path.is_file():
        return None
    meta = _read(path).get("meta") or {}
    if not (meta.get("version") and meta.get("commit")):
        raise DataError("says no version or commit", where=str(path), mend="Restore it from git.")
    return Champion(str(meta["version"]), str(meta["commit"]))


def _outputs(lock: Any, folder: Path) -> dict[str, dict[str, Any]]:
    """Path → the entry of what has been made, or of what the champion itself had started from."""
    found = list((_read(folder / START).get("outs") or []) if (folder / START).is_file() else [])
    for entry in (lock.get("stages") or {}).values():
        found += entry.get("outs") or []
    return {str(out["path"]): dict(out) for out in found}


def _read(path: Path) -> Any:
    try:
        return _yaml().load(path) or {}
    except OSError as error:
        raise DataError("is not there", where=str(path), mend="Check out a champion's commit.") from error


def _write(path: Path, document: Any) -> None:
    from io import StringIO

    text = StringIO()
    _yaml().dump(document, text)
    write_text(path, text.getvalue())


def _yaml() -> YAML:
    """Comments, anchors and quotes stay as they are."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 200
    return yaml
