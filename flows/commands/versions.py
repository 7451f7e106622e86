"""Commands about registered versions: `jpu lineage`, `verify`, `diff`, `promote`, `rollback`.

A version is its number, an alias (`champion`, `challenger`), or a model's name with either: `jpu-sandbox/3`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flows.commands.shown import shown
from jpu.errors import DataError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

VersionName = Annotated[
    str, typer.Argument(help="A number, champion, challenger, or a model's name with either: jpu-sandbox/3.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]


@shown
def lineage(version: VersionName = "champion", as_json: Json = False) -> None:
    """Show what a version was made of: adapter, rounds, runs, data, base model, code."""
    from flows.version_views import tree
    from tasks.version_tree import lineage as trace

    found = trace(_client(), version)
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        Console().print(tree(found))


@shown
def verify(
    version: VersionName = "champion",
    deep: Annotated[
        bool,
        typer.Option(
            "--deep", help="Read every output, the cache as well as the remote, and the versions that it goes on from."
        ),
    ] = False,
    as_json: Json = False,
) -> int:
    """Derive a version's chain again, hash by hash, and name the first link that is broken.

    Ends with 0 where every link holds, 3 where one is broken, and 8 where a server or the remote is out of reach.
    """
    from flows.version_views import broken, ended, passed
    from tasks.verify import verify as derive

    console = Console()
    verdict = derive(_client(), version, deep=deep, say=(lambda one: None) if as_json else passed(console))
    if as_json:
        print(json.dumps(verdict.as_dict(), indent=2, ensure_ascii=False))
    elif verdict.broken:
        broken(console, verdict)
    else:
        ended(console, verdict)
    return DataError.exit_code if verdict.broken else 0


@shown
def diff(first: VersionName, second: VersionName = "champion", as_json: Json = False) -> None:
    """Show what changed from one version to another: data, settings, code, figures."""
    from flows.version_views import changes
    from tasks.version_diff import diff as compare

    found = compare(_client(), first, second)
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        console = Console()
        for part in changes(found):
            console.print(part, end="\n\n")


@shown
def promote(version: VersionName = "challenger") -> None:
    """Make a version the champion: MLflow's alias and git's branch together, or not at all.

    Checks no gate. Its dvc.lock, data.dvc and params.yaml are committed on the side, under a tag.
    """
    from flows.version_views import first, moved
    from tasks.champion import promote as move

    console = Console()
    moved(console, move(_client(), version, say=first(console)))


@shown
def rollback(
    version: VersionName,
    force: Annotated[
        bool, typer.Option("--force", help="Replace work that no commit holds; a copy is kept in .jpu/replaced.")
    ] = False,
) -> None:
    """Go back to an earlier version: the served alias, git's branch, and the files here.

    Puts dvc.lock, data.dvc, params.yaml and every artifact of that version in place.
    """
    from flows.version_views import first, rolled_back
    from tasks.rollback import rollback as back

    console = Console()
    rolled_back(console, back(_client(), version, force=force, say=first(console)))


def _client() -> MlflowClient:
    from tasks.environment import quiet
    from tasks.store import open_client

    quiet()
    return open_client()
