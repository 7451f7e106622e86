"""Registered versions of a hardened model.

A version is a number, an alias (`champion`, `challenger`), or a model's name with either: `jpu-sandbox/3`. The commit
that `tasks/champion.py` makes for a version is in its tag `jpu.lock_commit`, and under the git tag `jpu/sandbox/v3`;
what that commit holds is read by tasks/snapshots.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jpu.errors import DataError
from tasks.lineage import UNKNOWN, experiment_name
from tasks.store import tracking_errors

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

CHAMPION = "champion"
LOCK_COMMIT = "jpu.lock_commit"


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
