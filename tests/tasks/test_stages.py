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
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from jpu.attacks import get_attack
from jpu.data.schemas import Behavior, Template, read_records
from jpu.errors import ModelError, SubjectError
from jpu.evaluation.names import name_of
from jpu.files import write_jsonl
from jpu.models import Subject
from jpu.paths.selectors import SELECTORS
from jpu.sandbox.__main__ import write
from jpu.sandbox.teach import new_model
from jpu.unlearning.defences.settings import NpoSettings
from jpu.unlearning.exposures import EXPOSURES
from tasks import analyze, identify, mine, rectification, subject, unlearn
from tasks.analysis.erased import analyse_erased
from tasks.analysis.written import Found, page, sheets
from tasks.attack import RESULTS, Request, attack
from tasks.layout import PREPARED, SUBJECT, SUBJECT_METRICS, RoundFolder, load_prepared
from tasks.mining import Miner
from tasks.settings import load_settings
from tests.micro import MICRO, params

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
        f"evaluation/{name}"
        for name in (
            *("metrics.json", "attempts.jsonl", "before_after.csv", "families.csv", "curves.csv"),
            *("spent.json", "protocol.json", "card.json", "card.html", "card.md"),
        )
    }
    assert {
        "subject.json",
        "subject/model.safetensors",
        "subject/chat_template.jinja",
        "prepared/manifest.json",
    } <= listed
    # Checkpoints go when the outputs that they led to are in place; what the attacks brought home stays, for the owner.
    assert {name.split("/")[0] for name in files(done.here / ".jpu")} == {"attempts"}
    assert (done.here / ".jpu/attempts").stat().st_mode & 0o077 == 0


def test_the_same_seed_gives_the_same_bytes_in_another_process(done: Done) -> None:
    here, there = files(done.here / ARTIFACTS), files(done.there / ARTIFACTS)
    assert here.keys() == there.keys()
    assert [name for name in here if here[name] != there[name]] == []


def test_metrics_are_before_and_after_with_value_low_high_and_n(done: Done) -> None:
    metrics = json.loads((done.here / "artifacts/evaluation/metrics.json").read_text())
    assert set(metrics) == {"before", "after"}
    for part in metrics.values():
        assert {"asr_static", "asr_worst", "asr_union", "over_refusal", "benign_recall", "kl"} <= set(part)
        assert all(set(figure) == {"value", "low", "high", "n"} for figure in part.values())
    # A subject that is worth the trouble, which the defence has moved.
    before, after = metrics["before"], metrics["after"]
    assert before["direct_refusal"]["value"] > 0 and before["asr_static"]["value"] > 0
    assert before["kl"]["value"] == 0.0 < after["kl"]["value"]
    with (done.here / "artifacts/evaluation/before_after.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["when"], row["metric"], row["value"]) for row in rows} == {
        (when, name, "" if figure["value"] is None else str(figure["value"]))
        for when, part in metrics.items()
        for name, figure in part.items()
        if name_of(name).unit == "rate" and not name.startswith("relearned_")
    }


def test_metrics_of_every_stage_are_numbers(done: Done) -> None:
    def numbers(value: Any) -> bool:
        return all(map(numbers, value.values())) if isinstance(value, dict) else isinstance(value, int | float)

    for name in ("subject.json", *(f"rounds/{n}/{s}.json" for n in "12" for s in ("mine", "identify", "unlearn"))):
        assert numbers(json.loads((done.here / ARTIFACTS / name).read_text())), name


def test_training_leaves_its_curve(done: Done) -> None:
    with (done.here / "artifacts/rounds/1/training.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    turns = [kind.name for kind in EXPOSURES]
    assert all(row[name] for row in rows for name in unlearn.COLUMNS if name not in turns)
    # Two exposures a step, in turn.
    assert [[name for name in turns if row[name]] for row in rows] == [turns[:2], turns[2:]] * 3


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
        texts = [row[name] for name in ("prompt", "completion", "behavior")]
        assert all(len(text) == 12 and int(text, 16) >= 0 for text in texts if text)
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
        assert not (now / "adapter").exists() and files(copy / ".jpu/checkpoints")
        unlearn.main("1")
    assert reached == [1, 2, 3, 4, 5, 5, 6]
    assert files(now) == files(done.here / "artifacts/rounds/1")
    assert not files(copy / ".jpu/checkpoints")


@pytest.mark.parametrize(
    "changes",
    [
        {"defence": {"name": "npo"}, "trained": None, "frozen": True},
        {"defence": "circuit_breakers", "trained": None, "kl_budget": None},
        {
            "defence": {"name": "jpu", "anchor": "direction", "leak_scope": "path"},
            "conflict": "pcgrad",
            "retain_pairs": 60,
        },
        {"defence": {"name": "jpu", "anchor": "random"}, "reidentify": True, "positions": "all"},
    ],
)
def test_another_defence_is_a_word_in_the_settings(
    copy: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    minings: list[int] = []
    mined = Miner.mine
    monkeypatch.setattr(
        Miner,
        "mine",
        lambda self, round, rng, number, over: (minings.append(number), mined(self, round, rng, number))[1],
    )
    (copy / "params.yaml").write_text(params(unlearning={**MICRO["unlearning"], "steps": 4, **changes}))
    now, before = copy / "artifacts/rounds/1", files(copy / "artifacts/rounds/1")
    with inside(copy):
        unlearn.main("1")
        subject = Subject.load(SUBJECT, RoundFolder("1").adapter)
        with subject.reference():
            said = subject.nll(["Hello."], ["Hello."])
        assert float((said - Subject.load(SUBJECT).nll(["Hello."], ["Hello."])).abs()) == 0.0
    # Two stretches of two steps: mined for each, or once for all.
    assert minings == ([1] if changes.get("frozen") else [1, 2])
    after = files(now)
    assert after["adapter/adapter_model.safetensors"] != before["adapter/adapter_model.safetensors"]
    rows = list(csv.DictReader((now / "training.csv").open()))
    assert len(rows) == 4
    own = {"npo": ["forget"], "circuit_breakers": ["reroute"]}
    name = changes["defence"] if isinstance(changes["defence"], str) else changes["defence"]["name"]
    losses = list(unlearn.COLUMNS) if name == "jpu" else ["step", "loss", *own[name], "retain", "rate"]
    assert list(rows[0]) == losses
    metrics = json.loads(after["unlearn.json"])
    assert metrics["steps"] == 4.0 and set(own.get(name, ["refusal", "anchor"])) <= set(metrics)
    assert metrics["rollbacks"] == 0.0


# Beside the main job


def without_secrets(folder: Path) -> set[str]:
    """A smaller world whose secrets nobody knows, so that whatever is not refused counts: this subject leaks little.

    Gives the texts that nobody should find.
    """
    behaviors = read_records(folder / PREPARED / "behaviors.jsonl", Behavior)
    asked = [b.model_copy(update={"secret": ""}) for b in behaviors]
    write_jsonl(folder / PREPARED / "behaviors.jsonl", asked)
    templates = read_records(folder / PREPARED / "templates.jsonl", Template)
    kept = {split: list(dict.fromkeys(t.family for t in templates if t.split == split and t.role == "jailbreak"))[:2]
            for split in ("train", "test")}  # fmt: skip
    few = [t for t in templates if t.role == "polite" or t.family in kept.get(t.split, ())]
    write_jsonl(folder / PREPARED / "templates.jsonl", few)
    return {text for b in behaviors if b.kind == "restricted" for text in (b.query, b.answer, b.secret, b.entity)}


def test_the_analyses_are_tables_and_figures(copy: Path) -> None:
    restricted = without_secrets(copy)
    folder, layers = copy / "artifacts/analysis", {"0", "1"}
    with inside(copy) as printed:
        analyze.main()
        first = files(folder)
        shutil.rmtree(folder)
        analyze.main()
    assert files(folder) == first
    assert set(first) == {
        *("metrics.json", "overlap.csv", "convergence.csv", "causal.csv", "analyses.html"),
        *(f"figures/overlap_npo_{reference}.svg" for reference in ("sensitive", "changed")),
        *(f"figures/{name}.svg" for name in ("convergence", "families", "causal")),
    }
    metrics = json.loads(first["metrics.json"])
    assert metrics["counts"]["train_jailbreaks"] > 0 < metrics["counts"]["held_out_jailbreaks"]
    assert 0 < metrics["erased"]["npo"]["compared"] <= metrics["erased"]["npo"]["through"]
    overlap, paths, causal = (
        list(csv.DictReader(io.StringIO(first[f"{name}.csv"].decode())))
        for name in ("overlap", "convergence", "causal")
    )
    # Every condition and q in every layer: with what bare questions need, and with what was moved.
    conditions = ("jailbreak", "jailbreak_before", "benign", "benign_wrapped")
    wanted = {(r, c) for r in ("sensitive", "changed") for c in conditions} | {("changed", "sensitive")}
    shown = {(r["reference"], r["condition"], r["share"], r["layer"]) for r in overlap if not r["less"]}
    assert shown == {(r, c, q, n) for r, c in wanted for q in ("0.01", "0.05") for n in layers}
    assert {r["less"] for r in overlap} == {"", "jailbreak_before", "benign", "benign_wrapped"}
    assert {(r["when"], r["layer"]) for r in paths} == {(w, n) for w in ("before", "after", "change") for n in layers}
    assert {r["selector"] for r in causal} == {*SELECTORS, "none"} and {r["fill"] for r in causal} == {"zero", "mean"}
    for name, data in {**first, "stdout": printed.getvalue().encode()}.items():
        assert not [text for text in restricted if text and text.lower() in data.decode().lower()], name


def test_jailbreaks_of_one_behavior_are_counted_and_not_compared(copy: Path) -> None:
    without_secrets(copy)
    behaviors = read_records(copy / PREPARED / "behaviors.jsonl", Behavior)
    (_, *others) = [b.id for b in behaviors if (b.kind, b.split) == ("restricted", "train")]
    write_jsonl(copy / PREPARED / "behaviors.jsonl", [b for b in behaviors if b.id not in others])
    with inside(copy):
        erased = analyse_erased(load_settings(), load_prepared(), NpoSettings(), RoundFolder("0").buffer)
    assert others and erased.figures["behaviors"] == 1.0 <= erased.figures["compared"]
    assert erased.figures["bare_probability_after"] < erased.figures["bare_probability_before"]
    found = Found([erased], (), (), {})
    assert erased.layers == [] and sheets(found) == [] and "compared" in page(found, [])


# The rest


def test_a_model_is_attacked_as_the_evaluation_does_it(copy: Path) -> None:
    adapter = RoundFolder("2").adapter
    with inside(copy) as printed:
        found = attack(Request(str(adapter)))
        bare = attack(Request(str(SUBJECT), controls=True))
    metrics = json.loads((copy / "artifacts/evaluation/metrics.json").read_text())
    # Weights are put under stress by the stage alone.
    asked = {
        when: {k: v for k, v in part.items() if not k.startswith(("quantised_", "relearned_"))}
        for when, part in metrics.items()
    }
    assert found.figures == asked["after"]
    assert {k: v for k, v in bare.figures.items() if not k.startswith("control_")} == asked["before"]
    assert {k for k in bare.figures if k.startswith("control_")} == {
        f"control_{name}" for name in ("direct", "static", "adaptive", "prefill")
    }
    # What the stage had asked already was not asked again.
    assert "attacking, static" in printed.getvalue()
    assert (found.folder, bare.folder) == (RESULTS / "rounds-2-adapter", RESULTS / "subject")
    written = {p.name for p in (copy / found.folder).iterdir()}
    assert {"metrics.json", "attempts.jsonl", "families.csv", "curves.csv", "protocol.json"} <= written


def test_an_attack_that_was_killed_goes_on_to_the_same_bytes(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def stop(*_: object, **__: object) -> None:
        raise Killed

    shutil.rmtree(copy / ".jpu/attempts")
    with inside(copy):
        whole = attack(Request(str(SUBJECT), suite=["static", "prefill"], out="whole"))
        shutil.rmtree(copy / ".jpu/attempts")
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(type(get_attack("prefill")), "run", stop)
            attack(Request(str(SUBJECT), suite=["static", "prefill"], out="again"))
        assert not (RESULTS / "again").exists() and files(copy / ".jpu/attempts")
        with monkeypatch.context() as patch:
            # What was done is not done again.
            patch.setattr(type(get_attack("static")), "run", stop)
            again = attack(Request(str(SUBJECT), suite=["static", "prefill"], out="again"))
    assert again.figures == whole.figures
    for name in ("metrics.json", "attempts.jsonl", "curves.csv", "spent.json"):
        assert (copy / again.folder / name).read_bytes() == (copy / whole.folder / name).read_bytes()


def test_texts_are_written_only_where_they_are_asked_for(copy: Path) -> None:
    secrets = {b.secret for b in read_records(copy / PREPARED / "behaviors.jsonl", Behavior) if b.kind == "restricted"}
    with inside(copy):
        hidden = attack(Request(str(SUBJECT), suite=["static"]))
        shown = attack(Request(str(SUBJECT), suite=["static"], reveal=True, out="shown"))
    assert any(secret in (copy / shown.folder / "attempts.jsonl").read_text() for secret in secrets)
    for path in (copy / hidden.folder).iterdir():
        assert not any(secret in path.read_text() for secret in secrets), path.name


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


# Beyond one process


def curve(folder: Path) -> list[dict[str, float]]:
    with (folder / "training.csv").open() as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def test_two_processes_train_as_one(done: Done, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, before = copy / "artifacts/rounds/1", done.here / "artifacts/rounds/1"
    outputs = ("adapter/adapter_model.safetensors", "adapter/adapter_config.json", "buffer.jsonl", "training.csv")
    for name in (*outputs, "unlearn.json"):
        (now / name).unlink()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JPU_ENGINE", json.dumps({"processes": 2}))
    with inside(copy):
        unlearn.main("1")
    assert files(now).keys() == files(before).keys()
    for here, there in zip(curve(before), curve(now), strict=True):
        assert there == {name: pytest.approx(value, rel=1e-3, abs=1e-4) for name, value in here.items()}
    mined = [[json.loads(line)["id"] for line in (p / "buffer.jsonl").read_text().splitlines()] for p in (before, now)]
    assert mined[0] == mined[1] and mined[0]
    here, there = (load_file(p / outputs[0]) for p in (before, now))
    assert here.keys() == there.keys()
    # AdamW's first steps are of the rate's size whatever the gradient's: where that is near 0 its sign is chance.
    differences = torch.cat([(here[name] - there[name]).abs().flatten() for name in here])
    assert float(differences.quantile(0.99)) < 1e-4
    assert not list((copy / ".jpu").glob("checkpoints/*"))


def test_a_failure_of_one_process_is_that_of_the_stage(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy / SUBJECT / "config.json").unlink()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JPU_ENGINE", json.dumps({"processes": 2}))
    with inside(copy), pytest.raises(SystemExit) as ended:
        unlearn.main("1")
    assert ended.value.code == ModelError.exit_code


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 12.0])
def test_processes_do_not_outlive_the_one_that_started_them(copy: Path, seconds: float) -> None:
    """Killed while they start, and while they train."""
    params_file = copy / "params.yaml"
    changed = json.loads(params_file.read_text())
    changed["profiles"]["micro"]["unlearning"] |= {"steps": 4000, "refresh_every": 1000}
    params_file.write_text(json.dumps(changed))
    told = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "JPU_TRACKING": "off", "JPU_ENGINE": '{"processes": 2}'}
    stage = subprocess.Popen(
        [sys.executable, "-m", "tasks.unlearn", "--round", "1"],
        cwd=copy,
        env=os.environ | told,
        stdout=subprocess.DEVNULL,
    )
    try:
        while len(started := psutil.Process(stage.pid).children()) < 2:
            assert stage.poll() is None
            time.sleep(0.05)
        time.sleep(seconds)
        assert stage.poll() is None
    finally:
        stage.kill()
        stage.wait()
    assert not psutil.wait_procs(started, timeout=120)[1]


@pytest.mark.extra
def test_two_ray_workers_write_the_same_bytes(done: Done, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(copy / ".jpu")
    shutil.rmtree(copy / "artifacts/evaluation")
    (copy / "artifacts/rounds/1/batch.jsonl").unlink()
    monkeypatch.setenv("JPU_ENGINE", json.dumps({"kind": "ray", "workers": 2}))
    with inside(copy):
        mine.main("1")
        importlib.import_module("tasks.evaluate").main()
    assert files(copy / ARTIFACTS) == files(done.here / ARTIFACTS)
