"""`jpu reharden`, one re-hardening now, and `jpu schedule`, which has a Prefect server do it again and again."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from flows.commands.shown import shown


@shown
def reharden(
    profile: Annotated[str | None, typer.Option(help="Whose champion.", show_default=False)] = None,
    force: Annotated[str, typer.Option(help="Harden in any case, and for this reason.", show_default=False)] = "",
    inbox: Annotated[
        str,
        typer.Option(
            help="A folder, or s3://bucket/prefix. Without it: JPU_INBOX, or inbox.source of params.yaml.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Harden the champion again where there is reason to, and promote what passes the gates.

    Works in a checkout of its own. Whatever happens, the champion stays until a better one has shown that it is.
    """
    from flows.session import served

    def flow() -> dict[str, Any]:
        from flows.reharden import reharden

        result: dict[str, Any] = reharden(profile=profile, force=force, inbox=inbox)
        return result

    report(served("reharden", flow), Console())


@shown
def schedule(
    cron: Annotated[
        str, typer.Option(help="When, as cron has it. Without it: reharden.cron of params.yaml.", show_default=False)
    ] = "",
    pool: Annotated[str, typer.Option(help="The work pool of the workers that run it.")] = "jpu",
    off: Annotated[bool, typer.Option("--off", help="Keep the deployment, and pause its schedule.")] = False,
) -> None:
    """Have the Prefect server of PREFECT_API_URL re-harden on a schedule, and when the inbox says that it is filled."""
    from flows.schedule import put_on_schedule

    put_on_schedule(cron, pool, off, Console())


def report(found: dict[str, Any], console: Console) -> None:
    """What a run ended with, why, and where to look."""
    console.print(f"Re-hardening: {found['ending']}.", highlight=False)
    for reason in (found.get("decision") or {}).get("reasons", []):
        value = (reason.get("measured") or {}).get("value")
        shown = f" {value:.3g}, bound {reason['bound']}" if value is not None else ""
        console.print(escape(f"  because of {reason['trigger'].replace('_', ' ')}: {reason['name']}{shown}"))
    for gate in (found.get("verdict") or {}).get("gates", []):
        if not gate["passed"]:
            console.print(escape(f"  gate not passed: {gate['name']}: {gate['sentence']}"), style="yellow")
    if found.get("champion"):
        served = found["challenger"] if found["ending"] == "promoted" else found["champion"]
        console.print(f"Champion: {served}. `jpu lineage champion`, `jpu diff`, `jpu ui` show more.", highlight=False)
