"""What an adapter folder may hold, told before anything of it is parsed by a library or loaded.

A folder from elsewhere is somebody's input: it may hold a pickle that runs code when it is loaded, a link to another
file, a header that claims gigabytes. The check reads file names, sizes and the safetensors header, no tensor. What the
tensors and the configuration say is checked by jpu/unlearning/adapter_folder.py.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
from typing import Any

from jpu.errors import ModelError, StorageError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
ROUND_ZERO = "round.json"
# An adapter of every module of a 70B model at rank 64 has some 2,000 tensors, and a header of 300 kB.
LARGEST_HEADER = 4 << 20
LARGEST_JSON = 4 << 20
LARGEST_WEIGHTS = 8 << 30
KEY = re.compile(r"^base_model\.model\.(?P<module>[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*)\.lora_(?P<factor>[AB])\.weight$")

# Other files (a model card, a tokenizer) are never opened here.
_READ = {CONFIG: LARGEST_JSON, WEIGHTS: LARGEST_WEIGHTS, ROUND_ZERO: LARGEST_JSON}
_RUNS = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".joblib", ".h5", ".py", ".so")
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_MEND = "Do not load it. Take the adapter from a source that you trust, or bring it back with `dvc checkout`."


def check_adapter(folder: pathlib.Path, *, cached: bool = False) -> None:
    """Refuse a folder that is more, or other, than a plain adapter.

    Args:
        folder: The folder.
        cached: Whether its files may be links into DVC's cache (`dvc config cache.type symlink`).

    Raises:
        ModelError: It holds a link, a folder, or a file that can run code; a file is too large; the safetensors header
            is malformed, or names a tensor that is no LoRA factor.
        StorageError: It cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                _check_entry(entry, cached)
        weights = folder / WEIGHTS
        if weights.exists():
            check_header(weights)
    except FileNotFoundError:
        raise ModelError("no adapter in this folder", where=str(folder), mend=_MEND) from None
    except OSError as error:
        raise StorageError(
            f"cannot be read ({error.strerror or error})", where=str(folder), mend="Check its rights."
        ) from error


def check_header(path: pathlib.Path) -> None:
    """Refuse a safetensors file whose header does not describe its bytes, or describes more than LoRA factors.

    Raises:
        ModelError: What is wrong, and where.
    """

    def refuse(what: str) -> ModelError:
        return ModelError(f"corrupted or crafted safetensors: {what}", where=str(path), mend=_MEND)

    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise refuse(f"its header claims {length} bytes, the file has {size}")
        if length > LARGEST_HEADER:
            raise refuse(f"its header has {length} bytes, more than {LARGEST_HEADER}")
        raw = file.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=_no_twice)
    except (ValueError, RecursionError) as error:
        raise refuse(f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise refuse("its header is not a table of tensors")
    header.pop("__metadata__", None)
    end = 0
    for name, about in sorted(header.items(), key=lambda item: _begin(item[1])):
        if KEY.match(name) is None:
            raise refuse(f"{name[:80]!r} is no factor of a LoRA")
        begin, found = _span(about)
        if begin != end or found is None:
            raise refuse(f"the bytes of {name!r} are not where its shape puts them")
        end = found
    if end != size - 8 - length:
        raise refuse(f"its tensors have {end} bytes, the file has {size - 8 - length} for them")


def _check_entry(entry: os.DirEntry[str], cached: bool) -> None:
    def refuse(what: str) -> ModelError:
        return ModelError(what, where=entry.path, mend=_MEND)

    if entry.name.lower().endswith(_RUNS):
        raise refuse("is of a kind that can run code when it is loaded")
    if entry.is_symlink() and not (cached and _in_cache(entry.path)):
        raise refuse("is a symbolic link")
    if not entry.is_file():
        raise refuse("is no ordinary file")
    size, most = entry.stat().st_size, _READ.get(entry.name)
    if most is not None and size > most:
        raise refuse(f"has {size} bytes, more than {most}")


def _in_cache(path: str) -> bool:
    """Whether a link leads into a cache of DVC's, where a file's name is the rest of its hash."""
    target = pathlib.Path(os.path.realpath(path))
    return re.fullmatch(r"[0-9a-f]{30}", target.name) is not None and target.parent.parent.name == "md5"


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _begin(about: Any) -> int:
    offsets = about.get("data_offsets") if isinstance(about, dict) else None
    return offsets[0] if isinstance(offsets, list) and len(offsets) == 2 and type(offsets[0]) is int else -1


def _span(about: Any) -> tuple[int, int | None]:
    """Where a tensor's bytes begin and end; no end where type, shape and offsets do not fit together."""
    begin = _begin(about)
    if begin < 0:
        return begin, None
    shape, kind, end = about.get("shape"), about.get("dtype"), about["data_offsets"][1]
    whole = isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and 0 < n < 1 << 32 for n in shape)
    if not whole or kind not in _BYTES or type(end) is not int:
        return begin, None
    return begin, end if end - begin == shape[0] * shape[1] * _BYTES[kind] else None
