from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jpu.comparison.rows import Outcome, Row, counted, named, read_row, write_row
from jpu.errors import DataError

FIELDS: dict[str, Any] = {
    "key": "abc",
    "kind": "final",
    "subject": "s0",
    "method": "jpu",
    "seed": 0,
    "trial": 1,
    "settings": {"unlearning": {"steps": 3}},
    "entities": {"restricted": named(["Zoruk", "Melan"])},
    "outcomes": {"asr_static": {"of": "restricted", "k": [0, 2], "n": [3, 3]}},
    "figures": {"kl": 0.02, "relearning_benign": None},
    "weights": "ff",
}


def test_a_row_comes_back_as_it_was(tmp_path: Path) -> None:
    row = Row(**FIELDS)
    write_row(tmp_path / "row.json", row)
    assert read_row(tmp_path / "row.json") == row
    text = (tmp_path / "row.json").read_text()
    assert len(text.splitlines()) == 1 and "Zoruk" not in text


def test_counts_are_by_entity_and_in_its_order() -> None:
    held = [("b", True), ("a", False), ("b", False), ("b", True)]
    found = counted(held, ["a", "b", "c"], "restricted")
    assert (found.k, found.n) == ((0, 2, 0), (1, 3, 0))
    assert found.rate == 0.5
    assert counted([], ["a"], "restricted").rate is None


@pytest.mark.parametrize(
    "change",
    [
        {"outcomes": {"asr_static": {"of": "restricted", "k": [4, 2], "n": [3, 3]}}},
        {"outcomes": {"asr_static": {"of": "restricted", "k": [0], "n": [3]}}},
        {"outcomes": {"asr_static": {"of": "nobody", "k": [0, 2], "n": [3, 3]}}},
        {"figures": {"kl": "much"}},
        {"kind": "other"},
        {"version": 2},
        {"text": "a prompt"},
    ],
)
def test_what_is_no_row_is_refused_with_its_file(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "row.json"
    path.write_text(json.dumps(FIELDS | change))
    with pytest.raises(DataError, match="not a row of a comparison") as error:
        read_row(path)
    assert error.value.where == str(path) and "runs it again" in error.value.mend


def test_a_number_that_is_none_cannot_be_kept() -> None:
    with pytest.raises(ValueError, match="finite"):
        Row(**FIELDS | {"figures": {"kl": float("nan")}})


def test_no_more_successes_than_observations() -> None:
    with pytest.raises(ValueError, match="none above its observations"):
        Outcome(of="restricted", k=(1,), n=(0,))
