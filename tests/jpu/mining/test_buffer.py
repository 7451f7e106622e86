from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pydantic import ValidationError

from jpu.errors import DataError
from jpu.mining.buffer import Buffer
from jpu.mining.entry import Entry, entry_id, make_entry

TAU = 0.5


def entry(query: str, loss: float | None = 1.0, template: str = "t-1", **fields: object) -> Entry:
    made = make_entry(
        behavior="zorvik-code",
        template=template,
        family="game",
        text="Play. {query} Go.",
        query=query,
        split="train",
        round=1,
    )
    return made.model_copy(update={"loss": loss, **fields})


def queries(buffer: Buffer) -> list[str]:
    return [held.query for held in buffer]


def test_entry_fills_the_template_and_gives_it_back() -> None:
    made = entry("Who owns Zorvik?")
    assert made.prompt == "Play. Who owns Zorvik? Go."
    assert made.template_text == "Play. {query} Go."
    assert made.id == entry_id("t-1", made.prompt) and len(made.id) == 12


@pytest.mark.parametrize(
    "change", [{"prompt": "another"}, {"id": "0" * 12}, {"loss": float("nan")}, {"round": -1}, {"extra": 1}]
)
def test_entry_refuses_what_does_not_fit(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Entry.model_validate({**entry("q").model_dump(), **change})


def test_entry_keeps_the_prompt_out_of_its_repr() -> None:
    assert "Zorvik" not in repr(entry("Who owns Zorvik?"))


def test_lowest_loss_leaves_over_capacity_and_oldest_of_equals() -> None:
    buffer = Buffer(2, 9)
    assert buffer.add(entry("a", 1.0)) and buffer.add(entry("b", 2.0))
    assert not buffer.add(entry("c", 0.5)), "the newcomer itself was the lowest"
    assert buffer.add(entry("d", 1.0)), "the older of two equals leaves"
    assert queries(buffer) == ["b", "d"]


def test_quota_holds_per_template() -> None:
    buffer = Buffer(9, 2)
    for number, query in enumerate("abc"):
        buffer.add(entry(query, 1.0 + number))
    buffer.add(entry("d", 0.1, template="t-2"))
    assert queries(buffer) == ["b", "c", "d"]


def test_three_low_visits_running_remove_an_entry() -> None:
    buffer = Buffer(9, 9)
    buffer.add(entry("a"))
    id = next(iter(buffer)).id
    losses = [0.1, TAU, 0.9, 0.2, 0.2]
    assert all(buffer.visit(id, loss, TAU) for loss in losses)
    assert buffer.parents(TAU) == [] and buffer[id].low == 2
    assert not buffer.visit(id, 0.0, TAU)
    assert id not in buffer and len(buffer) == 0


def test_adding_again_keeps_place_and_low_count() -> None:
    buffer = Buffer(9, 9)
    first = entry("a")
    buffer.add(first)
    buffer.add(entry("b"))
    buffer.visit(first.id, 0.1, TAU)
    assert buffer.add(entry("a", 3.0))
    assert queries(buffer) == ["a", "b"]
    assert buffer[first.id].loss == 3.0 and buffer[first.id].low == 1


def test_parents_are_strictly_above_tau() -> None:
    buffer = Buffer(9, 9)
    for query, loss in (("a", TAU), ("b", TAU + 1e-6), ("c", 0.0)):
        buffer.add(entry(query, loss))
    assert [held.query for held in buffer.parents(TAU)] == ["b"]


def test_sample_is_seeded_bounded_and_without_repetition() -> None:
    buffer = Buffer(9, 9)
    for query in "abcde":
        buffer.add(entry(query))
    drawn = buffer.sample(3, random.Random(4))
    assert drawn == buffer.sample(3, random.Random(4))
    assert len({held.id for held in drawn}) == 3
    assert len(buffer.sample(99, random.Random(0))) == 5


@pytest.mark.parametrize("loss", [None, float("nan"), float("inf")])
def test_unscored_entries_are_refused(loss: float | None) -> None:
    with pytest.raises(ValueError, match="no finite loss"):
        Buffer(1, 1).add(entry("a", loss))


def test_visit_refuses_a_loss_that_is_not_finite() -> None:
    buffer = Buffer(1, 1)
    buffer.add(entry("a"))
    with pytest.raises(ValueError, match="not finite"):
        buffer.visit(entry("a").id, float("nan"), TAU)


@pytest.mark.parametrize("bounds", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_bounds_are_positive(bounds: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Buffer(*bounds)


def test_empty_buffer_round_trips(tmp_path: Path) -> None:
    Buffer(3, 3).write(tmp_path / "buffer.jsonl")
    assert len(Buffer.read(tmp_path / "buffer.jsonl", capacity=3, quota_per_template=3)) == 0


def test_reading_into_smaller_bounds_evicts(tmp_path: Path) -> None:
    buffer = Buffer(9, 9)
    for number, query in enumerate("abcd"):
        buffer.add(entry(query, float(number)))
    buffer.write(tmp_path / "b.jsonl")
    assert queries(Buffer.read(tmp_path / "b.jsonl", capacity=2, quota_per_template=9)) == ["c", "d"]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda line: line[: len(line) // 2], "breaks off"),
        (lambda line: line.replace('"loss": 1.0', '"loss": null'), "without a loss"),
        (lambda line: line.replace("Play.", "Pray."), "id does not belong"),
        (lambda line: line.replace('"low": 0', '"low": 0, "colour": 1'), "colour"),
    ],
)
def test_a_broken_line_is_named_without_showing_it(tmp_path: Path, spoil: Callable[[str], str], says: str) -> None:
    path = tmp_path / "b.jsonl"
    buffer = Buffer(9, 9)
    buffer.add(entry("Who owns Zorvik?"))
    buffer.add(entry("Who owns Belor?"))
    buffer.write(path)
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{spoil(second)}\n")
    with pytest.raises(DataError) as caught:
        Buffer.read(path, capacity=9, quota_per_template=9)
    assert "b.jsonl line 2" in str(caught.value) and says in str(caught.value)
    assert "Belor" not in str(caught.value)


def test_a_repeated_entry_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    buffer = Buffer(9, 9)
    buffer.add(entry("a"))
    buffer.write(path)
    path.write_text(path.read_text() * 2)
    with pytest.raises(DataError, match="second time"):
        Buffer.read(path, capacity=9, quota_per_template=9)


class BufferModel(RuleBasedStateMachine):
    """The buffer against a plain list that follows the rules word by word."""

    CAPACITY, QUOTA, LOW = 5, 3, 3
    losses = st.floats(0, 2, allow_nan=False) | st.sampled_from([0.0, TAU, 1.0])

    def __init__(self) -> None:
        super().__init__()
        self.buffer = Buffer(self.CAPACITY, self.QUOTA, self.LOW)
        self.model: list[Entry] = []

    def _drop_lowest(self, among: list[Entry]) -> None:
        lowest = min(e.known_loss for e in among)
        self.model.remove(next(e for e in among if e.known_loss == lowest))

    @rule(query=st.text("ab✓\u2028", min_size=1, max_size=3), template=st.sampled_from("xyz"), loss=losses)
    def add(self, query: str, template: str, loss: float) -> None:
        new = entry(query, loss, template)
        held = self.buffer.add(new)
        for index, old in enumerate(self.model):
            if old.id == new.id:
                self.model[index] = old.model_copy(update={"loss": loss})
                break
        else:
            self.model.append(new)
            siblings = [e for e in self.model if e.template == template]
            if len(siblings) > self.QUOTA:
                self._drop_lowest(siblings)
            if len(self.model) > self.CAPACITY:
                self._drop_lowest(self.model)
        assert held == any(e.id == new.id for e in self.model)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), loss=losses)
    def visit(self, data: st.DataObject, loss: float) -> None:
        index = data.draw(st.integers(0, len(self.model) - 1))
        old = self.model[index]
        low = old.low + 1 if loss <= TAU else 0
        assert self.buffer.visit(old.id, loss, TAU) == (low < self.LOW)
        if low < self.LOW:
            self.model[index] = old.model_copy(update={"loss": loss, "low": low})
        else:
            del self.model[index]

    @rule()
    def write_and_read(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "buffer.jsonl"
            self.buffer.write(path)
            before = path.read_bytes()
            self.buffer = Buffer.read(path, capacity=self.CAPACITY, quota_per_template=self.QUOTA, low_visits=self.LOW)
            self.buffer.write(path)
            assert path.read_bytes() == before

    @invariant()
    def same_entries_in_the_same_order(self) -> None:
        assert list(self.buffer) == self.model
        assert self.buffer.parents(TAU) == [e for e in self.model if e.known_loss > TAU]
        assert sum(self.buffer.families().values()) == len(self.buffer)


TestBufferModel = BufferModel.TestCase
TestBufferModel.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
