"""`jpu doctor`: what the pipeline needs, what was found, and the mend for what is missing.

Starts no server and changes nothing, except that MLflow's SQLite file is made where it is not there yet.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.own_servers import answers, prefect_environment, running
from jpu.errors import JpuError
from tasks.environment import commit, quiet
from tasks.repository import DATA, data_hash, open_repo, repo_hash

CONSTRAINTS = Path("constraints.txt")
# What the smallest profile needs for its environment's caches, subject and records.
_ENOUGH_DISK = 2 * 1024**3


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `mend` is empty where all is well; `fatal` says that no run can succeed."""

    name: str
    found: str
    mend: str = ""
    fatal: bool = False


def examine(console: Console) -> int:
    """Look at everything and print a table; 1 where something is fatal, else 0."""
    quiet()
    prefect_environment()
    table = Table("", "what", "found", "mend")
    worst = 0
    for check in CHECKS:
        try:
            finding = check()
        except JpuError as error:
            where = f"{error.where}: " if error.where else ""
            finding = Finding(check.__name__.strip("_"), f"{where}{error.what}", error.mend, fatal=True)
        mark = "[green]ok" if not finding.mend else "[red]bad" if finding.fatal else "[yellow]see"
        table.add_row(mark, finding.name, escape(finding.found), escape(finding.mend))
        worst = max(worst, int(finding.fatal))
    console.print(table)
    return worst


def _python() -> Finding:
    found = f"{sys.version.split()[0]} in {sys.prefix}"
    if sys.version_info[:2] != (3, 11):
        return Finding("python", found, "The versions in constraints.txt are for 3.11: `make setup` with it.")
    first = shutil.which("python")
    if first is None or Path(first).parent.resolve() != Path(sys.executable).parent.resolve():
        return Finding("python", found, "`jpu` finds it; for `dvc repro` by hand, first `. .venv/bin/activate`.")
    return Finding("python", found)


def _packages() -> Finding:
    """Compare what is installed with constraints.txt; a local label (`+cpu`) does not count."""
    if not CONSTRAINTS.exists():
        return Finding("packages", "no constraints.txt", "Run from the repository's folder.")
    wrong, count = [], 0
    for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines():
        pinned = re.match(r"^([A-Za-z0-9._-]+)==([^\s;#]+)", line)
        if not pinned:
            continue
        count += 1
        try:
            installed = version(pinned[1]).partition("+")[0]
        except PackageNotFoundError:
            continue
        if installed != pinned[2]:
            wrong.append(f"{pinned[1]} {installed} (pinned {pinned[2]})")
    if wrong:
        return Finding("packages", ", ".join(wrong[:5]) + (" …" if len(wrong) > 5 else ""), "`make setup`.")
    return Finding("packages", f"as in constraints.txt ({count} pins)")


def _git() -> Finding:
    head, dirty = commit()
    if not head:
        return Finding("git", "no commit here", "Install git and work in a clone: records name the commit.")
    return Finding("git", head[:12] + (", with uncommitted changes" if dirty else ""))


def _params() -> Finding:
    from tasks.settings import load_settings

    settings = load_settings()
    return Finding("params.yaml", f"profile {settings.profile}, seed {settings.seed}, rounds {len(settings.rounds)}")


def _disk() -> Finding:
    free = shutil.disk_usage(".").free
    found = f"{free / 1024**3:.1f} GB free"
    return Finding("disk", found, "Free some: `dvc gc -w` drops old outputs." if free < _ENOUGH_DISK else "")


def _writable() -> Finding:
    refused = [name for name in (".", ".dvc", "mlflow") if Path(name).exists() and not os.access(name, os.W_OK)]
    if refused:
        return Finding("rights", f"not writable: {', '.join(refused)}", "Give yourself the rights.", fatal=True)
    return Finding("rights", "folders are writable")


def _dvc() -> Finding:
    with open_repo() as repo:
        cache = Path(repo.cache.local.path)
        remote = repo.config["core"].get("remote") or "none"
    return Finding("dvc", f"cache {os.path.relpath(cache)}, remote {remote}")


def _data() -> Finding:
    pinned = data_hash()
    if not pinned:
        return Finding("data", f"no {DATA}", "Restore it from git.", fatal=True)
    if not Path("data").exists():
        return Finding("data", "not here yet", "`jpu data`, or `jpu harden`, which does it too.")
    with open_repo() as repo:
        found = repo_hash(repo, "data")
    if found != pinned:
        return Finding(
            "data",
            f"{found}, but {DATA} pins {pinned}",
            f"`dvc add data` keeps the change, `dvc checkout --force {DATA}` drops it.",
            fatal=True,
        )
    return Finding("data", found)


def _torch() -> Finding:
    import torch

    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} CPUs"
    cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no CUDA"
    return Finding("torch", f"{torch.__version__}, {threads}, {cuda}")


def _mlflow() -> Finding:
    from tasks.store import open_client, switched_off, tracking_uri

    if switched_off():
        return Finding("mlflow", "JPU_TRACKING=off: nothing is recorded")
    count = len(open_client().search_experiments())
    return Finding("mlflow", f"{tracking_uri()}, {count} experiments")


def _prefect() -> Finding:
    url = os.environ.get("PREFECT_API_URL")
    if url and not answers(f"{url}/health"):
        return Finding("prefect", f"{url} does not answer", "Start that server, or unset PREFECT_API_URL.", fatal=True)
    found = url or running().get("prefect") or f"a server of its own, {os.environ['PREFECT_HOME']}"
    return Finding("prefect", found)


CHECKS: tuple[Callable[[], Finding], ...] = (
    _python,
    _packages,
    _git,
    _params,
    _disk,
    _writable,
    _dvc,
    _data,
    _torch,
    _mlflow,
    _prefect,
)
