from __future__ import annotations

import json
import pathlib

import pytest
import torch

from jpu.errors import DataError
from jpu.paths.path import Path


def example() -> Path:
    return Path({2: [5, 1, 5], 0: [3], 1: []}, {1: [0]}, {"layer.2": torch.rand(6), "layer.0": torch.rand(6).double()})


def test_units_are_ordered_and_empty_layers_left_out() -> None:
    path = example()
    assert path.neurons == {0: (3,), 2: (1, 5)}
    assert list(path.neurons) == [0, 2]
    assert bool(path) and not bool(Path())


def test_union_keeps_every_unit_and_the_first_scores() -> None:
    first = Path({0: [1], 1: [2]}, scores={"layer.0": torch.zeros(3)})
    second = Path({0: [0, 1]}, {3: [2]}, {"layer.0": torch.ones(3), "layer.1": torch.ones(3)})
    joined = first.union(second)
    assert joined == Path({0: [0, 1], 1: [2]}, {3: [2]})
    assert joined.scores["layer.0"].sum() == 0 and joined.scores["layer.1"].sum() == 3


def test_saved_and_loaded_again(tmp_path: pathlib.Path) -> None:
    path = example()
    path.save(tmp_path / "path")
    loaded = Path.load(tmp_path / "path")
    assert loaded == path
    assert set(loaded.scores) == {"layer.0", "layer.2"}
    assert torch.equal(loaded.scores["layer.2"], path.scores["layer.2"])
    assert loaded.scores["layer.0"].dtype == torch.float32


def test_equal_paths_give_equal_bytes(tmp_path: pathlib.Path) -> None:
    path = example()
    path.save(tmp_path / "a")
    Path(dict(list(path.neurons.items())[::-1]), path.heads, dict(list(path.scores.items())[::-1])).save(tmp_path / "b")
    for name in ("path.json", "scores.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("index", "names"),
    [
        ("{", "path.json"),
        ("[]", "path.json"),
        ('{"format": 2, "neurons": {}, "heads": {}}', "path.json"),
        ('{"format": 1, "neurons": {"0": [-1]}, "heads": {}}', "path.json"),
        ('{"format": 1, "neurons": {"0": [1.5]}, "heads": {}}', "path.json"),
        ('{"format": 1, "neurons": {"x": [1]}, "heads": {}}', "path.json"),
        ('{"format": 1, "neurons": [1], "heads": {}}', "path.json"),
        ('{"format": 1, "heads": {}}', "path.json"),
    ],
)
def test_a_broken_index_is_refused(tmp_path: pathlib.Path, index: str, names: str) -> None:
    example().save(tmp_path / "path")
    (tmp_path / "path" / "path.json").write_text(index)
    with pytest.raises(DataError) as caught:
        Path.load(tmp_path / "path")
    assert names in str(caught.value) and caught.value.mend


def test_broken_or_missing_scores_are_refused(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "path"
    example().save(folder)
    weights = folder / "scores.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(DataError, match=r"scores\.safetensors: corrupted"):
        Path.load(folder)
    weights.unlink()
    with pytest.raises(DataError, match=r"scores\.safetensors: no such file"):
        Path.load(folder)


def test_nothing_but_units_and_format_in_the_index(tmp_path: pathlib.Path) -> None:
    example().save(tmp_path / "path")
    fields = json.loads((tmp_path / "path" / "path.json").read_text())
    assert fields == {"format": 1, "heads": {"1": [0]}, "neurons": {"0": [3], "2": [1, 5]}}
