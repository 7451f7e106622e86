"""dvc.yaml and params.yaml for a pipeline that goes on from a champion: what is no part of the change stays."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from jpu.errors import SettingsError
from tasks.params import read_document
from tasks.rewriting import with_rounds, with_settings, without_subject
from tasks.settings import load_settings
from tests.micro import ROOT
from tests.shipped import shipped_params, shipped_pipeline


def difference(old: str, new: str) -> list[str]:
    """Lines that were removed (-) and added (+)."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0)
    return [line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---")]


def test_the_subject_goes_with_its_comment_and_nothing_else_does(tmp_path: Path) -> None:
    text = shipped_pipeline()
    after = without_subject(text)
    gone = difference(text, after)
    assert all(line.startswith("-") for line in gone)
    assert next(line for line in gone if line.startswith("-  #")).startswith("-  # Make the chat model")
    assert "-  subject:" in gone and "-      - artifacts/subject" in gone
    assert "  # Read the sandbox" in after and "  # Each round, first" in after
    assert without_subject(after) == after
    (tmp_path / "dvc.yaml").write_text(after)
    (tmp_path / "old.yaml").write_text(text)
    old, new = (read_document(tmp_path / name).value["stages"] for name in ("old.yaml", "dvc.yaml"))
    assert list(new) == [name for name in old if name != "subject"]


def test_a_pipeline_without_its_subject_is_tested_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = shipped_pipeline()
    # The copy in tests/shipped.py is the stage that dvc.yaml has, where it has one.
    assert (ROOT / "dvc.yaml").read_text() in (shipped, without_subject(shipped))
    (tmp_path / "dvc.yaml").write_text(without_subject(shipped))
    monkeypatch.setattr("tests.shipped.ROOT", tmp_path)
    assert shipped_pipeline() == shipped


def test_rounds_are_replaced_and_comments_and_anchors_are_kept(tmp_path: Path) -> None:
    text = shipped_params()
    after = with_rounds(text, {"3": "2", "4": "3"})
    assert difference(text, after) == [
        "-  '1': {prev: '0'}",
        "-  '2': {prev: '1'}",
        "-last_round: '2'",
        "+  '3': {prev: '2'}",
        "+  '4': {prev: '3'}",
        "+last_round: '4'",
    ]
    (tmp_path / "params.yaml").write_text(after)
    assert load_settings(tmp_path / "params.yaml").on_the_way == ["3", "4"]


def test_single_settings_are_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text()
    old = load_settings(ROOT / "params.yaml").profiles["sandbox"]
    given = {"unlearning.weights.retain": 9.5, "mining.fresh": old.mining.fresh + 1, "unlearning.exposures.soft": 0.25}
    after = with_settings(text, "sandbox", given)
    (tmp_path / "params.yaml").write_text(after)
    new = load_settings(tmp_path / "params.yaml").profiles["sandbox"]
    assert (new.unlearning.weights.retain, new.mining.fresh) == (9.5, old.mining.fresh + 1)
    assert new.unlearning.exposures.soft == 0.25
    assert new.data == old.data and new.subject == old.subject and new.evaluation == old.evaluation
    assert new.unlearning.model_copy(update={"weights": 0, "exposures": 0}) == old.unlearning.model_copy(
        update={"weights": 0, "exposures": 0}
    )
    assert 0 < len(difference(text, after)) <= 6
    assert with_settings(after, "sandbox", given) == after
    assert with_settings(text, "sandbox", {}) == text


@pytest.mark.parametrize("key", ["unlearning.speed", "unlearning.weights", "unlearning.weights.retain.more"])
def test_a_setting_that_is_none(key: str) -> None:
    with pytest.raises(SettingsError, match=f"no setting '{key}'"):
        with_settings((ROOT / "params.yaml").read_text(), "sandbox", {key: 1})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(
            '{"rounds": {"1": {"prev": "0"}}, "last_round": "1", "seed": 1}',
            '{"rounds": {"2": {"prev": "1"}}, "last_round": "2", "seed": 1}',
            id="JSON",
        ),
        pytest.param(
            "last_round: 1  # the last\nrounds:\n    1:\n        prev: 0  # none\n# end\n",
            "last_round: '2'  # the last\nrounds:\n    '2': {prev: '1'}  # none\n# end\n",
            id="comments",
        ),
    ],
)
def test_rounds_in_other_styles(before: str, after: str) -> None:
    assert with_rounds(before, {"2": "1"}) == after


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("stages: [", "not YAML", id="broken"),
        pytest.param("- a", "not a table", id="a list"),
        pytest.param("vars: []", "no 'stages'", id="no stages"),
        pytest.param("stages:\n  mine:\n    cmd: a\n", "no rounds of 'mine'", id="other stages"),
    ],
)
def test_a_pipeline_of_another_repository(text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        without_subject(text)


@pytest.mark.parametrize("text", ["seed: 1", "rounds: {}", "a: &a {last_round: '1', rounds: {}}\n<<: *a\n"])
def test_settings_without_rounds(text: str) -> None:
    with pytest.raises(SettingsError, match=r"params\.yaml: has no"):
        with_rounds(text, {"2": "1"})
