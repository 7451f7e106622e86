from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from jpu.errors import DataError
from tasks.layout import EVALUATION, PREPARED, SUBJECT, SUBJECT_METRICS, RoundFolder, load_prepared
from tests.shipped import shipped_pipeline

Rows = dict[str, list[dict[str, Any]]]


def test_the_files_are_those_of_dvc_yaml() -> None:
    stages: dict[str, Any] = yaml.safe_load(shipped_pipeline())["stages"]
    first = RoundFolder("1")
    declared: set[str] = set()
    for stage in stages.values():
        for out in (o for kind in ("outs", "metrics", "plots") for o in stage.get("do", stage).get(kind, [])):
            declared.add((out if isinstance(out, str) else next(iter(out))).replace("${key}", "1"))
    ours = [PREPARED, SUBJECT, SUBJECT_METRICS, RoundFolder("0").adapter, RoundFolder("0").buffer]
    ours += [first.batch, first.path, first.adapter, first.buffer]
    assert {path.as_posix() for path in ours} <= declared
    assert {out for out in declared if out.startswith(f"{EVALUATION.as_posix()}/")}


def test_prepared_data_is_read_and_split(rows: Rows, write_sandbox: Callable[[Rows], Path]) -> None:
    data = load_prepared(write_sandbox(rows))
    assert len(data.behaviors) == 9 and len(data.templates) == 6
    train = data.split("train")
    assert {b.split for b in train.behaviors} == {t.split for t in train.templates} == {"train"}
    assert [b.id for b in train.restricted] == ["Zoruk-code"]
    assert train.refusals == data.refusals
    assert train.refusal_texts == ["I will not tell that code.", "Sorry, that code stays with me."]


def test_data_that_is_not_prepared_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_prepared(tmp_path / "nothing")
    assert "nothing" in str(caught.value)
