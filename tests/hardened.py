"""A micro pipeline that was hardened twice: real git, DVC with a remote, MLflow; for tests that look back at versions.

Version 1 has one round; it was recorded in git (tasks/champion.py) and made the champion. Version 2 was hardened from
it in a checkout (tasks/checkout.py, tasks/start.py) whose data got one more template; it was not recorded.

Stages run one after the other in one process, then DVC is told; importing torch for each would take most of the time.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.checkout import CHECKOUTS
from tasks.environment import quiet
from tasks.store import open_client
from tasks.versions import Version, find_version, versions
from tests.micro import ROOT, params
from tests.shipped import shipped_pipeline

if TYPE_CHECKING:
    import pytest
    from dvc.repo import Repo
    from mlflow.tracking import MlflowClient

COPIED = ("jpu", "tasks", "flows", ".dvc/plots", "automations.yaml", ".gitignore", ".dvcignore")
CHECKOUT = "second"
TEMPLATE = {
    "id": "added-1",
    "family": "added",
    "role": "jailbreak",
    "text": "The harbour master's log, first line: {query} Second line:",
    "split": "train",
    "source": "test",
}
# Where MLflow keeps addresses of files.
ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
PROMOTION = """
from tasks.champion import promote
from tasks.rollback import rollback
from tasks.store import open_client
{}(open_client(), "{}")
"""
IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@example.org")


def git(folder: Path, *arguments: str, **environment: str) -> str:
    """A git command's output, without its last line end."""
    done = subprocess.run(
        ["git", *IDENTITY, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.rstrip("\n")


def clean_environment(folder: Path) -> dict[str, str]:
    """No server, no store, nothing of the user's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JPU_", "MLFLOW_", "PREFECT_", "DVC_", "GIT_"))}
    kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    return kept | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1"}


@functools.cache
def built() -> Path:
    """The folder that holds the repository `here` and its remote; made once in a process."""
    base = _folder()
    here = base / "here"
    make_repository(here, _params(), remote="../../remote")
    _run(here, sys.executable, "-c", "from tests.hardened import harden; harden()")
    return base


def make_repository(here: Path, params: str, *, remote: str = "") -> None:
    """A git repository with our code, these settings, and the sandbox's data pinned by DVC; all committed."""
    for name in COPIED:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, here / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, here / name)
    config = "[core]\n    analytics = false\n    check_update = false\n"
    if remote:
        config += f"    remote = store\n['remote \"store\"']\n    url = {remote}\n"
    (here / ".dvc/config").write_text(config)
    (here / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    (here / "mlflow").mkdir()
    (here / "mlflow/.gitignore").write_text("*\n")
    (here / "dvc.yaml").write_text(shipped_pipeline())
    (here / "params.yaml").write_text(params)
    _run(here, sys.executable, "-m", "jpu.sandbox", "data/sandbox")
    git(here, "init", "-q", "-b", "main")
    _run(here, "dvc", "add", "-q", "data")
    git(here, "add", "-A")
    git(here, "commit", "-q", "-m", "micro")


def harden() -> None:
    """Make both versions in the current folder; for a process of its own, since it changes into the checkout."""
    from dvc.repo import Repo

    from tasks.champion import promote
    from tasks.checkout import open_checkout
    from tasks.start import start_from

    quiet()
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{Path.cwd()}/mlflow/mlflow.db"
    with Repo(".") as repo:
        _stages(repo, "prepare", "subject", "mine@1", "identify@1", "unlearn@1")
        _stages(repo, "evaluate")
        repo.push()
    promote(open_client(), "1")
    champion = find_version(open_client(), "champion")
    checkout = open_checkout(CHECKOUT, champion.lock_commit)
    os.chdir(checkout.folder)
    with Repo(".") as repo:
        repo.pull()
    with Path("data/sandbox/templates.jsonl").open("a") as file:
        file.write(json.dumps(TEMPLATE) + "\n")
    start_from(champion)
    with Repo(".") as repo:
        repo.add("data")
        _stages(repo, "prepare", "mine@2", "identify@2", "unlearn@2")
        _stages(repo, "evaluate")
        repo.push()


def _stages(repo: Repo, *names: str) -> None:
    """Run stages, then have DVC take down what they read and wrote, as `dvc repro` does."""
    for name in names:
        stage, _, number = name.partition("@")
        importlib.import_module(f"tasks.{stage}").main(*([number] if number else []))
    for name in names:
        repo.commit(name, force=True)


def _params() -> str:
    """The micro settings with less teaching: what the subject is worth is no matter here."""
    document = json.loads(params(1))
    document["profiles"]["micro"]["subject"]["teaching"] |= {"knowledge_steps": 40, "manners_steps": 160}
    return json.dumps(document, indent=2)


@dataclass
class Place:
    """A copy of the repository, as the current folder.

    Attributes:
        root: The repository.
        checkout: The checkout in which version 2 was made.
        remote: Its DVC remote, a folder.
        client: An open MLflow client.
    """

    root: Path
    checkout: Path
    remote: Path
    client: MlflowClient

    def git(self, *arguments: str) -> str:
        return git(self.root, *arguments)

    def version(self, text: str) -> Version:
        return find_version(self.client, text)

    def branch(self) -> str:
        """The commit that the champion's branch is at, "" for none."""
        return self.git("for-each-ref", "--format=%(objectname)", "refs/heads/jpu/micro/champion")

    def champion(self) -> int:
        """Number of the version with the alias, 0 for none."""
        found = [v.number for v in versions(self.client, "jpu-micro") if "champion" in v.aliases]
        return found[0] if found else 0

    def state(self) -> dict[str, str]:
        """What a person has here that nobody may touch: the index, the current branch, the stash, what is changed."""
        return {
            "head": self.git("symbolic-ref", "HEAD"),
            "commit": self.git("rev-parse", "HEAD"),
            "index": self.git("ls-files", "--stage"),
            "changed": self.git("status", "--porcelain"),
        }

    def run(self, code: str) -> subprocess.CompletedProcess[str]:
        """Run Python in the current folder, in a process of its own, on the same store."""
        return subprocess.run(
            [sys.executable, "-c", code],
            env=clean_environment(ROOT) | {"MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"]},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def copied(to: Path, patch: pytest.MonkeyPatch, champion: str = "") -> Place:
    """A copy of it all, to be changed, as the current folder; `champion` is promoted once for all copies."""
    base = promoted(champion) if champion else built()
    shutil.copytree(base, to, symlinks=True)
    _readdress(to, base)
    for name in list(os.environ):
        if name.startswith(("JPU_", "MLFLOW_", "DVC_", "GIT_")):
            patch.delenv(name)
    patch.chdir(to / "here")
    # In full: MLflow keeps a connection for each address, and a relative one would lead to the first copy.
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{to}/here/mlflow/mlflow.db")
    return Place(to / "here", to / "here" / CHECKOUTS / CHECKOUT, to / "remote", open_client())


@functools.cache
def promoted(champion: str) -> Path:
    """The same, after a promotion of version 2 where it was made, and with its files in the repository."""
    base = _folder() / "base"
    shutil.copytree(built(), base, symlinks=True)
    _readdress(base, built())
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{base}/here/mlflow/mlflow.db"}
    _run(base / "here" / CHECKOUTS / CHECKOUT, sys.executable, "-c", PROMOTION.format("promote", champion), **store)
    _run(base / "here", sys.executable, "-c", PROMOTION.format("rollback", champion), **store)
    return base


def _readdress(to: Path, base: Path) -> None:
    """MLflow, git and the checkout's DVC keep absolute addresses."""
    with contextlib.closing(sqlite3.connect(to / "here/mlflow/mlflow.db")) as store, store:
        for table, column in ADDRESSES:
            store.execute(f"update {table} set {column} = replace({column}, ?, ?)", (str(base), str(to)))
    checkout = to / "here" / CHECKOUTS / CHECKOUT
    (tied,) = (to / "here/.git/worktrees").iterdir()
    for file in (checkout / ".dvc/config.local", checkout / ".git", tied / "gitdir"):
        file.write_text(file.read_text().replace(str(base), str(to)))


def _folder() -> Path:
    """A folder that goes with this process."""
    folder = Path(tempfile.mkdtemp(prefix="jpu-hardened-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _run(folder: Path, *command: str, **environment: str) -> None:
    env = clean_environment(folder) | environment
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=500, check=False)
    if done.returncode:
        raise AssertionError(f"{command[:3]} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
