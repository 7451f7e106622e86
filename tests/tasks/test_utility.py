from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch

from jpu.errors import DataError, SettingsError
from jpu.models import Subject
from jpu.paths.path import Path as NeuronPath
from jpu.unlearning.adapter import attach, trainable_parameters
from jpu.unlearning.trained import Trained
from tasks.utility import before_and_after, run_harness
from tests.small_subject import save_small_subject

COLOURS = ["red", "green", "blue", "yellow"]
QUESTIONS = [
    {"place": place, "colour": at % 4} for at, place in enumerate(["Karil", "Posen", "Melan", "Tivor", "Zoruk"])
]

TASK = """\
task: colours
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "The colour of {{place}} is"
doc_to_target: colour
doc_to_choice: [red, green, blue, yellow]
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    return Subject.load(save_small_subject(tmp_path / "subject"), device="cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "tasks"
    made.mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in QUESTIONS)
    (made / "colours.jsonl").write_text(lines, encoding="utf-8")
    (made / "colours.yaml").write_text(TASK.replace("FILE", str(made / "colours.jsonl")), encoding="utf-8")
    return made


def accuracy(subject: Subject) -> float:
    """The share of questions whose right colour is the likeliest of the four, one at a time."""
    right = 0
    for row in QUESTIONS:
        sums = []
        for colour in COLOURS:
            head, tail = (subject.encode(text) for text in (f"The colour of {row['place']} is", f" {colour}"))
            with torch.no_grad():
                lines = subject.model(input_ids=torch.tensor([head + tail])).logits[0].double().log_softmax(-1)
            sums.append(sum(float(lines[len(head) - 1 + at, token]) for at, token in enumerate(tail)))
        right += sums.index(max(sums)) == row["colour"]
    return right / len(QUESTIONS)


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="the harness is installed")
def test_without_the_harness_the_error_says_how_to_get_it(subject: Subject) -> None:
    with pytest.raises(SettingsError, match="not installed") as caught:
        run_harness(subject, ["colours"])
    assert "pip install lm_eval" in caught.value.mend


@pytest.mark.extra
def test_before_and_after_are_measured_on_one_model(subject: Subject, folder: Path) -> None:
    bare = accuracy(subject)
    subject.model = attach(subject.model, NeuronPath({0: [1, 5]}), trained=Trained(rank=2))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainable_parameters(subject.model).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    environment = dict(os.environ)
    found = before_and_after(subject, ["colours"], include=folder)
    assert found["before"]["colours.acc"] == pytest.approx(bare)
    assert found["after"]["colours.acc"] == pytest.approx(accuracy(subject))
    assert os.environ.get("HF_DATASETS_OFFLINE") == environment.get("HF_DATASETS_OFFLINE")
    assert run_harness(subject, ["colours"], include=folder, limit=1)["colours.acc"] in (0.0, 1.0)


@pytest.mark.extra
def test_a_task_that_cannot_be_run_is_named(subject: Subject, folder: Path) -> None:
    with pytest.raises(SettingsError, match="no task is called colors"):
        run_harness(subject, ["colors"], include=folder)
    (folder / "colours.jsonl").unlink()
    with pytest.raises(DataError, match="could not be run"):
        run_harness(subject, ["colours"], include=folder)
