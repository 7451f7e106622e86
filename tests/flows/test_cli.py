"""The command line: it reads well, and every error ends as its own message and code."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.exceptions import TerminationSignal
from rich.console import Console
from typer.testing import CliRunner

from flows import doctor, own_servers, report, session
from flows.cli import app
from flows.process import Guarded
from flows.runner import Outcome
from jpu.attacks import registered
from jpu.card import AttackResult, Card, Figure, SubjectInfo, compare
from jpu.errors import DataError, InfrastructureError, SettingsError, StageError
from jpu.evaluation.agreement import confusion
from jpu.evaluation.names import name_of
from tasks import settings
from tasks.environment import identity
from tasks.judging import Votes, judging
from tasks.rejudging import Calibration

FIGURE = {"value": 0.021, "low": 0.004, "high": 0.05, "n": 192}
FIGURES = {
    "before": {"asr_static": FIGURE, "kl": {"value": 0.0, "low": None, "high": None, "n": 5}},
    "after": {"asr_static": FIGURE | {"value": None}, "kl": FIGURE, "something_new": FIGURE},
}


def jpu(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "TERM": "dumb"})


@pytest.mark.parametrize(
    "command",
    [
        *(
            "",
            "harden",
            "stages",
            "data",
            "ui",
            "doctor",
            "attack",
            "judge",
            "utility",
            "report",
            "inbox",
            "compare",
            "reharden",
            "schedule",
        ),
        *("services", "services status", "services env", "services stop"),
        *("lineage", "verify", "diff", "promote", "rollback"),
    ],
)
def test_help_reads_well(command: str) -> None:
    shown = jpu(*command.split(), "--help")
    assert shown.exit_code == 0
    assert "Usage: " in shown.output
    assert "Args:" not in shown.output


def test_help_takes_no_library_of_the_stack() -> None:
    script = (
        "import sys; sys.argv = ['jpu', '--help']\n"
        "from flows.cli import app\n"
        "try: app()\n"
        "finally: print(sorted({'prefect', 'mlflow', 'torch', 'dvc'} & set(sys.modules)), file=sys.stderr)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=root)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SettingsError("unknown key 'taus'", where="params.yaml line 3", mend="Remove it."), 2),
        (StageError("it failed", where="stage mine@1", mend="[bold]See above[/bold]."), 9),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_are_messages(error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**options: object) -> None:
        raise error

    monkeypatch.setattr(session, "run", fail)
    monkeypatch.setattr(settings, "load_settings", lambda: None)
    shown = jpu("harden", "--profile", "sandbox", "--seed", "3", "--force", "--stage", "mine")
    assert shown.exit_code == code
    assert "Traceback" not in shown.output
    assert (str(error).splitlines() or ["Stopped"])[0] in shown.output


def test_params_are_checked_before_anything_starts(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "run", lambda **options: pytest.fail("started"))
    shown = jpu("harden")
    assert shown.exit_code == 2
    assert "params.yaml line" in shown.output


def test_a_finished_run_says_where_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = [vars(Outcome("prepare", "unchanged", "", 0.0)), vars(Outcome("mine@1", "restored", "x", 1.0))]
    result = {"outcomes": outcomes, "figures": FIGURES, "model": "jpu-sandbox 3", "run": "abc"}
    monkeypatch.setattr(session, "run", lambda **options: result)
    monkeypatch.setattr(settings, "load_settings", lambda: None)
    shown = jpu("harden")
    assert shown.exit_code == 0, shown.output
    for words in (
        "2.1 % (0.4-5.0)",
        "Restored from DVC's run-cache: mine@1",
        "jpu-sandbox 3",
        "jpu ui",
        "metrics.json",
    ):
        assert words in shown.output
    outcomes[1]["what"] = "unchanged"
    assert "nothing was executed (2 stages)" in jpu("harden").output


def test_the_table() -> None:
    rows = {row.name: row for row in report.rows(FIGURES)}
    assert rows["static attack"].before == "2.1 % (0.4-5.0)"
    assert rows["static attack"].after == "-"
    assert rows["KL from the original"].after == "0.021 (0.004-0.050)"
    assert rows["KL from the original"].before == "0.000"
    assert (rows["something new"].n, rows["something new"].after) == ("192", "0.021 (0.004-0.050)")
    assert report.rows({}) == []
    text = report.markdown(FIGURES, [Outcome("mine@1", "executed", "forced", 2.5)])
    assert "| mine@1 | executed | forced | 2.5 |" in text


def test_the_table_has_a_line_for_each_figure_in_80_columns() -> None:
    widest = {"value": 1.0, "low": 0.893, "high": 1.0, "n": 896}
    console = Console(width=80, file=io.StringIO())
    keys = [f"asr_{name}" for name in ("worst", "union", *registered())]
    keys += [f"asr_{name}_any" for name, attack in registered().items() if attack.unit == "prompt"]
    keys += ["over_refusal_in_template", "near_miss_in_template_recall", "answer_words", "kl"]
    console.print(report.table({side: dict.fromkeys(keys, widest) for side in ("before", "after")}))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    for key in keys:
        words = name_of(key).words
        assert any(f"{words} " in line and line.rstrip().endswith(" 896") for line in lines), words
    assert "…" not in "".join(lines)


def test_stages(repository: Path) -> None:
    Path("data/file.txt").write_text("changed")
    shown = jpu("stages")
    assert shown.exit_code == 0
    assert "output data changed" in shown.output
    assert "never ran before" in shown.output


def test_data(repository: Path) -> None:
    assert "data: " in jpu("data").output


def test_doctor_names_what_is_wrong(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("constraints.txt").write_text("dvc==0.1\nno-such-package==1\n# torch==1\n")
    Path("data/file.txt").write_text("changed")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    console = Console(width=250, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    assert doctor.examine(console) == 1
    text = console.export_text()
    for words in (
        "(pinned 0.1)",
        "params.yaml line",
        "dvc add data",
        "does not answer",
        "JPU_TRACKING=off",
        "remote none",
    ):
        assert words in text
    console.file.close()


def test_doctor_goes_on_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> doctor.Finding:
        raise DataError("it is [torn]", where="x", mend="Mend it.")

    monkeypatch.setattr(doctor, "CHECKS", (broken, lambda: doctor.Finding("disk", "plenty")))
    console = Console(width=120, record=True, quiet=False, file=sys.stderr)
    assert doctor.examine(console) == 1
    assert "plenty" in console.export_text()


def test_ports() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SettingsError, match="is taken"):
            own_servers.free_port(taken.getsockname()[1])
    assert own_servers.free_port() > 1024


def test_servers_of_a_dead_process_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert own_servers.running() == {}
    Path(".jpu").mkdir()
    for process in (identity() | {"started": "5"}, identity()):
        # The second one lives, but nothing answers at its address.
        own_servers.RUNNING.write_text(json.dumps({"prefect": "http://127.0.0.1:1/api", "process": process}))
        assert own_servers.running() == {}


def test_a_server_of_the_users_own_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    monkeypatch.setattr(own_servers, "wait_for", lambda url, *rest: None)
    with own_servers.prefect_server() as ready:
        assert ready() == "http://127.0.0.1:1/api"
    assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:1/api"


def test_a_server_that_dies_at_its_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", "raise SystemExit('no room')"]
    with Guarded(command, log=log) as server, pytest.raises(InfrastructureError, match="at its start: no room"):
        own_servers.wait_for("http://127.0.0.1:1", server, log)


def test_termination_cleans_up() -> None:
    """SIGTERM becomes SystemExit, so that `with` blocks around servers and stages are left properly."""
    with pytest.raises(SystemExit) as ended, session._terminable():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert ended.value.code == 143


def test_tables_of_judges_fit_into_80_columns() -> None:
    yes, no = [True] * 40 + [False] * 60, [False] * 55 + [True] * 45
    console = Console(width=80, file=io.StringIO())
    console.print(report.calibrations([Calibration(name, confusion(yes, no)) for name in ("refusal", "substring")]))
    votes: Votes = {"secret": list(yes), "refusal": list(no), "substring": [None, *no[1:]], "strongreject": list(yes)}
    console.print(*report.agreements(judging(votes)), sep="\n")
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in said and "0.0 % (0.0-8.8)" in said and "against 100 labels" in said


def test_a_comparison_fits_into_80_columns() -> None:
    def card(value: float) -> Card:
        figure = Figure(value=value, low=value, high=value, n=32)
        attack = AttackResult(name="static", title="random search", before=figure, behaviors=32)
        return Card(subject=SubjectInfo(name="a model with a very long name " * 3), attacks=(attack,))

    console = Console(width=80, file=io.StringIO())
    console.print(report.differences(compare(card(1.0), card(0.0), anyway=True)))
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in said and "100.0" in said


def test_attacks_come_first_in_the_table() -> None:
    keys = ["kl", "quantised_8_asr", "asr_worst", "asr_static_any", "asr_static", "over_refusal", "asr_direct"]
    figures = {"before": dict.fromkeys(keys, FIGURE)}
    assert [row.name for row in report.rows(figures)] == [
        *("direct attack", "static attack", "worst attack", "static attack, any prompt"),
        *("over-refusal", "KL from the original", "int8: static attack"),
    ]


def test_what_is_behind_an_error_of_prefects(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal, where its server was ended with the run; a server that is away, where nobody told the run to end."""
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    away = httpx.ConnectError("refused")
    assert isinstance(found := session._known(away), InfrastructureError) and "http://127.0.0.1:1/api" in str(found)
    away.__context__ = TerminationSignal(signal.SIGTERM)
    assert isinstance(ended := session._known(away), SystemExit) and ended.code == 143
    bug = KeyError("a bug")
    assert session._known(bug) is bug
    bug.__cause__ = InfrastructureError("full", where="disk", mend="Empty it.")
    assert session._known(bug) is bug.__cause__
