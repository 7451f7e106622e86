"""A champion that was hardened from an earlier one, in a repository of its own for each test that changes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hardened import Place, copied


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Version 2 is the champion, version 1 was before."""
    return copied(tmp_path / "base", monkeypatch, champion="2")
