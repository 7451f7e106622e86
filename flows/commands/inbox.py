"""`jpu inbox`: what waits in the inbox, what would happen to it, and taking it in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.commands.shown import shown

if TYPE_CHECKING:
    from tasks.inbox import Taking

_COLOURS = {"taken": "green", "known": "dim", "partly": "yellow", "quarantined": "red", "waits": "dim"}
_REASONS = 5


@shown
def inbox(
    source: Annotated[
        str,
        typer.Option(
            help="A folder, or s3://bucket/prefix. Without it: JPU_INBOX, or inbox.source of params.yaml.",
            show_default=False,
        ),
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show the new prompts in plain text.")] = False,
) -> None:
    """Take new jailbreak templates and behaviors into the data, and put bad files into quarantine.

    What is good is written into data/inbox/ and pinned by data.dvc; the files move to taken/ or quarantine/.
    """
    from flows.alone import alone
    from flows.data import FOLDER, materialise
    from tasks.environment import quiet
    from tasks.inbox import open_inbox, put_away, take_in
    from tasks.settings import load_settings

    quiet()
    settings = load_settings()
    store = open_inbox(settings.inbox, source)
    console = Console()
    with alone():
        if not FOLDER.exists():
            materialise(console.print)
        taking = take_in(store, settings, dry_run=dry_run)
        show(taking, console, dry_run=dry_run, reveal=reveal)
        if not dry_run:
            put_away(store, taking)


def show(taking: Taking, console: Console, *, dry_run: bool = False, reveal: bool = False) -> None:
    """Print what became of each file, why records were refused, and what is new.

    Args:
        taking: The taking-in.
        console: Where to.
        dry_run: It was only looked.
        reveal: In plain text, rather than by digest.
    """
    if not taking.files:
        console.print(f"Nothing waits in {taking.source}.", highlight=False)
        return
    console.print(_files(taking))
    for file in taking.files:
        for problem in file.problems[:_REASONS]:
            said = escape(f"{problem.place}: {problem.what}. {problem.mend}")
            console.print(said + (f"\n  {escape(problem.text)}" if reveal and problem.text else ""), highlight=False)
        if len(file.problems) > _REASONS:
            console.print(f"{escape(file.name)}: {len(file.problems) - _REASONS} more.", highlight=False)
    if taking.accepted:
        console.print(_records(taking, reveal=reveal))
    for family in taking.unmeasured:
        said = f"Family {family}: too few wordings to hold one out; all are trained on, and none measures it."
        console.print(escape(said), style="yellow", highlight=False)
    if dry_run:
        console.print("Nothing was taken in: --dry-run.")
    elif taking.after != taking.before:
        console.print(f"data.dvc pins {taking.after}. Commit it, and `dvc push`.", highlight=False)


def _files(taking: Taking) -> Table:
    table = Table("file", "outcome", "new", "refused", "why", title=f"inbox: {taking.source}")
    for file in taking.files:
        reasons: dict[str, int] = {}
        for problem in file.problems:
            reasons[problem.reason] = reasons.get(problem.reason, 0) + 1
        why = file.why or ", ".join(f"{reason} {n}" for reason, n in sorted(reasons.items()))
        colour = _COLOURS[file.outcome]
        numbers = (str(len(file.accepted)), str(len(file.problems)))
        table.add_row(escape(file.name), f"[{colour}]{file.outcome}", *numbers, escape(why))
    return table


def _records(taking: Taking, *, reveal: bool) -> Table:
    """What is new: families with their wordings by split, and behaviors; each text only where it is asked for."""
    from jpu.data.schemas import Template, fingerprint

    table = Table("new", "of", "split", "text" if reveal else "digest")
    for record in taking.accepted:
        text, group = (record.text, record.family) if isinstance(record, Template) else (record.query, record.entity)
        kind = record.role if isinstance(record, Template) else record.kind
        # An entity may be the very thing that is restricted.
        named = group if reveal or isinstance(record, Template) else fingerprint(group)
        table.add_row(kind, escape(named), record.split, escape(text) if reveal else fingerprint(text))
    return table
