from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jpu.checkpoint import STATE, TENSORS, Checkpoint, optimizer_tensors, restore_optimizers

TENSOR = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(1, dtype=torch.bfloat16)}


def test_what_is_saved_comes_back_and_the_last_one_counts(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "deep" / "c", "key")
    assert checkpoint.load() is None
    checkpoint.save({"old": torch.zeros(1)}, {"step": 1})
    checkpoint.save(TENSOR, {"step": 2, "nested": {"x": [1, None, "é"]}})
    loaded = Checkpoint(tmp_path / "deep" / "c", "key").load()
    assert loaded is not None
    tensors, state = loaded
    assert tensors.keys() == TENSOR.keys() and all(torch.equal(tensors[k], TENSOR[k]) for k in TENSOR)
    assert (state["step"], state["nested"]) == (2, {"x": [1, None, "é"]})


def test_equal_states_have_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        Checkpoint(tmp_path / name, "key").save(TENSOR, {"step": 2})
    for file in (STATE, TENSORS):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_views_and_parameters_are_saved_as_they_are(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.arange(6.0).view(2, 3))
    checkpoint = Checkpoint(tmp_path / "c", "key")
    checkpoint.save({"p": parameter, "t": parameter.T}, {})
    loaded = checkpoint.load()
    assert loaded is not None and torch.equal(loaded[0]["t"], parameter.detach().T)


def test_a_checkpoint_of_another_run_is_not_taken_up(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "c", "one").save(TENSOR, {"step": 2})
    assert Checkpoint(tmp_path / "c", "two").load() is None


@pytest.mark.parametrize("file", [STATE, TENSORS])
@pytest.mark.parametrize("damage", ["gone", "cut", "junk", "empty"])
def test_a_damaged_checkpoint_is_none(tmp_path: Path, file: str, damage: str) -> None:
    checkpoint = Checkpoint(tmp_path / "c", "key")
    checkpoint.save(TENSOR, {"step": 2})
    path = tmp_path / "c" / file
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": path.read_bytes()[:-7], "junk": b"\xff" * 50, "empty": b""}[damage])
    assert checkpoint.load() is None


def test_a_checkpoint_without_what_is_needed_is_none(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c", "key")
    checkpoint.save(TENSOR, {"step": 2})
    assert checkpoint.load(TENSOR) is not None
    assert checkpoint.load([*TENSOR, "renamed"]) is None


@pytest.mark.parametrize("text", ["[]", "null", '{"step": 2}'])
def test_a_state_without_its_key_is_none(tmp_path: Path, text: str) -> None:
    checkpoint = Checkpoint(tmp_path / "c", "key")
    checkpoint.save(TENSOR, {"step": 2})
    (tmp_path / "c" / STATE).write_text(text)
    assert checkpoint.load() is None


def test_clear_leaves_nothing_and_may_be_repeated(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c", "key")
    checkpoint.save(TENSOR, {"step": 2})
    checkpoint.clear()
    checkpoint.clear()
    assert not (tmp_path / "c").exists()


def test_an_optimizer_goes_on_as_if_nothing_had_happened() -> None:
    def start() -> tuple[torch.nn.Parameter, torch.optim.AdamW]:
        parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
        return parameter, torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.0)

    def steps(parameter: torch.nn.Parameter, optimizer: torch.optim.AdamW, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            parameter.pow(4).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    whole, first = start()
    steps(whole, first, 5)
    half, second = start()
    steps(half, second, 2)
    resumed, third = start()
    with torch.no_grad():
        resumed.copy_(half)
    restore_optimizers(optimizer_tensors(second), third)
    steps(resumed, third, 3)
    assert torch.equal(resumed, whole)
    assert not torch.equal(half, whole)
