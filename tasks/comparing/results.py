"""Rows on disk: experiments/results, one small file a run, to be committed so that others go on from them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jpu.comparison.rows import Row, read_row, write_row

if TYPE_CHECKING:
    from tasks.comparing.plan import Plan, Run

RESULTS = Path("experiments/results")


def place(run: Run, folder: Path = RESULTS) -> Path:
    """Where a run's row is: a name to read, and enough of its key to be its own."""
    what = f"trial{run.trial}" if run.kind == "trial" else f"seed{run.seed}"
    return folder / run.subject.name / f"{run.method}.{what}.{run.key[:12]}.json"


def keep(run: Run, row: Row, folder: Path = RESULTS) -> Path:
    """Write a run's row, whole or not at all. Raises StorageError."""
    path = place(run, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_row(path, row)
    return path


def read_rows(folder: Path = RESULTS) -> dict[str, Row]:
    """Key → row, of all that is there, wanted or not.

    Raises:
        DataError: A file is no row; names it.
    """
    return {row.key: row for row in map(read_row, _files(folder))}


def unwanted(plan: Plan, folder: Path = RESULTS) -> list[Path]:
    """Files of runs that the plan does not ask for: of other settings, other code, or methods that are gone.

    Final runs of a method whose setting is still to be chosen are not among them, nor learning rates tried with it: it
    may be theirs.
    """
    # By key: settings that have another number now, or another method's name, are the same run.
    wanted = {_key(place(run, folder)) for run in plan.runs}

    def may_be(path: Path) -> bool:
        method, what = path.name.split(".")[:2]
        subject = path.parent.name
        if (method, subject) not in plan.waiting:
            return False
        return what.startswith("seed") or bool(plan.experiments.subjects[subject].learning_rate_multipliers)

    return [path for path in _files(folder) if _key(path) not in wanted and not may_be(path)]


def _key(path: Path) -> str:
    """What a file's name tells of its run's key."""
    return path.name.split(".")[-2]


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob("*/*.json"))
