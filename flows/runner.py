"""One DVC stage, run by `dvc repro -s` in a process group of its own, and what came of it.

Knows nothing of Prefect (flows/harden.py makes a task of it) and of what a stage does. What a stage prints passes
through line by line, unchanged: leaving restricted text out is the stage's duty.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flows.process import Guarded
from jpu.errors import InfrastructureError, StageError
from tasks.environment import quiet
from tasks.repository import read_lock

What = Literal["executed", "restored", "unchanged"]

_RUNNING = re.compile(r"^Running stage '(?P<stage>.+)':$")
_RESTORED = re.compile(r"^Stage '(?P<stage>.+)' is cached - skipping run, checking out outputs$")
_FAILED = re.compile(r"exited with (?P<code>-?\d+)")
_LOCKED = re.compile(r"Unable to acquire lock|is busy, it is being blocked by|database is locked", re.IGNORECASE)
# What DVC says to a person at a prompt, of no use in a flow's log.
_ADVICE = re.compile(
    r"^(To (track the changes with git|enable auto staging), run:|\s+(git add|dvc config core\.autostage)\b.*"
    r"|Use `dvc push` to send your updates to remote storage\.|Data and pipelines are up to date\."
    r"|(Generating|Updating) lock file '.*'|WARNING: '.*' is empty\.|Stage '.*' didn't change, skipping|> .*)$"
)


@dataclass(frozen=True)
class Outcome:
    """What happened to a stage, why, and how many seconds it took."""

    stage: str
    what: What
    why: str
    seconds: float


def repro(
    stage: str,
    *,
    say: Callable[[str], None],
    force: bool = False,
    environment: Mapping[str, str] | None = None,
    grace: float = 15.0,
) -> Outcome:
    """Bring one stage up to date.

    Args:
        stage: Its name in dvc.yaml, `mine@1`.
        say: Called with every line of output.
        force: Execute it even if nothing changed.
        environment: Variables added to this process's.
        grace: Seconds that the stage has for cleaning up when it is stopped.

    Raises:
        StageError: The stage failed, or DVC could not run it.
        InfrastructureError: It failed in a way that may pass: exit code 8 of the stage, or a lock.
    """
    started = time.monotonic()
    before = read_lock().get(stage)
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "-s", stage]
    if force:
        command.insert(-2, "--force")
    seen = _Seen(stage)
    with Guarded(command, env=stage_environment(environment), grace=grace) as process:
        for line in process.lines():
            if seen.line(line):
                say(line)
        code = process.wait()
    if code:
        raise seen.error(code)
    seconds = time.monotonic() - started
    after = read_lock().get(stage)
    reasons = after.difference(before) if after else ()
    why = "; ".join(reasons) or {"unchanged": "nothing changed", "restored": "outputs were not in place"}.get(
        seen.what, "forced" if force else "outputs were not in place"
    )
    return Outcome(stage, seen.what, why, seconds)


def stage_environment(added: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a stage: this process's, with its Python first, telemetry off, and `added`."""
    environment = dict(os.environ)
    quiet(environment)
    # `python` in dvc.yaml has to be the one that runs the flow, also when its environment is not activated.
    folder = str(Path(sys.executable).parent)
    environment["PATH"] = os.pathsep.join([folder, environment.get("PATH", os.defpath)])
    environment["PYTHONUNBUFFERED"] = "1"
    # DVC runs commands with $SHELL, which may be anything, or no shell at all.
    environment["SHELL"] = "/bin/sh"
    environment.pop("MLFLOW_RUN_ID", None)
    return environment | dict(added or {})


class _Seen:
    """Reads DVC's own lines out of the stream."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.what: What = "unchanged"
        self.tail: deque[str] = deque(maxlen=30)

    def line(self, line: str) -> bool:
        """Note a line; whether a person wants to see it."""
        self.tail.append(line)
        if (found := _RUNNING.match(line)) and found["stage"] == self.stage:
            self.what = "executed"
            return False
        if (found := _RESTORED.match(line)) and found["stage"] == self.stage:
            self.what = "restored"
            return False
        return not _ADVICE.match(line)

    def error(self, code: int) -> StageError | InfrastructureError:
        """The error that the last lines speak of."""
        text = "\n".join(self.tail)
        exited = [int(match["code"]) for match in _FAILED.finditer(text)]
        where = f"stage {self.stage}"
        if _LOCKED.search(text):
            return InfrastructureError("DVC's lock is held", where=where, mend="Another run may be under way.")
        if not exited:
            last = next((line for line in reversed(self.tail) if line.startswith("ERROR")), "")
            return StageError(
                last.removeprefix("ERROR: ") or f"dvc ended with code {code}",
                where=where,
                mend="The lines above say more.",
            )
        kind = InfrastructureError if exited[-1] == InfrastructureError.exit_code else StageError
        return kind(
            f"the stage ended with code {exited[-1]}",
            where=where,
            mend="Its message is above. Run again when it is mended: finished stages are not repeated.",
        )
