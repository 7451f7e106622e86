"""The one place in which a stage's error becomes a message and an exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from jpu.errors import JpuError


def run_stage(main: Callable[..., None], *, rounds: bool = False, argv: Sequence[str] | None = None) -> NoReturn:
    """Run a stage and end the process.

    An error of ours is printed to stderr without a traceback, and its class gives the exit code; a bug keeps
    its traceback and Python's exit code 1. Sets nothing else: no logging, no signals, no environment.

    Args:
        main: The stage. Called without arguments, or with the round's name.
        rounds: Whether the stage is unrolled, and so takes `--round R`.
        argv: Command line, without the program's name.

    Raises:
        SystemExit: Always.
    """
    module = sys.modules.get(main.__module__)
    parser = argparse.ArgumentParser(
        description=module.__doc__ if module else None, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if rounds:
        parser.add_argument("--round", required=True, metavar="R", help="number of the round, from 1")
    options = parser.parse_args(argv)
    try:
        main(options.round) if rounds else main()
    except JpuError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)
