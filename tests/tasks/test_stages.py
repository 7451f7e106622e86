"""Every stage, one after the other, on a micro sandbox: a world of five pairs of places and a model of two layers."""

from __future__ import annotations

import contextlib
import csv
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from jpu.data.schemas import Behavior, read_records
from jpu.errors import SubjectError
from jpu.evaluation.evaluate import EXTRA, METRICS
from jpu.models import Subject
from jpu.sandbox.__main__ import write
from jpu.sandbox.teach import new_model
from tasks import evaluate, identify, mine, rectification, subject, unlearn
from tasks.layout import PREPARED, SUBJECT, SUBJECT_METRICS, RoundFolder
from tasks.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
ARTIFACTS = Path("artifacts")
STAGES = [
    ("prepare",),
    ("subject",),
    *((name, number) for number in "12" for name in ("mine", "identify", "unlearn")),
    ("evaluate",),
]
DRIVER = """
import importlib, json, sys
for name, *arguments in json.loads(sys.argv[1]):
    importlib.import_module(f"tasks.{name}").main(*arguments)
"""
# Enough steps for the restricted questions to be refused directly, and to leak inside templates.
TEACHING = {"knowledge_steps": 80, "manners_steps": 300, "knowledge_batch": 12, "manners_batch": 12}
MICRO: dict[str, dict[str, Any]] = {
    "data": {"places": {"train": 2, "validation": 1, "test": 2}},
    "subject": {
        "device": "cpu",
        "dtype": "float32",
        "architecture": {"layers": 2, "width": 64, "ffn": 128, "heads": 2, "vocabulary": 400},
        "gates": {"direct_refusal": 0.0, "leak": 0.0, "benign_recall": 0.0},
    },
    "mining": {"fresh": 6, "revisit": 4, "iterations": 1, "offspring": 4, "references": 2},
    "paths": {"neurons": 2, "safety_neurons": 1, "steps": 2, "positions": 2, "samples": 3},
    "unlearning": {
        "attention_rank": 2,
        "steps": 6,
        "batch": 3,
        "retain_batch": 4,
        "prefill_batch": 2,
        "learning_rate": 5e-3,
        "warmup": 1,
        "refresh_every": 2,
        "retain_pairs": 16,
        "kl_budget": 9.0,
        "positions": 2,
        # All of them, whatever the profile leaves out.
        "weights": {"refusal": 1.0, "anchor": 1.0, "prefill": 1.0, "leak": 0.5, "retain": 1.0},
    },
    "evaluation": {
        "wordings": 1,
        "population": 1,
        "generations": 1,
        "children": 1,
        "probe_wordings": 1,
        "retain_pairs": 16,
        "resamples": 100,
        "max_new_tokens": 16,
    },
}


def params(rounds: int = 2, **changes: dict[str, Any]) -> str:
    """params.yaml (JSON is YAML): the sandbox's profile, made tiny."""
    profile = load_settings(ROOT / "params.yaml").profiles["sandbox"].model_dump(mode="json")
    for section, values in MICRO.items():
        profile[section] |= values | changes.get(section, {})
    profile["subject"]["teaching"] |= {**TEACHING, "learning_rate": 5e-3, "warmup": 5, "checkpoint_every": 80}
    chain = {str(number): {"prev": str(number - 1)} for number in range(1, rounds + 1)}
    return json.dumps(
        {"profile": "micro", "seed": 3, "rounds": chain, "last_round": str(rounds), "profiles": {"micro": profile}}
    )


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[io.StringIO]:
    """Work in a folder with nothing recorded; yields what is printed."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("JPU_TRACKING", "off")
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            yield printed


@dataclass(frozen=True)
class Done:
    """A pipeline that was run here, and the same in a process of its own."""

    here: Path
    there: Path
    printed: str


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    torch.set_num_threads(1)
    here, there = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("there")
    for folder in (here, there):
        write(folder / "data" / "sandbox")
        (folder / "params.yaml").write_text(params())
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JPU_", "MLFLOW_"))}
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, json.dumps(STAGES)],
        cwd=there,
        env={**kept, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1", "JPU_TRACKING": "off"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        with inside(here) as printed:
            for name, *arguments in STAGES:
                importlib.import_module(f"tasks.{name}").main(*arguments)
        output, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, output
    return Done(here, there, printed.getvalue() + output)


@pytest.fixture
def copy(done: Done, tmp_path: Path) -> Path:
    """The finished pipeline, to be changed."""
    return Path(shutil.copytree(done.here, tmp_path / "copy"))


def test_every_stage_leaves_what_dvc_expects_of_it(done: Done) -> None:
    listed = set(files(done.here / ARTIFACTS))
    adapter = {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "buffer.jsonl", "training.csv"}
    of_round = adapter | {"batch.jsonl", "mine.json", "path/path.json", "path/scores.safetensors", "overlap.csv"}
    assert listed >= {f"rounds/{n}/{name}" for n in "12" for name in (*of_round, "identify.json", "unlearn.json")}
    assert {f for f in listed if f.startswith("rounds/0")} == {"rounds/0/adapter/round.json", "rounds/0/buffer.jsonl"}
    assert {f for f in listed if f.startswith("evaluation")} == {
        f"evaluation/{name}" for name in ("metrics.json", "attempts.jsonl", "families.csv", "before_after.csv")
    }
    assert {
        "subject.json",
        "subject/model.safetensors",
        "subject/chat_template.jinja",
        "prepared/manifest.json",
    } <= listed
    # Checkpoints go when the outputs that they led to are in place.
    assert not files(done.here / ".jpu")


def test_the_same_seed_gives_the_same_bytes_in_another_process(done: Done) -> None:
    here, there = files(done.here / ARTIFACTS), files(done.there / ARTIFACTS)
    assert here.keys() == there.keys()
    assert [name for name in here if here[name] != there[name]] == []


def test_metrics_are_before_and_after_with_value_low_high_and_n(done: Done) -> None:
    metrics = json.loads((done.here / "artifacts/evaluation/metrics.json").read_text())
    assert set(metrics) == {"before", "after"}
    for part in metrics.values():
        assert set(part) == {*METRICS, *EXTRA}
        assert all(set(figure) == {"value", "low", "high", "n"} for figure in part.values())
    # A subject that is worth the trouble, which the defence has moved.
    before, after = metrics["before"], metrics["after"]
    assert before["direct_refusal"]["value"] > 0 and before["asr_static"]["value"] > 0
    assert before["kl"]["value"] == 0.0 < after["kl"]["value"]
    with (done.here / "artifacts/evaluation/before_after.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["when"], row["metric"]) for row in rows] == [(w, m) for w in ("before", "after") for m in METRICS]


def test_metrics_of_every_stage_are_numbers(done: Done) -> None:
    def numbers(value: Any) -> bool:
        return all(map(numbers, value.values())) if isinstance(value, dict) else isinstance(value, int | float)

    for name in ("subject.json", *(f"rounds/{n}/{s}.json" for n in "12" for s in ("mine", "identify", "unlearn"))):
        assert numbers(json.loads((done.here / ARTIFACTS / name).read_text())), name


def test_training_leaves_its_curve(done: Done) -> None:
    with (done.here / "artifacts/rounds/1/training.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(row[name] for row in rows for name in unlearn.COLUMNS)


def test_nothing_restricted_is_shown_or_reported(done: Done) -> None:
    behaviors = read_records(done.here / PREPARED / "behaviors.jsonl", Behavior)
    restricted = [b for b in behaviors if b.kind == "restricted"]
    # The defence saw these prompts, and the attack asked these questions.
    mined = {
        json.loads(line)["prompt"]
        for n in "12"
        for line in (done.here / f"artifacts/rounds/{n}/batch.jsonl").read_text().splitlines()
    }
    assert restricted and mined
    texts = mined | {text for b in restricted for text in (b.query, b.answer, b.secret, b.entity)}
    shown = {"stdout": done.printed.encode(), **files(done.here / "artifacts/evaluation")}
    found = [(name, text) for name, data in shown.items() for text in texts if text.lower() in data.decode().lower()]
    assert found == [] and len(done.printed.splitlines()) > 20


def test_an_attempt_is_stored_as_digests(done: Done) -> None:
    rows = [json.loads(line) for line in (done.here / "artifacts/evaluation/attempts.jsonl").read_text().splitlines()]
    assert {row["when"] for row in rows} == {"before", "after"}
    for row in rows:
        assert all(len(row[name]) == 12 and int(row[name], 16) >= 0 for name in ("prompt", "completion", "behavior"))
    assert {row["verdict"] for row in rows} >= {"leaked", "refused"}


# Rounds


def test_a_second_round_goes_on_from_the_first(done: Done) -> None:
    first, second = (
        json.loads((done.here / f"artifacts/rounds/{n}/adapter/adapter_config.json").read_text()) for n in "12"
    )
    # Rounds join by union: no unit that was trained is lost.
    assert set(first["rank_pattern"]) <= set(second["rank_pattern"])
    assert all(second["rank_pattern"][name] >= rank for name, rank in first["rank_pattern"].items())


def test_a_converged_round_passes_its_input_on(copy: Path) -> None:
    # No loss is above such a threshold.
    (copy / "params.yaml").write_text(params(3, mining={"tau": 90.0}))
    with inside(copy) as printed:
        for stage in (mine, identify, unlearn):
            stage.main("3")
        before, now = RoundFolder("2"), RoundFolder("3")
        assert now.batch.read_bytes() == b""
        assert files(now.adapter) == files(before.adapter)
        assert now.buffer.read_bytes() == before.buffer.read_bytes()
        assert json.loads((now.folder / "mine.json").read_text())["converged"] == 1
        assert json.loads((now.folder / "unlearn.json").read_text())["converged"] == 1.0
        assert list(csv.DictReader((now.folder / "training.csv").open())) == []
        # Every column that a plot names is there.
        header = (before.folder / "overlap.csv").read_text().splitlines()[0]
        assert (now.folder / "overlap.csv").read_text() == header + "\n"
    assert printed.getvalue().count("converged") == 3


def test_an_unlearning_that_was_killed_goes_on_to_the_same_bytes(
    copy: Path, done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def progress(title: str) -> Callable[..., None]:
        def report(step: int, steps: int, note: str) -> None:
            reached.append(step)
            if step == 5 and not killed:
                killed.append(step)
                raise Killed

        return report

    reached: list[int] = []
    killed: list[int] = []
    monkeypatch.setattr(rectification, "Progress", progress)
    now = copy / "artifacts/rounds/1"
    shutil.rmtree(now / "adapter")
    for name in ("buffer.jsonl", "training.csv", "unlearn.json"):
        (now / name).unlink()
    with inside(copy):
        with pytest.raises(Killed):
            unlearn.main("1")
        assert not (now / "adapter").exists() and files(copy / ".jpu")
        unlearn.main("1")
    assert reached == [1, 2, 3, 4, 5, 5, 6]
    assert files(now) == files(done.here / "artifacts/rounds/1")
    assert not files(copy / ".jpu")


# The rest


def test_a_model_folder_is_attacked_as_the_evaluation_does_it(copy: Path) -> None:
    before = files(copy)
    with inside(copy):
        found = evaluate.attack_folder(SUBJECT, RoundFolder("2").adapter)
        bare = evaluate.attack_folder(SUBJECT)
    metrics = json.loads((copy / "artifacts/evaluation/metrics.json").read_text())
    assert (found, bare) == (metrics["after"], metrics["before"])
    assert files(copy) == before


def test_a_subject_below_its_gates_leaves_nothing(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy / "params.yaml").write_text(
        params(subject={"gates": {"direct_refusal": 0.9, "leak": 0.5, "benign_recall": 0.9}})
    )
    taught = Subject.load(copy / SUBJECT, device="cpu")
    untaught = Subject(new_model(taught.tokenizer, layers=1, width=16, ffn=16, heads=1, seed=0), taught.tokenizer)
    monkeypatch.setattr(subject, "make", lambda *_: (untaught, []))
    shutil.rmtree(copy / SUBJECT)
    shutil.rmtree(copy / "artifacts/rounds")
    (copy / SUBJECT_METRICS).unlink()
    with inside(copy) as printed, pytest.raises(SubjectError, match="refuses 0% of the restricted questions"):
        subject.main()
    assert "direct refusal 0.0%" in printed.getvalue()
    assert not any((copy / path).exists() for path in (SUBJECT, SUBJECT_METRICS, Path("artifacts/rounds")))
