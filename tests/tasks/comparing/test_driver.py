"""A comparison from end to end on a micro sandbox: killed in the middle, gone on with, recorded, shown."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from flows.commands.compare import _run
from jpu.card.numbers import exact
from jpu.comparison.rows import Row, read_row
from jpu.errors import InfrastructureError
from tasks import compare as stage
from tasks.comparing.driver import Compared, Request, _unmade, compare, look
from tasks.comparing.plan import Run
from tasks.comparing.record import EXPERIMENT, Records
from tasks.comparing.report import COMPARISON, PAGE
from tasks.comparing.results import RESULTS, unwanted
from tests.micro_compare import EXPERIMENTS, write_experiments

ROOT = Path(__file__).resolve().parents[3]
DRIVER = """
from tasks.environment import quiet
quiet()
from tasks.comparing.driver import Request, compare
if __name__ == "__main__":
    compare(Request(workers=2), lambda line: print(line, flush=True))
"""


@dataclass(frozen=True)
class Done:
    """A comparison that was killed after its first rows, and then brought to its end in this process."""

    folder: Path
    early: tuple[str, ...]
    orphans: tuple[int, ...]
    compared: Compared
    said: tuple[str, ...]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("compare")
    write_experiments(folder)
    (folder / "drive.py").write_text(DRIVER)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JPU_", "MLFLOW_"))}
    process = subprocess.Popen(
        [sys.executable, "drive.py"],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT), "JPU_TRACKING": "off"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 400
        while len(list(folder.glob(f"{RESULTS}/*/*.json"))) < 2 and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.1)
        children = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    early = tuple(sorted(p.name for p in folder.glob(f"{RESULTS}/*/*.json")))
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("JPU_TRACKING", "off")
        compared = compare(Request(workers=0), said.append)
    assert len(children) >= 2
    return Done(folder, early, tuple(p.pid for p in alive), compared, tuple(said))


@pytest.fixture
def here(done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The finished comparison, to be worked in: its rows, not its subject."""
    for name in ("params.yaml", "experiments"):
        source = done.folder / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_nothing_outlives_a_kill(done: Done) -> None:
    assert done.orphans == ()


def test_a_killed_comparison_is_gone_on_with(done: Done) -> None:
    assert len(done.early) >= 2
    kept = {read_row(path).key for path in done.folder.glob(f"{RESULTS}/*/*.json") if path.name in done.early}
    assert not kept & set(done.compared.made)
    # 2 methods × 2 trials, 3 methods × 2 seeds, and the subject as it is.
    assert len(kept) + len(done.compared.made) == len(done.compared.rows) == 11
    assert done.compared.missing(Request()) == [] and done.compared.failed == {}
    # Those whose settings had still to be chosen are counted from the first.
    assert done.said[0].startswith(f"{len(done.compared.made)} to be made, 1 at a time, ")
    told = [re.match(r"\[(\d+)/(\d+), \d:\d\d left\] .* on micro, (trial|seed) \d: worst ", s) for s in done.said[1:]]
    counted = [(int(line[1]), int(line[2])) for line in told if line]
    assert counted == [(place, len(told)) for place in range(1, len(told) + 1)]
    assert "0:00 left" in done.said[-1]


def test_a_row_of_another_process_is_the_row_that_this_one_makes(done: Done, tmp_path: Path) -> None:
    """The first row was made by a worker: made again here, it is the same but for what it took."""
    path = next(p for p in sorted(done.folder.glob(f"{RESULTS}/*/*.json")) if p.name in done.early)
    before = read_row(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(done.folder)
        path.rename(tmp_path / "aside.json")
        again = compare(Request(workers=0), lambda line: None)
    assert again.made == [before.key]
    assert without_cost(read_row(path)) == without_cost(before)


def without_cost(row: Row) -> dict[str, object]:
    return row.model_dump(exclude={"cost"})


def test_a_row_holds_what_was_asked_for(done: Done) -> None:
    rows = {run.name: done.compared.rows[run.key] for run in done.compared.plan.runs}
    final, trial = rows["sft on micro, seed 1"], rows["sft on micro, trial 1"]
    attacks = {"asr_direct", "asr_static", "asr_prefill", "asr_union"}
    after = {"merged_asr", "quantised_8_asr", "quantised_8_recall", "pruned_30_asr", "pruned_30_recall"}
    assert {n for n in final.outcomes if n.startswith("asr_")} == attacks and final.outcomes.keys() >= after
    assert {n for n in trial.outcomes if n.startswith("asr_")} == {"asr_direct", "asr_static", "asr_union"}
    assert not trial.outcomes.keys() & after
    lessons = {f"relearning_{kind}" for kind in ("restricted", "benign", "refusals")}
    assert final.figures.keys() >= lessons | {"kl", "perplexity", "trained_parameters", "steps"}
    assert final.figures["steps"] == 4.0 and final.figures["out_of_time"] == 0.0
    # The test split has two restricted places, the validation split one.
    assert (len(final.entities["restricted"]), len(trial.entities["restricted"])) == (2, 1)
    assert final.cost.train_seconds > 0 and final.cost.peak_mib > 100 and final.cost.machine
    original = rows["original on micro, seed 0"]
    assert original.figures["kl"] == 0.0 and original.cost.train_seconds == 0.0 and original.settings == {}
    assert original.weights == final.weights
    # The ablation is JPU without one loss, and not JPU.
    assert rows["no_anchor on micro, seed 0"].outcomes.keys() == rows["jpu on micro, seed 0"].outcomes.keys()
    assert rows["no_anchor on micro, seed 0"].figures["kl"] != rows["jpu on micro, seed 0"].figures["kl"]


def test_rows_hold_no_text(done: Done) -> None:
    behaviors = [
        json.loads(line)
        for line in next(done.folder.glob(".jpu/compare/subjects/*/prepared/behaviors.jsonl")).read_text().splitlines()
    ]
    rows = "".join(path.read_text() for path in done.folder.glob(f"{RESULTS}/*/*.json"))
    restricted = [b for b in behaviors if b["kind"] == "restricted"]
    assert restricted
    assert not [b["entity"] for b in restricted for key in ("entity", "query", "secret") if b[key] in rows]


def test_there_is_nothing_left_to_do(here: Path) -> None:
    """From the committed files alone: no subject is made, nothing is run."""
    said: list[str] = []
    again = compare(Request(workers=2), said.append)
    assert said == [] and again.made == [] and len(again.rows) == 11
    assert not Path(".jpu").exists()


def test_what_is_not_asked_for_any_more_is_told_and_stays(here: Path) -> None:
    methods = {name: entry for name, entry in EXPERIMENTS["methods"].items() if name != "sft"}
    write_experiments(here, methods=methods)
    found = look(Request())
    assert found.missing(Request()) == [] and len(found.plan.runs) == 7
    assert sorted(path.name.split(".")[0] for path in unwanted(found.plan)) == ["sft"] * 4


def test_only_what_is_asked_for_is_run(here: Path) -> None:
    for path in Path(RESULTS).glob("*/*.json"):
        path.unlink()
    request = Request(methods=("no_anchor",))
    plan = look(request).plan
    # Its settings are chosen for another method.
    assert [run.name for run in plan.trials if request.wants(run, plan)] == [
        "jpu on micro, trial 0",
        "jpu on micro, trial 1",
    ]
    assert not any(request.wants(run, plan) for run in plan.finals)


def test_a_subject_of_two_groups_is_taught_once_and_its_runs_are_made_once(here: Path) -> None:
    again = EXPERIMENTS["subjects"]["micro"] | {"group": "again", "pooled": False}
    write_experiments(here, subjects=EXPERIMENTS["subjects"] | {"again": again})
    found = look(Request())
    # All that the second group asks for is there.
    assert found.missing(Request()) == [] and len(found.plan.finals) == 14 and len(found.asked(Request())) == 11
    for path in Path(RESULTS).glob("*/*.json"):
        path.unlink()
    empty = look(Request())
    assert [run.name for run in empty.missing(Request(subjects=("again",), methods=("original",)))] == [
        "original on again, seed 0"
    ]
    assert [job.name for job in _unmade(run.subject for run in empty.plan.runs)] == ["subject micro"]


def test_the_stage_makes_tables_plots_and_a_page_of_the_rows(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JPU_TRACKING", "off")
    stage.main()
    assert "11 of 11 runs." in capsys.readouterr().out
    first = {path.name: path.read_bytes() for path in COMPARISON.iterdir()}
    assert set(first) == {
        *("comparison.json", "comparison.md", "comparison.csv", "comparison.html", "pareto-micro.svg")
    }
    page = PAGE.read_text()
    row = look(Request())
    original = next(r for r in row.rows.values() if r.method == "original")
    static = original.outcomes["asr_static"].rate
    assert static is not None
    assert f'value="{exact(static)}" data-key="micro.original.asr_static.value"' in page
    assert "without the anchor loss" in page and "<script" not in page and "http://" not in page
    assert json.loads(Path("artifacts/comparison.json").read_text())["missing"] == 0
    # The same rows, the same bytes.
    stage.main()
    assert {path.name: path.read_bytes() for path in COMPARISON.iterdir()} == first


def test_every_row_is_in_mlflow_once(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JPU_TRACKING", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    found = look(Request())
    for _ in range(2):
        records = Records()
        for run in found.plan.runs:
            records.keep(run, found.rows[run.key])
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert {run.data.tags["jpu.compare.key"] for run in runs} == set(found.rows) and len(runs) == 11
    ours = next(run for run in runs if run.data.tags["mlflow.runName"] == "jpu on micro, seed 1")
    row = found.rows[ours.data.tags["jpu.compare.key"]]
    assert ours.data.metrics["asr_static"] == row.outcomes["asr_static"].rate
    assert ours.data.metrics["train_seconds"] == row.cost.train_seconds
    assert ours.data.params["unlearning.steps"] == "4" and ours.data.params["unlearning.defence.name"] == "jpu"
    # A run that its seconds ended was not counted: MLflow is told no zeros of it.
    late = row.model_copy(update={"key": "late", "figures": row.figures | {"out_of_time": 1.0, "kl_held_out": 0.0}})
    records.keep(found.plan.runs[0], late)
    (kept,) = client.search_runs([experiment.experiment_id], filter_string="tags.`jpu.compare.key` = 'late'")
    assert kept.data.metrics["out_of_time"] == 1.0 and not {"steps", "kl_held_out"} & kept.data.metrics.keys()


def test_a_store_that_is_away_for_a_time_ends_nothing(
    done: Done, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(done.folder)
    monkeypatch.setenv("JPU_TRACKING", "off")
    gone = [path for path in done.folder.glob(f"{RESULTS}/*/*.json") if path.name.startswith("sft.seed")]
    for path in gone:
        path.unlink()
    kept: list[str] = []

    def keep(self: Records, run: Run, row: Row) -> None:
        if not kept:
            kept.append("away")
            raise InfrastructureError("cannot be reached", where="MLflow")
        kept.append(row.key)

    monkeypatch.setattr(Records, "keep", keep)
    assert _run(Request(workers=0), Console()) == 0
    assert len(gone) == 2 and all(path.exists() for path in gone)
    assert "Not recorded, and tried again in the end" in capsys.readouterr().out
    assert set(kept[1:]) == set(done.compared.rows)
