"""What the commands about versions (flows/commands/versions.py) show on a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from jpu.evaluation.names import name_of
from tasks.snapshots import KEPT

if TYPE_CHECKING:
    from tasks.promotion import Change
    from tasks.rollback import RolledBack
    from tasks.verify import Verdict
    from tasks.verify.chain import Passed

_HOW = {"A": "added", "D": "removed", "M": "changed", "T": "changed"}
_FILES = 12


def tree(found: Mapping[str, Any]) -> Tree:
    """The tree of `jpu lineage`; each `#/…` is a page of MLflow."""
    names = f" ({', '.join(found['aliases'])})" if found["aliases"] else ""
    top = Tree(f"[bold]{escape(found['version'])}[/]{escape(names)}", guide_style="dim")
    for key in ("promoted_at", "replaces", "replaced_by"):
        if key in found:
            top.add(Text(f"{key.replace('_', ' ')} {found[key]}"))
    top.add(_hash("adapter", found["adapter"]["md5"]))
    figures = top.add(_hash("figures", found["figures"]["md5"]))
    figures.add(_run(found["figures"]["run"]))
    for one in found["rounds"]:
        since = f", kept from version {one['kept_from']}" if one["kept_from"] else ""
        branch = top.add(Text(f"round {one['round']}{since}", style="bold"))
        for stage in one["stages"].values():
            leaf = branch.add(_run(stage["run"]))
            for path, md5 in stage["outs"].items():
                leaf.add(_hash(path.rpartition("/")[2].partition(".")[0], md5))
        branch.add(_hash("on prepared data", one["prepared"]))
    data = top.add(_hash("data", found["data"]["md5"]))
    leaf = data.add(_run(found["data"]["run"]))
    leaf.add(_hash("prepared", found["data"]["prepared"]["md5"]))
    leaf.add(_validation(found["data"]["validation"]))
    subject = top.add(_hash("subject (base model)", found["subject"]["md5"]))
    subject.add(_run(found["subject"]["run"]))
    git = found["git"]
    code = top.add(Text(f"git commit {git['commit'] or 'none: not recorded'}"))
    if git["tag"]:
        code.add(Text(f"tag {git['tag']}"))
    code.add(Text(f"code of {git['code'] or 'no known commit'}"))
    return top


def passed(console: Console) -> Callable[[Passed], None]:
    """Prints a link that holds."""

    def say(one: Passed) -> None:
        console.print(Text.assemble(("✓ ", "green"), (one.link, "bold"), ": ", one.recomputed), highlight=False)

    return say


def broken(console: Console, verdict: Verdict) -> None:
    """The first broken link on one line of text, however narrow the terminal is."""
    console.print(Text.assemble(("✗ ", "red"), (str(verdict.broken), "red")), highlight=False, soft_wrap=True)
    console.print(f"{verdict.version}: the first broken link; {len(verdict.passed)} before it hold.", highlight=False)


def ended(console: Console, verdict: Verdict) -> None:
    """Every link holds."""
    console.print(f"{verdict.version}: {len(verdict.passed)} links, all of them hold.", highlight=False)


def changes(found: Mapping[str, Any]) -> list[RenderableType]:
    """The tables of `jpu diff`; what did not change is one line."""
    parts: list[RenderableType] = [Text(f"{found['first']} → {found['second']}", style="bold")]
    parts += _data(found["data"])
    parts += _params(found["params"])
    parts += _code(found["code"])
    parts += _figures(found["figures"])
    return parts


def first(console: Console) -> Callable[[str], None]:
    """Prints what had to be done before; nothing for ""."""

    def say(words: str) -> None:
        if words:
            console.print(f"First {words}.", highlight=False)

    return say


def moved(console: Console, change: Change) -> None:
    """What a promotion did."""
    if change.old == change.new:
        console.print(f"Version {change.new} is the champion already.", highlight=False)
        return
    console.print(f"Champion: version {change.new}, before that {change.old or 'none'}.", highlight=False)
    console.print(f"Its dvc.lock, data.dvc and params.yaml: commit {change.new_commit[:12]}.", highlight=False)


def rolled_back(console: Console, done: RolledBack) -> None:
    """What a rollback did, one line each."""
    same = done.change.old == done.change.new
    before = "as before" if same else f"before that {done.change.old or 'none'}"
    same = done.change.old == done.change.new
    before = "as before" if same else f"before that {done.change.old or 'none'}"
    same = done.change.old == done.change.new
    before = "as before" if same else f"before that {done.change.old or 'none'}"
    lines = [
        f"Champion: version {done.change.new}, {before}.",
        f"Branch: at commit {done.change.new_commit[:12]}.",
        f"Put in place: {', '.join(done.written)}." if done.written else f"{', '.join(KEPT)}: as they were.",
        f"Checked out: {', '.join(done.changed)}." if done.changed else "Artifacts: as they were.",
        f"What was there before, and in no commit: {done.kept}." if done.kept else "",
    ]
    for line in filter(None, lines):
        console.print(line, highlight=False)


def _run(run: Mapping[str, str]) -> Text:
    state = "" if run["status"] == "FINISHED" else f" {run['status']}"
    return Text.assemble(f"{run['stage']} ", (run["page"] or run["run_id"], "cyan"), (state, "red"))


def _hash(name: str, md5: str) -> Text:
    return Text.assemble(f"{name} ", (md5 or "unknown", "dim"))


def _validation(found: Mapping[str, Any]) -> Text:
    if not found["expectations"]:
        return Text("Great Expectations: no results", style="red")
    held = found["expectations"] - len(found["failed"])
    return Text(f"Great Expectations: {held} of {found['expectations']} hold", style="red" if found["failed"] else "")


def _table(title: str, *columns: str) -> Table:
    from rich import box

    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE, padding=(0, 1, 0, 0))
    made.show_edge = made.pad_edge = False
    made.add_column("", overflow="fold")
    for column in columns:
        made.add_column(column, justify="right", overflow="fold")
    return made


def _data(found: Mapping[str, Any]) -> list[RenderableType]:
    if not (found["added"] or found["removed"] or found["changed"]):
        return [Text("data: the same")]
    shown = _table("data", "before", "after")
    for how in ("added", "removed", "changed"):
        for path in found[how]:
            shown.add_row(f"{path} ({how})", "", "")
            for kind, (old, new) in found["records"].get(path, {}).items():
                if old != new:
                    shown.add_row(f"  {kind}", str(old), str(new))
    return [shown]


def _params(found: Mapping[str, Any]) -> list[RenderableType]:
    if not found:
        return [Text("params: the same")]
    shown = _table("params", "before", "after")
    for key, (old, new) in found.items():
        shown.add_row(key, *("–" if value is None else str(value) for value in (old, new)))
    return [shown]


def _code(found: Mapping[str, Any]) -> list[RenderableType]:
    if not found["files"] and not found["dependencies"]:
        return [Text("code: the same")]
    shown = _table("code", "")
    for how, path in found["files"][:_FILES]:
        shown.add_row(path, _HOW.get(how, how))
    if len(found["files"]) > _FILES:
        shown.add_row(f"and {len(found['files']) - _FILES} more", "")
    for stage, paths in found["dependencies"].items():
        shown.add_row(f"{stage} ran other code", ", ".join(paths))
    return [shown]


def _figures(found: Mapping[str, Any]) -> list[RenderableType]:
    if not found:
        return [Text("figures: the same")]
    shown = _table("figures after hardening", "before", "after", "")
    colours = {"better": "green", "worse": "red"}
    for key, figure in found.items():
        values = ("–" if figure[side] is None else f"{figure[side]:.4g}" for side in ("before", "after"))
        shown.add_row(name_of(key).words, *values, Text(figure["change"], style=colours.get(figure["change"], "")))
    return [shown]
