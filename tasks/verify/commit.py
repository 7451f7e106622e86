"""Version → git commit: the commit is there, its tag is where it was put, and it adds nothing but the kept files."""

from __future__ import annotations

from collections.abc import Iterator

from jpu.errors import SettingsError
from tasks.rewriting import without_subject
from tasks.snapshots import KEPT, PIPELINE
from tasks.verify.chain import BrokenLinkError, Chain, Passed
from tasks.versions import CHAMPION, LOCK_COMMIT


def check_commit(chain: Chain) -> Iterator[Passed]:
    """The commit that the version names, its git tag, its parent, and, for the champion, the branch."""
    version, git = chain.version, chain.git
    commit = version.lock_commit
    tagged = git.commit(f"refs/tags/{version.git_tag}")
    if tagged != commit:
        raise BrokenLinkError(
            "git tag",
            expected=commit,
            found=tagged or "no such tag",
            where=f"git tag {version.git_tag}",
            meaning="the tag was moved or removed, or the version was given another commit",
        )
    yield Passed("git tag", f"{version.git_tag} is at commit {commit[:12]}")
    parent = git.parent(commit)
    if parent is None:
        raise BrokenLinkError(
            "git commit",
            expected="a parent that holds the code",
            found="none",
            where=f"commit {commit[:12]}",
            meaning="it is not a commit that `jpu promote` makes",
        )
    more = sorted(path for _, path in git.changed(parent, commit) if path not in KEPT)
    if more:
        raise BrokenLinkError(
            "git commit",
            expected=f"changes of {', '.join(KEPT)} only",
            found=f"{more[0]}{f' and {len(more) - 1} more' if len(more) > 1 else ''}",
            where=f"commit {commit[:12]}",
            meaning="code was changed in the commit that was to hold the lock file only",
        )
    _check_pipeline(chain, parent)
    yield Passed("git commit", f"{commit[:12]} adds the lock file to {parent[:12]}, and no code")
    if CHAMPION in version.aliases:
        branch = git.commit(f"refs/heads/jpu/{version.profile}/{CHAMPION}")
        if branch != commit:
            raise BrokenLinkError(
                "champion's branch",
                expected=commit,
                found=branch or "no such branch",
                where=f"jpu/{version.profile}/{CHAMPION}",
                meaning="the served alias and the branch disagree; `jpu rollback` sets both",
            )
        yield Passed("champion's branch", f"at {commit[:12]}, as the alias is")


def _check_pipeline(chain: Chain, parent: str) -> None:
    """dvc.yaml is the parent's, without the subject's stage where the pipeline goes on from a champion."""
    commit, start = chain.version.lock_commit, chain.snapshot.start
    pipeline = (chain.git.read(parent, PIPELINE) or b"").decode(errors="replace")
    try:
        expected = without_subject(pipeline) if start else pipeline
    except SettingsError:
        expected = ""
    if chain.snapshot.files[PIPELINE] != expected.encode():
        raise BrokenLinkError(
            "git commit",
            expected=f"{PIPELINE} of commit {parent[:12]}{', without its subject' if start else ''}",
            found="another one",
            where=f"commit {commit[:12]}",
            meaning="what the stages run was changed in the commit that was to hold the lock file only",
        )


def check_identity(chain: Chain) -> Iterator[Passed]:
    """The hashes in the version's tags are those of its lock file and data.dvc."""
    for key, locked in chain.snapshot.identity.items():
        part = key.removeprefix("jpu.")
        tag = chain.version.tags.get(key, "no such tag")
        if not locked or tag != locked:
            raise BrokenLinkError(
                f"hash of {part}",
                expected=f"{tag} (tag {key})",
                found=locked or "none",
                where=f"{'data.dvc' if part == 'data' else 'dvc.lock'} at {LOCK_COMMIT} {chain.snapshot.commit[:12]}",
                meaning=f"the commit holds another {part} than the one that was registered",
            )
    names = ", ".join(key.removeprefix("jpu.") for key in chain.snapshot.identity)
    yield Passed("registered hashes", f"tags of {names} are those of the commit")
