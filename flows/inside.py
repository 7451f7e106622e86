"""A `jpu` command in another checkout, with that checkout's code, ended with this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from flows.process import Guarded
from flows.runner import stage_environment
from jpu.errors import InfrastructureError, StageError


def jpu(*arguments: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Run it, its lines shown as they come.

    Args:
        arguments: The command and its options.
        folder: The checkout; its modules come before all others.
        environment: Added to this process's.

    Raises:
        InfrastructureError: It ended with that error's code, after its own retries.
        StageError: It failed.
    """
    given = stage_environment(environment)
    given["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, [given.get("PYTHONPATH")])])
    # -P would leave the folder out that -m puts first.
    command = [sys.executable, "-m", "flows.cli", *arguments]
    with Guarded(command, env=given, grace=20.0, folder=folder) as process:
        for line in process.lines():
            print(line, flush=True)
        code = process.wait()
    if code == InfrastructureError.exit_code:
        raise InfrastructureError(f"`jpu {arguments[0]}` could not reach what it needs", where=str(folder))
    if code:
        raise StageError(
            f"`jpu {arguments[0]}` ended with code {code}", where=str(folder), mend="Its message is above."
        )
