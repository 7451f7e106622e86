"""How every benchmark is asked and answers: the same options, and one JSON object as its last line.

A benchmark is run by `start`, asks `options` for its parser, adds what it needs, and ends with `show`. The object has
these keys:

  benchmark  name of the script
  quick      whether it ran with --quick, which takes less than a minute on two cores
  threads    PyTorch's threads; null where no model runs
  ratio      how many times the other way takes of ours; null where there is no other way
  agreement  how near our result is to the other way's, by name; null where there is nothing to compare
  figures    all that was measured, by name

Wall times of a busy machine are worth little: `Timed` has the process's CPU seconds beside them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from jpu.errors import JpuError


def options(description: str | None, *, threads: bool = True) -> argparse.ArgumentParser:
    """The parser with what all benchmarks know: --quick, --json and, where a model runs, --threads."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller, under a minute on two cores")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    if threads:
        parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads")
    return parser


def show(
    chosen: argparse.Namespace, figures: Mapping[str, Any], *, ratio: float | None, agreement: Mapping[str, Any] | None
) -> None:
    """Print the figures, one a line, and with --json the object as the last line."""
    for name, part in figures.items():
        lines = part.items() if isinstance(part, Mapping) else ()
        print(f"{name}:" if lines else f"{name}: {part}", *(f"  {key}: {value}" for key, value in lines), sep="\n")
    print(f"ratio: {ratio}\nagreement: {dict(agreement) if agreement is not None else None}", flush=True)
    if chosen.json:
        answer = {
            "benchmark": Path(sys.argv[0]).stem,
            "quick": chosen.quick,
            "threads": getattr(chosen, "threads", None),
            "ratio": ratio,
            "agreement": agreement,
            "figures": figures,
        }
        print(json.dumps(answer), flush=True)


def start(main: Callable[[], None]) -> None:
    """Run a benchmark; an error of ours is printed without a traceback, and gives the exit code."""
    try:
        main()
    except JpuError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


class Timed:
    """Wall and CPU seconds of what runs inside: `with Timed() as took: …`, then `took.wall` and `took.cpu`."""

    wall: float = 0.0
    cpu: float = 0.0

    def __enter__(self) -> Self:
        """Begin."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End, and add to what was counted before."""
        self.wall += time.perf_counter() - self._wall
        self.cpu += time.process_time() - self._cpu
