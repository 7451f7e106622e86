from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.fingerprint import fingerprint


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "a").write_text("one")
    (tmp_path / "in" / "deep" / "b").write_text("two")
    (tmp_path / "file").write_text("three")
    return Path("in")


def digest(**params: object) -> str:
    return fingerprint(Path("in"), Path("file"), params={"seed": 0, "nested": {"x": 1, "y": 2}, **params})


def test_the_same_content_has_the_same_digest(folder: Path) -> None:
    first = digest()
    assert first == digest(nested={"y": 2, "x": 1}) and len(first) == 64
    (folder / "a").unlink()
    (folder / "a").write_text("one")
    assert digest() == first


@pytest.mark.parametrize(
    "change",
    [
        lambda f: (f / "a").write_text("One"),
        lambda f: (f / "deep" / "b").write_text(""),
        lambda f: (f / "a").rename(f / "c"),
        lambda f: (f / "new").write_text(""),
        lambda f: (f / "deep" / "b").unlink(),
        # The same bytes, cut at another place.
        lambda f: ((f / "a").write_text("onetwo"), (f / "deep" / "b").write_text("")),
    ],
)
def test_another_content_has_another_digest(folder: Path, change: Callable[[Path], object]) -> None:
    before = digest()
    change(folder)
    assert digest() != before


def test_another_setting_has_another_digest(folder: Path) -> None:
    assert len({digest(), digest(seed=1), digest(nested={"x": 1}), digest(more=None)}) == 4
    assert digest() != fingerprint(Path("in"), params={"seed": 0, "nested": {"x": 1, "y": 2}})
