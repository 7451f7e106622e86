"""DVC's hashes of a commit's files and folders, computed from git's objects: the code that a commit would run.

Does not read .dvcignore: what it hides (caches, environments) is not in git either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from tasks.directories import directory_hash
from tasks.gitstore import GitStore


class CodeHashes:
    """Hashes of paths in a commit; each file is read once."""

    def __init__(self, git: GitStore, commit: str) -> None:
        self.commit = commit
        self._git = git
        self._tree = git.tree(commit)
        self._md5: dict[str, str] = {}

    def hash(self, path: str) -> str:
        """DVC's MD5 of a file, or of a folder with `.dir`; "" where the commit has no such path."""
        if path in self._tree:
            return self._hashes({path: self._tree[path]})[path]
        inside = {name[len(path) + 1 :]: sha for name, sha in self._tree.items() if name.startswith(f"{path}/")}
        return directory_hash(self._hashes(inside)) if inside else ""

    def _hashes(self, files: Mapping[str, str]) -> dict[str, str]:
        missing = [sha for sha in files.values() if sha not in self._md5]
        if missing:
            for sha, data in self._git.read_many(missing).items():
                self._md5[sha] = hashlib.md5(data, usedforsecurity=False).hexdigest()
        return {path: self._md5[sha] for path, sha in files.items()}
