"""Registered versions, and what git holds of each: pipeline, lock file, the data's hash and the settings.

A version is a number, an alias (`champion`, `challenger`), or a model's name with either: `jpu-sandbox/3`. The commit
that `tasks/champion.py` makes for a version is in its tag `jpu.lock_commit`, and under the git tag `jpu/sandbox/v3`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jpu.errors import DataError
from jpu.files import write_bytes
from tasks.gitstore import GitStore
from tasks.lineage import METRICS, SUBJECT, UNKNOWN, experiment_name
from tasks.pinned import START, Start, read_start
from tasks.repository import DATA, Locked, data_hash, read_lock, read_params
from tasks.store import tracking_errors

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

LOCK, PARAMS, PIPELINE = "dvc.lock", "params.yaml", "dvc.yaml"
# What a version's commit adds to its code; START only where it goes on from another version.
KEPT = (LOCK, DATA, PARAMS, PIPELINE, START)
CHAMPION = "champion"
LOCK_COMMIT = "jpu.lock_commit"
PREPARED = "artifacts/prepared"


@dataclass(frozen=True)
class Version:
    """A registered version of a hardened model.

    Attributes:
        model: The registered model's name, `jpu-sandbox`.
        number: Its number.
        tags: Its tags.
        run_id: The run that registered it.
        source: Where MLflow keeps its adapter.
        aliases: The aliases that point to it.
    """

    model: str
    number: int
    tags: Mapping[str, str]
    run_id: str
    source: str
    aliases: tuple[str, ...]

    @property
    def name(self) -> str:
        """`jpu-sandbox/3`."""
        return f"{self.model}/{self.number}"

    @property
    def profile(self) -> str:
        """The profile of params.yaml that it was made with."""
        return self.tags.get("jpu.profile") or self.model.removeprefix("jpu-")

    @property
    def lock_commit(self) -> str:
        """The commit that holds its lock file, "" where none was made."""
        return self.tags.get(LOCK_COMMIT, "")

    @property
    def git_tag(self) -> str:
        """The annotated tag of that commit."""
        return f"jpu/{self.profile}/v{self.number}"

    def maker(self, stage: str) -> str:
        """Id of the run that made a stage's outputs, "" where none is known."""
        found = self.tags.get(f"jpu.run.{stage.replace('@', '-')}", "")
        return "" if found == UNKNOWN else found


@dataclass(frozen=True)
class Snapshot:
    """What the kept files say together: at a commit, or in a working tree (commit "")."""

    commit: str
    lock: Mapping[str, Locked]
    data: str
    params: Mapping[str, Any]
    start: Start | None
    files: Mapping[str, bytes] = field(repr=False, default_factory=dict)

    @property
    def adapter(self) -> str:
        """Path of the last round's adapter."""
        return f"artifacts/rounds/{self.params.get('last_round', '')}/adapter"

    @cached_property
    def makers(self) -> dict[str, str]:
        """Output → the stage that makes it."""
        return {path: stage for stage, entry in self.lock.items() for path in entry.outs}

    @cached_property
    def outs(self) -> dict[str, str]:
        """Output → hash: of what the stages made, and of what they start from."""
        pinned = dict(self.start.outs) if self.start else {}
        return pinned | {path: md5 for entry in self.lock.values() for path, md5 in entry.outs.items()}

    def out(self, path: str) -> str:
        """Hash of an output, "" where no stage makes it and nothing pins it."""
        return self.outs.get(path, "")

    @cached_property
    def chain(self) -> tuple[str, ...]:
        """The stages behind the evaluation, each after those that it reads from."""
        found: dict[str, None] = {}

        def visit(stage: str, above: tuple[str, ...]) -> None:
            if stage in found or stage in above or stage not in self.lock:
                return
            for path in self.lock[stage].deps:
                if path in self.makers:
                    visit(self.makers[path], (*above, stage))
            found[stage] = None

        visit(self.makers.get(METRICS, ""), ())
        return tuple(found)

    @property
    def identity(self) -> dict[str, str]:
        """The tags of the version that this is, as tasks/lineage.py gives them."""
        return {
            "jpu.adapter": self.out(self.adapter),
            "jpu.metrics": self.out(METRICS),
            "jpu.subject": self.out(SUBJECT),
            "jpu.data": self.data or UNKNOWN,
        }


def find_version(client: MlflowClient, text: str) -> Version:
    """The version that a number, an alias, or `name/number` names.

    Raises:
        DataError: There is none; names those that there are.
        InfrastructureError: MLflow cannot be reached.
    """
    model, _, word = text.strip().rpartition("/")
    model = model or experiment_name()
    if not model.startswith("jpu-"):
        model = f"jpu-{model}"
    known = versions(client, model)
    for version in known:
        if word in (str(version.number), *version.aliases):
            return version
    have = ", ".join(f"{v.number} ({' and '.join(v.aliases)})" if v.aliases else str(v.number) for v in known)
    raise DataError(
        f"{model} has no version {word!r}",
        where="MLflow",
        mend=f"There are: {have}." if have else "None is registered: run `jpu harden`.",
    )


def versions(client: MlflowClient, model: str) -> list[Version]:
    """Every version of a model, the oldest first. Raises InfrastructureError."""
    from mlflow.exceptions import MlflowException

    with tracking_errors():
        try:
            aliases = dict(client.get_registered_model(model).aliases)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return []
            raise
        found = client.search_model_versions(f"name = '{model}'", max_results=1000)
    return sorted(
        (
            Version(
                model=model,
                number=int(v.version),
                tags=dict(v.tags),
                run_id=v.run_id or "",
                source=v.source or "",
                aliases=tuple(sorted(a for a, number in aliases.items() if int(number) == int(v.version))),
            )
            for v in found
        ),
        key=lambda version: version.number,
    )


def snapshot_at(git: GitStore, commit: str) -> Snapshot:
    """What a commit holds.

    Raises:
        DataError: One of them is not in there.
        SettingsError: One of them cannot be parsed.
    """
    files = {}
    for name in KEPT:
        data = git.read(commit, name)
        if data is not None:
            files[name] = data
        elif name not in (DATA, START):
            raise DataError(f"holds no {name}", where=f"commit {commit[:12]}", mend="Record the version again.")
    with tempfile.TemporaryDirectory(prefix="jpu-snapshot-") as folder:
        for name, data in files.items():
            write_bytes(Path(folder, name), data)
        return _read(Path(folder), commit, files)


def snapshot_here(root: Path | str = ".") -> Snapshot:
    """What the working tree holds. Raises SettingsError where a file cannot be parsed."""
    folder = Path(root)
    files = {name: (folder / name).read_bytes() for name in KEPT if (folder / name).exists()}
    return _read(folder, "", files)


def snapshot_of(git: GitStore, version: Version) -> Snapshot:
    """What the version's commit holds; for one that has none, the working tree where that is this version.

    Raises:
        DataError: Nothing holds the version's lock file.
    """
    if version.lock_commit and git.commit(version.lock_commit):
        return snapshot_at(git, version.lock_commit)
    here = snapshot_here(git.root)
    if all(version.tags.get(key) == value for key, value in here.identity.items()):
        return here
    raise DataError(
        "no commit holds its dvc.lock, and the working tree is another version",
        where=version.name,
        mend="Fetch the tag with `git fetch --tags`, or harden it again.",
    )


def _read(folder: Path, commit: str, files: Mapping[str, bytes]) -> Snapshot:
    return Snapshot(commit, read_lock(folder), data_hash(folder), read_params(folder), read_start(folder), files)
