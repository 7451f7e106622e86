"""Commands in groups of their own: they end with whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from flows.process import GUARD, Guarded

ROOT = Path(__file__).resolve().parents[2]
# Two children, one of them in a session of its own, all deaf to every polite signal; their ids in files.
STUBBORN = """
import os, signal, subprocess, sys, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
if len(sys.argv) > 1:
    for name, alone in (("a", False), ("b", True)):
        child = subprocess.Popen([sys.executable, __file__], start_new_session=alone)
        open(name + ".pid", "w").write(str(child.pid))
    open("ready", "w").close()
time.sleep(600)
"""


@pytest.fixture
def stubborn(tmp_path: Path) -> list[str]:
    script = tmp_path / "stubborn.py"
    script.write_text(STUBBORN)
    return [sys.executable, str(script), "parent"]


def wait_until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def pids(folder: Path) -> list[int]:
    wait_until(lambda: (folder / "ready").exists())
    return [int(file.read_text()) for file in folder.glob("*.pid")]


def all_gone(processes: list[int]) -> bool:
    def gone(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return all(gone(pid) for pid in processes)


def test_exit_code_and_output_pass_through() -> None:
    script = "import sys; print('one'); sys.stdout.write('10 %\\r20 %\\r'); print('ü', file=sys.stderr); sys.exit(8)"
    with Guarded([sys.executable, "-u", "-c", script]) as process:
        assert list(process.lines()) == ["one", "10 %", "20 %", "ü"]
        assert process.wait() == 8


def test_output_comes_as_it_is_written() -> None:
    with Guarded([sys.executable, "-u", "-c", "import time; print('now'); time.sleep(60)"], grace=1) as process:
        begun = time.monotonic()
        assert next(process.lines()) == "now"
        assert time.monotonic() - begun < 20


def test_a_signal_is_a_code_above_128() -> None:
    with Guarded([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) as process:
        assert process.wait() == 128 + signal.SIGKILL


def test_a_command_that_does_not_exist_is_127() -> None:
    with Guarded(["/no/such/program"]) as process:
        assert "No such file" in "".join(process.lines())
        assert process.wait() == 127


def test_leaving_the_block_ends_the_whole_group(stubborn: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with Guarded(stubborn, grace=0.2) as process:
        group = [process.pid, *pids(tmp_path)]
    assert len(group) == 3
    assert all_gone(group)


def test_the_stage_is_interrupted_before_it_is_killed(tmp_path: Path) -> None:
    script = (
        "import pathlib, time\n"
        "try:\n    print('ready', flush=True); time.sleep(60)\n"
        f"except KeyboardInterrupt:\n    pathlib.Path({str(tmp_path / 'clean')!r}).touch()"
    )
    # As a shell's `&` would: SIGINT ignored in the parent must not reach the command.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Guarded([sys.executable, "-c", script], grace=20) as process:
            assert next(process.lines()) == "ready"
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "clean").exists()


def test_what_a_command_leaves_behind_is_ended(tmp_path: Path) -> None:
    # The id comes in a file: on the output it would stand among the last words of the one that is ended.
    note = tmp_path / "left.pid"
    script = (
        "import pathlib, subprocess, sys\n"
        "left = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(note)!r}).write_text(str(left.pid))"
    )
    with Guarded([sys.executable, "-c", script]) as process:
        said = list(process.lines())
        assert process.wait() == 0, said
    assert all_gone([int(note.read_text())])


@pytest.mark.parametrize("victim", ["parent", "guard"])
def test_kill_9_leaves_no_orphan(victim: str, stubborn: list[str], tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom flows.process import Guarded\n"
        "with Guarded(sys.argv[1:], grace=0.2) as process:\n"
        "    open('guard', 'w').write(str(process.pid))\n"
        "    for line in process.lines(): pass\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, *stubborn], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    try:
        group = pids(tmp_path)
        guard = int((tmp_path / "guard").read_text())
        os.kill(parent.pid if victim == "parent" else guard, signal.SIGKILL)
        parent.wait(20)
        # A session of its own is out of reach when the guard itself was killed: nothing adopts it.
        mine = group if victim == "parent" else [int((tmp_path / "a.pid").read_text())]
        wait_until(lambda: all_gone([guard, *mine]))
    finally:
        parent.kill()
        parent.wait()
        for file in tmp_path.glob("*.pid"):
            subprocess.run(["kill", "-9", file.read_text()], capture_output=True, check=False)


def test_the_guard_needs_no_installed_package() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(GUARD)], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "usage" in done.stderr
