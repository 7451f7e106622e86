"""`jpu compare`: method × subject × seed, each run once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flows.commands.shown import shown

if TYPE_CHECKING:
    from jpu.comparison.rows import Row
    from tasks.comparing.driver import Compared, Request
    from tasks.comparing.plan import Run


@shown
def compare(
    method: Annotated[
        list[str] | None, typer.Option(help="Only this method; may be repeated.", show_default=False)
    ] = None,
    subject: Annotated[
        list[str] | None, typer.Option(help="Only this subject; may be repeated.", show_default=False)
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes, of one thread each.", min=1)] = 1,
    experiments: Annotated[
        Path | None, typer.Option(help="File of experiments. Without it: experiments/compare.yaml.", show_default=False)
    ] = None,
    missing: Annotated[bool, typer.Option("--missing", help="Only say what is to be run.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Only remove rows that the file does not ask for.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Run nothing: make the page of what is there, and open it.")
    ] = False,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser, with --report.")] = True,
) -> int:
    """Compare the method with its rivals and with itself without its parts.

    Runs what experiments/compare.yaml asks for and what is not in experiments/results yet, a process for each of
    --workers; a run that was stopped goes on where it was. Then tables, plots and page are made, in
    artifacts/comparison. What it measures and how to read it is in docs/comparison.md.
    """
    from jpu.errors import SettingsError
    from tasks.comparing import driver
    from tasks.comparing.plan import EXPERIMENTS
    from tasks.environment import quiet

    quiet()
    console = Console()
    request = driver.Request(
        path=experiments or EXPERIMENTS, methods=method or (), subjects=subject or (), workers=workers
    )
    shipped = request.path.resolve() == EXPERIMENTS.resolve()
    if missing:
        return _missing(request, driver.look(request), console)
    for option, given in (("--prune", prune), ("--report", report)):
        # Rows of other files are in the same folder, and the stage in dvc.yaml reads that one file.
        if given and not (shipped and not method and not subject):
            raise SettingsError(
                f"{option} is for the whole of {EXPERIMENTS} alone",
                where="jpu compare",
                mend=f"Give {option} without --experiments, --method and --subject.",
            )
    if prune:
        return _prune(driver.look(request), console)
    code = 0 if report else _run(request, console)
    if shipped:
        _pages(console, show=report and show)
    return code


def _run(request: Request, console: Console) -> int:
    from jpu.errors import InfrastructureError
    from tasks.comparing import driver
    from tasks.comparing.record import Records

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False)

    away = False

    def keep(run: Run, row: Row) -> None:
        # Other runs are under way: the row is on disk, and is recorded when all are done.
        nonlocal away
        if not away:
            try:
                records.keep(run, row)
            except InfrastructureError as error:
                away = True
                say(f"Not recorded, and tried again in the end: {error}")

    records = Records()
    done = driver.compare(request, say, keep)
    for run in done.plan.runs:
        row = done.rows.get(run.key)
        if row is not None:
            # Others' rows, and those of a run that was killed before they were recorded.
            records.keep(run, row)
    for name, error in done.failed.items():
        console.print(f"Failed: {name}: {error}", style="red", markup=False, highlight=False)
    return max((error.exit_code for error in done.failed.values()), default=0)


def _missing(request: Request, found: Compared, console: Console) -> int:
    runs = found.asked(request)
    missing = found.missing(request)
    waiting = [pair for pair in found.plan.waiting if request.names(*pair)]
    for run in missing:
        console.print(run.name, highlight=False, markup=False)
    for method, subject in waiting:
        console.print(f"{method} on {subject}, once its trials are done", highlight=False, markup=False)
    console.print(f"{len(missing) + len(waiting)} to be run, {len(runs) - len(missing)} there.", highlight=False)
    return 0


def _prune(found: Compared, console: Console) -> int:
    from tasks.comparing.results import unwanted

    stale = unwanted(found.plan)
    for path in stale:
        path.unlink()
        console.print(str(path), highlight=False, markup=False)
    console.print(f"{len(stale)} rows removed that experiments/compare.yaml does not ask for.", highlight=False)
    return 0


def _pages(console: Console, *, show: bool) -> None:
    import webbrowser

    from flows.runner import repro
    from tasks.comparing.report import PAGE
    from tasks.settings import switch_on

    switch_on("compare", "rows")
    repro("compare@rows", say=lambda line: console.print(line, highlight=False, markup=False))
    console.print(f"Comparison: {PAGE}", highlight=False)
    if show and not webbrowser.open(PAGE.resolve().as_uri()):
        console.print("There is no browser here: open the file in one.")
