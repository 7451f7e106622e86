"""The champion of a profile: the version that is served, and the git commit that it can be made again from.

`record` keeps a version's dvc.lock, data.dvc, params.yaml and pipeline in a commit, tagged `jpu/<profile>/v<N>`.
`promote` moves the alias `champion` in MLflow and the branch `jpu/<profile>/champion` in git together or not at all
(tasks/promotion.py). What is committed never touches the working tree, the index or the current branch.

Does not push: tags and branches reach other clones by `git push`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from jpu.errors import DataError, SettingsError
from tasks.code_hashes import CodeHashes
from tasks.gitstore import GitStore
from tasks.promotion import Change, Promotion
from tasks.rewriting import without_subject
from tasks.snapshots import KEPT, PIPELINE, Snapshot, snapshot_here
from tasks.store import tracking_errors
from tasks.versions import LOCK_COMMIT, Version, find_version
from tasks.witness import code_difference, params_difference

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


def record(client: MlflowClient, version: Version, root: Path | str = ".") -> str:
    """Keep the lock file of a version that the working tree holds; may be called again.

    Returns:
        The commit: its parent is HEAD, its tree HEAD's with the working tree's dvc.lock, data.dvc, params.yaml and
        pipeline. In a checkout of a champion HEAD is that champion's commit.

    Raises:
        DataError: The working tree is not this version, or its stages ran other code than HEAD's or other settings.
        InfrastructureError: MLflow or git could not be written.
    """
    git = GitStore(root)
    if version.lock_commit and git.commit(version.lock_commit) == git.commit(f"refs/tags/{version.git_tag}"):
        return version.lock_commit
    here = snapshot_here(git.root)
    for key, value in here.identity.items():
        if version.tags.get(key) != value:
            raise DataError(
                f"the working tree is not {version.name}: {key.removeprefix('jpu.')} {value or 'missing'}, "
                f"where the version has {version.tags.get(key)}",
                where=str(git.root),
                mend="Record a version where it was made, before anything else is run there. Nothing was written.",
            )
    head = git.commit("HEAD")
    if head is None:
        raise SettingsError("has no commit yet", where=str(git.root), mend="Commit dvc.yaml and the code first.")
    _made_here(git, here, head)
    commit = _tagged(git, version, here) or _commit(git, version, here, head)
    with tracking_errors():
        client.set_model_version_tag(version.model, str(version.number), LOCK_COMMIT, commit)
    return commit


def promote(
    client: MlflowClient,
    text: str = "challenger",
    root: Path | str = ".",
    *,
    expected: str = "",
    say: Callable[[str], object] = lambda words: None,
) -> Change:
    """Make a version the champion.

    Args:
        client: MLflow's client.
        text: The version (tasks/versions.py). Recorded first, where it was not.
        root: The repository's folder.
        expected: The version that has to be the champion until now ("" for whichever is): the one that gates
            compared with.
        say: Told of a move that was cut off and had to be completed or undone first.

    Raises:
        DataError: There is no such version, it cannot be recorded, or alias and branch disagree.
        InfrastructureError: MLflow or git failed, or another process moved the champion; nothing was moved.
    """
    git = GitStore(root)
    version = find_version(client, text)
    promotion = Promotion(client, git, version.model, version.profile)
    with promotion.alone():
        say(promotion.recover())
        record(client, version, root)
        return promotion.move(find_version(client, version.name), expected=expected)


def recover(client: MlflowClient, profile: str, root: Path | str = ".") -> str:
    """Complete or undo what a killed promotion has left; says in words what was done, "" for nothing.

    Raises:
        DataError: Alias and branch were moved to different versions by somebody else in between.
        InfrastructureError: MLflow or git cannot be reached.
    """
    promotion = Promotion(client, GitStore(root), f"jpu-{profile}", profile)
    with promotion.alone():
        return promotion.recover()


def _made_here(git: GitStore, here: Snapshot, head: str) -> None:
    """Refuse a version whose stages ran with other code than HEAD's, or other settings: a false witness."""
    pipeline = (git.read(head, PIPELINE) or b"").decode()
    if here.start:
        pipeline = without_subject(pipeline)
    if here.files.get(PIPELINE) != pipeline.encode():
        raise DataError("differs from HEAD's", where=PIPELINE, mend="Commit it, then try again. Nothing was written.")
    code = CodeHashes(git, head)
    for stage in here.chain:
        entry = here.lock[stage]
        found = code_difference(entry, code, here.outs) or params_difference(entry, here.params)
        if found:
            raise DataError(
                f"stage {stage} ran with {found.what} {found.ran}, HEAD and params.yaml have {found.held}",
                where=str(git.root),
                mend="Commit the code that ran and take back the settings, or `jpu harden` again (what is up to date "
                "is not repeated). Nothing was written.",
            )


def _tagged(git: GitStore, version: Version, here: Snapshot) -> str | None:
    """The commit under the version's git tag: what a killed `record` has left, or somebody else's."""
    commit = git.commit(f"refs/tags/{version.git_tag}")
    if commit and any(git.read(commit, name) != here.files.get(name) for name in KEPT):
        raise DataError(
            f"is there already, with another {' or '.join(KEPT[:3])}",
            where=f"git tag {version.git_tag}",
            mend=f"It belongs to another MLflow store. `git tag old/{version.git_tag} {version.git_tag}` and "
            f"`git tag -d {version.git_tag}` set it aside. Nothing was written.",
        )
    return commit


def _commit(git: GitStore, version: Version, here: Snapshot, head: str) -> str:
    since = f", from {here.start.version}" if here.start else ""
    subject = f"{version.name}: dvc.lock, data.dvc and params.yaml{since}"
    body = "\n".join(f"{key.removeprefix('jpu.')} {value}" for key, value in here.identity.items())
    commit = git.commit_files({name: here.files.get(name) for name in KEPT}, head, f"{subject}\n\n{body}\n")
    git.add_tag(version.git_tag, commit, f"{version.name}\n\n{body}\n")
    return commit
