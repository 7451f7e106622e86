"""How every command ends: a JpuError as its own message and exit code, without a traceback."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec

import typer
from rich.console import Console

from jpu.errors import JpuError

P = ParamSpec("P")

_STOPPED = 130


def shown(command: Callable[P, int | None]) -> Callable[P, None]:
    """Show a JpuError as its message, Ctrl-C as one line, and end with the right exit code."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = command(*args, **kwargs) or 0
        except JpuError as error:
            Console(stderr=True).print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
            code = error.exit_code
        except KeyboardInterrupt:
            Console(stderr=True).print("Stopped. Run the same command again to go on.")
            code = _STOPPED
        raise typer.Exit(code)

    return wrapper
