"""Git as a store: commits, trees and references, read and made without a working tree, an index or a current branch.

Everything is plumbing. A reference moves only from the value that it was last seen at. Does not fetch or push, and
does not apply filters: a file kept in git LFS is the pointer that git holds.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jpu.errors import InfrastructureError, SettingsError

NOTHING = "0" * 40
_SECONDS = 120
_NOBODY = {"NAME": "jpu", "EMAIL": "jpu@localhost"}


@dataclass(frozen=True)
class Blob:
    """A file of a commit: its path, and the object that holds its bytes."""

    path: str
    sha: str


class GitStore:
    """The git repository around a folder.

    Args:
        root: The folder that holds dvc.yaml. Paths are relative to it, also when the repository's root lies above.

    Raises:
        SettingsError: There is no git repository, or no git.
    """

    def __init__(self, root: Path | str = ".") -> None:
        self.root = Path(root).resolve()
        found = self._run("rev-parse", "--git-common-dir", "--show-prefix", check=False)
        lines = found.stdout.decode().splitlines()
        if found.returncode or not lines:
            raise SettingsError("not a git repository", where=str(self.root), mend="Work in a git clone.")
        self.common = (self.root / lines[0]).resolve()
        self._prefix = lines[1] if len(lines) > 1 else ""

    def commit(self, name: str) -> str | None:
        """The commit that a name, a reference or a hash leads to; None where there is none."""
        done = self._run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}", check=False)
        return done.stdout.decode().strip() or None if done.returncode == 0 else None

    def descends(self, commit: str, ancestor: str) -> bool:
        """Whether a commit is an ancestor, or has it among its parents' parents."""
        return self._run("merge-base", "--is-ancestor", ancestor, commit, check=False).returncode == 0

    def parent(self, commit: str) -> str | None:
        """The first parent of a commit."""
        return self.commit(f"{commit}^")

    def tree(self, commit: str) -> dict[str, str]:
        """Every file of a commit: path → object."""
        listed = self._run("ls-tree", "-r", "-z", "--full-tree", commit).stdout
        entries = (line.split(b"\t", 1) for line in listed.split(b"\0") if line)
        found = {os.fsdecode(path): about.split()[2].decode() for about, path in entries}
        return {path[len(self._prefix) :]: sha for path, sha in found.items() if path.startswith(self._prefix)}

    def read(self, commit: str, path: str) -> bytes | None:
        """The bytes of a file in a commit; None where it is not in there."""
        done = self._run("cat-file", "blob", f"{commit}:{self._prefix}{path}", check=False)
        return done.stdout if done.returncode == 0 else None

    def read_many(self, shas: Iterable[str]) -> dict[str, bytes]:
        """Objects by their names, in one process."""
        wanted = list(dict.fromkeys(shas))
        out = self._run("cat-file", "--batch", stdin="".join(f"{sha}\n" for sha in wanted).encode()).stdout
        found, at = {}, 0
        for sha in wanted:
            end = out.index(b"\n", at)
            size = int(out[at:end].split()[2])
            found[sha] = out[end + 1 : end + 1 + size]
            at = end + 1 + size + 1
        return found

    def changed(self, old: str, new: str) -> list[tuple[str, str]]:
        """(how, path) of each file that differs between two commits: A added, D removed, M changed."""
        raw = self._run("diff-tree", "-r", "-z", "--no-renames", "--name-status", "--relative", old, new).stdout
        words = [os.fsdecode(word) for word in raw.split(b"\0") if word]
        return list(zip(words[::2], words[1::2], strict=True))

    def commit_files(self, files: Mapping[str, bytes | None], parent: str, message: str) -> str:
        """Make a commit: its parent's tree with these files in it, or (None) without them. No reference is moved."""
        with tempfile.TemporaryDirectory(prefix="jpu-index-") as folder:
            index = {"GIT_INDEX_FILE": os.path.join(folder, "index")}
            self._run("read-tree", parent, environment=index)
            for path, data in files.items():
                if data is None:
                    self._run("update-index", "--force-remove", f"{self._prefix}{path}", environment=index)
                    continue
                sha = self._run("hash-object", "-w", "--stdin", stdin=data).stdout.decode().strip()
                entry = f"100644,{sha},{self._prefix}{path}"
                self._run("update-index", "--add", "--cacheinfo", entry, environment=index)
            tree = self._run("write-tree", environment=index).stdout.decode().strip()
        done = self._run("commit-tree", tree, "-p", parent, stdin=message.encode(), environment=self._identity())
        return done.stdout.decode().strip()

    def add_tag(self, name: str, commit: str, message: str) -> None:
        """Make an annotated tag. Raises InfrastructureError where there is one of that name."""
        made = ("-c", "tag.gpgSign=false", "tag", "-a", "-F", "-", "--end-of-options", name, commit)
        self._run(*made, stdin=message.encode(), environment=self._identity())

    def move(self, ref: str, new: str | None, old: str | None, why: str) -> None:
        """Move a reference from `old` to `new`; None is "not there".

        Raises:
            InfrastructureError: It is not at `old` (any more), or another process holds its lock.
            SettingsError: It is a branch that a working tree has checked out, whose files would no longer be its own.
        """
        place = self._run("for-each-ref", "--format=%(worktreepath)", ref).stdout.decode().strip()
        if place:
            raise SettingsError(
                f"{ref} is checked out", where=place, mend="Switch that working tree to another branch, then try again."
            )
        target = ("-d", ref) if new is None else (ref, new)
        self._run("update-ref", "-m", why, *target, old or NOTHING, environment=self._identity())

    def add_working_tree(self, folder: Path, commit: str) -> None:
        """Check a commit out into a new folder, at no branch. Raises InfrastructureError."""
        # A person's hooks are for a person's checkouts.
        self._run("-c", f"core.hooksPath={os.devnull}", "worktree", "add", "--quiet", "--detach", str(folder), commit)

    def move_working_tree(self, folder: Path, to: Path) -> None:
        """Rename the folder of a working tree. Raises InfrastructureError."""
        self._run("worktree", "move", str(folder), str(to))

    def forget_working_tree(self, folder: Path) -> None:
        """Have git forget a working tree whose folder is gone; others, that may only be away, are left alone."""
        self._run("worktree", "remove", "--force", "--force", str(folder), check=False)

    def _identity(self) -> dict[str, str]:
        """Who commits: the user, where git knows one, else this program."""
        if self._run("var", "GIT_COMMITTER_IDENT", check=False).returncode == 0:
            return {}
        return {f"GIT_{role}_{part}": word for role in ("AUTHOR", "COMMITTER") for part, word in _NOBODY.items()}

    def _run(
        self, *arguments: str, stdin: bytes = b"", environment: Mapping[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        settings = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", **(environment or {})}
        try:
            done = subprocess.run(
                ["git", *arguments],
                cwd=self.root,
                env={**os.environ, **settings},
                input=stdin,
                capture_output=True,
                timeout=_SECONDS,
                check=False,
            )
        except FileNotFoundError:
            raise SettingsError("there is no git", where="PATH", mend="Install git.") from None
        except subprocess.TimeoutExpired as error:
            raise InfrastructureError(f"git {arguments[0]} does not end", where=str(self.root)) from error
        if check and done.returncode:
            said = " ".join(done.stderr.decode(errors="replace").split())[:300]
            raise InfrastructureError(
                f"git {arguments[0]}: {said}", where=str(self.root), mend="See that no other git runs, then try again."
            )
        return done
