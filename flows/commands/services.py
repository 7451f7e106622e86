"""`jpu services`: PostgreSQL, S3, MLflow, Prefect and a worker on this machine, for who has no such servers yet."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.console import Console

from flows.commands.shown import shown

app = typer.Typer()


@app.callback(invoke_without_command=True)
def services(context: typer.Context) -> None:
    """Start PostgreSQL, S3, MLflow, Prefect and a worker on 127.0.0.1, until Ctrl-C.

    Passwords are drawn at the first start, and kept. In another terminal, `eval "$(jpu services env)"` makes every
    command use these services.
    """
    if context.invoked_subcommand is None:
        _serve()


@shown
def _serve() -> None:
    from flows.stack.installation import Installation
    from flows.stack.supervisor import Supervisor

    console = Console()
    Supervisor(
        Installation.make(), lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True)
    ).run()


@app.command()
@shown
def status() -> int:
    """Show what runs, where, and since when; ends with 1 unless all of it serves."""
    from rich.table import Column, Table

    from flows.stack.installation import FOLDER
    from flows.stack.record import read_record

    console = Console()
    entries = read_record(FOLDER)
    if not entries:
        console.print("No services run here. `jpu services` starts them.")
        return 1
    table = Table("service", Column("address", overflow="fold"), "state", "since", "restarts")
    colours = {"up": "green", "starting": "yellow", "down": "red"}
    for entry in entries:
        since = time.strftime("%d %b %H:%M:%S", time.localtime(entry.since)) if entry.since else ""
        state = f"[{colours[entry.state]}]{entry.state}"
        table.add_row(entry.title, entry.address, state, since, str(entry.restarts))
    console.print(table)
    return int(any(entry.state != "up" for entry in entries))


@app.command()
@shown
def env(
    inbox: Annotated[bool, typer.Option("--inbox", help="Only what whoever drops files into the inbox needs.")] = False,
) -> None:
    r"""Print the variables that name the services and log in, for `eval "$(jpu services env)"`.

    They hold passwords: think where you print them to.
    """
    from flows.stack.environment import exports, inbox_variables, pipeline_variables
    from flows.stack.installation import FOLDER, Installation
    from flows.stack.record import read_record

    installation = Installation.read()
    typer.echo(exports(inbox_variables(installation) if inbox else pipeline_variables(installation)))
    if not read_record(FOLDER):
        typer.echo("The services do not run now: `jpu services` starts them.", err=True)


@app.command()
@shown
def stop() -> None:
    """End the services that run here."""
    from flows.stack.installation import FOLDER
    from flows.stack.record import stop as stop_services

    console = Console()
    begun = time.monotonic()
    if stop_services(FOLDER):
        console.print(f"All have ended ({time.monotonic() - begun:.1f} s).", highlight=False)
    else:
        console.print("No services run here.")
