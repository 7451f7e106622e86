"""Crafted adapters are refused by names, sizes and header, before any library reads them."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from jpu.errors import ModelError
from jpu.unlearning.adapter_check import CONFIG, LARGEST_HEADER, LARGEST_JSON, WEIGHTS, check_adapter
from jpu.unlearning.adapter_folder import read_factors, write_factors
from jpu.unlearning.factors import Factors

MODULE = "model.layers.0.mlp.gate_proj"
KEY = f"base_model.model.{MODULE}.lora_A.weight"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    write_factors(tmp_path / "adapter", {MODULE: Factors(torch.ones(2, 4), torch.ones(3, 2), 2.0)})
    return tmp_path / "adapter"


class Payload:
    """Pickled, it is a command; unpickled, it has run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def pickled(name: str) -> Callable[[Path], None]:
    def craft(folder: Path) -> None:
        (folder / name).write_bytes(pickle.dumps(Payload(folder.parent / "ran")))

    return craft


def linked(folder: Path) -> None:
    secret = folder.parent / "secret.json"
    secret.write_text((folder / CONFIG).read_text())
    (folder / CONFIG).unlink()
    (folder / CONFIG).symlink_to(secret)


def linked_upwards(folder: Path) -> None:
    (folder / "more.json").symlink_to("../../../../../../etc/hostname")


def nested(folder: Path) -> None:
    (folder / "inner").mkdir()


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "tokenizer.json")


def large_config(folder: Path) -> None:
    with (folder / CONFIG).open("ab") as file:
        file.truncate(LARGEST_JSON + 1)


def raw(length: int, rest: bytes) -> Callable[[Path], None]:
    def craft(folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(length.to_bytes(8, "little") + rest)

    return craft


def large_header(folder: Path) -> None:
    """A real file of that size, so that the claim is true."""
    with (folder / WEIGHTS).open("wb") as file:
        file.write((LARGEST_HEADER + 1).to_bytes(8, "little"))
        file.truncate(LARGEST_HEADER + 64)


def header(**changes: Any) -> Callable[[Path], None]:
    """A header with one tensor, of which something is changed."""
    about = {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]} | changes

    def craft(folder: Path) -> None:
        text = json.dumps({KEY: about}).encode()
        (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + bytes(32))

    return craft


def twice(folder: Path) -> None:
    about = '{"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]}'
    text = f'{{"{KEY}": {about}, "{KEY}": {about}}}'.encode()
    (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + bytes(32))


def named(name: str) -> Callable[[Path], None]:
    def craft(folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(save({name: torch.ones(2, 4)}))

    return craft


@pytest.mark.parametrize(
    ("craft", "what"),
    [
        (pickled("adapter_model.bin"), "can run code"),
        (pickled("training_args.PKL"), "can run code"),
        (pickled("modeling.py"), "can run code"),
        (linked, "symbolic link"),
        (linked_upwards, "symbolic link"),
        (nested, "no ordinary file"),
        (pipe, "no ordinary file"),
        (large_config, "more than"),
        (raw(1 << 62, b"{}"), "claims 4611686018427387904 bytes"),
        (raw(100, b"{}"), "claims 100 bytes"),
        (large_header, f"more than {LARGEST_HEADER}"),
        (raw(4, b"nope"), "not JSON"),
        (raw(3, b"[1]"), "not a table"),
        (raw(200_000, b"[" * 200_000), "not JSON"),
        (twice, "stands twice"),
        (header(shape=[2, 1 << 40]), "not where its shape"),
        (header(shape=[-2, -4]), "not where its shape"),
        (header(shape=[8]), "not where its shape"),
        (header(dtype="I64"), "not where its shape"),
        (header(data_offsets=[8, 40]), "not where its shape"),
        (header(data_offsets=[0, 1 << 50]), "not where its shape"),
        (header(shape=[2, 2], data_offsets=[0, 16]), "the file has 32"),
        (named("model.embed_tokens.weight"), "no factor of a LoRA"),
        (named("base_model.model.../../x.lora_A.weight"), "no factor of a LoRA"),
    ],
)
def test_a_crafted_adapter_is_refused(adapter: Path, craft: Callable[[Path], None], what: str) -> None:
    craft(adapter)
    for check in (check_adapter, read_factors):
        with pytest.raises(ModelError, match=what) as caught:
            check(adapter)
        assert "Do not load it" in caught.value.mend
    assert not (adapter.parent / "ran").exists()


def test_a_header_that_claims_gigabytes_costs_no_memory(adapter: Path) -> None:
    """A sparse file that really has the bytes it claims."""
    with (adapter / WEIGHTS).open("wb") as file:
        file.write((6 << 30).to_bytes(8, "little"))
        file.truncate((6 << 30) + 8)
    limited = (
        "import resource, sys; from pathlib import Path; from jpu.unlearning.adapter_check import check_adapter\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "check_adapter(Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, str(adapter)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "ModelError" in done.stderr and "MemoryError" not in done.stderr


def test_what_is_not_crafted_is_read(adapter: Path) -> None:
    for name in ("README.md", "tokenizer_config.json", ".gitattributes"):
        (adapter / name).write_text("{}")
    check_adapter(adapter)
    assert read_factors(adapter)[MODULE].rank == 2


def test_links_into_dvcs_cache_are_read_where_they_may_be(adapter: Path, tmp_path: Path) -> None:
    for name, md5 in ((CONFIG, "ab" * 15), (WEIGHTS, "cd" * 15)):
        cached = tmp_path / "cache/files/md5/aa" / md5
        cached.parent.mkdir(parents=True, exist_ok=True)
        (adapter / name).rename(cached)
        (adapter / name).symlink_to(cached)
    assert read_factors(adapter)[MODULE].rank == 2
    with pytest.raises(ModelError, match="symbolic link"):
        check_adapter(adapter)


def test_no_folder() -> None:
    with pytest.raises(ModelError, match="no adapter"):
        check_adapter(Path("no-such-folder"))
