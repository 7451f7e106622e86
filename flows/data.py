"""The data folder as data.dvc pins it: from DVC's cache, its remote, or made again by the sandbox's generator.

The generator makes the sandbox alone: data with files of the inbox have to come from the cache or a remote.

A fresh clone has data.dvc and no data. Whatever way the data come, their hash is compared before they are put in
place, whole or not at all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flows.process import Guarded
from flows.runner import stage_environment
from jpu.errors import DataError
from jpu.files import atomic_folder
from tasks.repository import DATA, data_hash, open_repo, repo_hash

if TYPE_CHECKING:
    from dvc.repo import Repo

FOLDER = Path("data")
GENERATOR = ("-m", "jpu.sandbox")
SANDBOX = "sandbox"


def materialise(say: Callable[[str], None]) -> str:
    """Put the data in place where they are missing; returns their hash, "" where there is no data.dvc.

    Args:
        say: Called with a line about where the data come from.

    Raises:
        DataError: The folder was changed by hand, neither cache nor remote has what data.dvc pins, or what the
            generator makes is not that.
        StorageError: The folder cannot be written.
    """
    pinned = data_hash()
    if not pinned:
        return ""
    with open_repo() as repo:
        if not FOLDER.exists() and not _from_dvc(repo, say):
            say("data: not in DVC's cache; generating the sandbox")
            _generate(repo, pinned)
        found = repo_hash(repo, FOLDER)
        if found != pinned:
            raise DataError(
                f"the folder is not what {DATA} pins",
                where=str(FOLDER),
                mend=f"After a `jpu inbox` that was stopped, run it again. Else `dvc add {FOLDER}` keeps your change; "
                f"`dvc checkout --force {DATA}` drops it.",
            )
        if not repo.cache.local.exists(pinned):
            # Without this, `dvc checkout` and `dvc push` would have nothing to give.
            repo.commit(DATA, force=True)
    return pinned


def _from_dvc(repo: Repo, say: Callable[[str], None]) -> bool:
    """Check the folder out of the cache, else pull it where a remote is configured; False where neither has it."""
    from dvc.exceptions import DvcException

    ways: list[tuple[str, Callable[..., object]]] = [("the DVC cache", repo.checkout)]
    if repo.config["core"].get("remote"):
        ways.append(("the remote", repo.pull))
    for name, get in ways:
        # OSError is what file systems of remotes raise; the generator needs neither.
        with suppress(DvcException, OSError):
            get(targets=[DATA])
            if FOLDER.exists():
                say(f"data: from {name}")
                return True
        _remove_partial()
    return False


def _remove_partial() -> None:
    """What a checkout has left that lacked some files. The folder did not exist before it."""
    import shutil

    if FOLDER.exists():
        shutil.rmtree(FOLDER)


def _generate(repo: Repo, pinned: str) -> None:
    with atomic_folder(FOLDER) as fresh:
        command = [sys.executable, *GENERATOR, str(fresh / SANDBOX)]
        with Guarded(command, env=stage_environment()) as process:
            said = list(process.lines())
            if process.wait():
                last = said[-1] if said else "it ended without a word"
                raise DataError(f"the sandbox could not be generated: {last}", where=str(FOLDER))
        made = repo_hash(repo, fresh)
        if made != pinned and _pinned_files(repo) > sum(path.is_file() for path in fresh.rglob("*")):
            raise DataError(
                "there are more files than the sandbox has, and neither DVC's cache nor a remote has them",
                where=DATA,
                mend="What came in through the inbox cannot be made again. Name the remote that it was pushed to "
                "(`dvc remote add -d NAME ADDRESS --local`), check that it can be reached (`dvc pull data.dvc`), or go "
                "back to a data.dvc from before. Nothing was written.",
            )
        if made != pinned:
            raise DataError(
                f"the generator made {made}, data.dvc pins {pinned}",
                where=DATA,
                mend="Check out the commit that belongs to this data.dvc, or configure a DVC remote that has the "
                "data. If the generator was changed on purpose: `python -m jpu.sandbox data/sandbox`, then "
                "`dvc add data`. Nothing was written.",
            )


def _pinned_files(repo: Repo) -> int:
    """The number of files that data.dvc pins, 0 where it does not say."""
    (out,) = repo.find_outs_by_path(str(FOLDER.absolute()))
    return int(out.meta.nfiles or 0)
