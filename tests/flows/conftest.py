"""The tiny pipeline (tests/tiny.py), in a repository of its own for each test that asks for it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """The commands set variables for the libraries that they start; no test inherits them."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    import tests.tiny

    return tests.tiny


@pytest.fixture(scope="session")
def template(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tiny.make(tmp_path_factory.mktemp("template") / "tiny")
    return folder


@pytest.fixture
def repository(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny repository as the current folder, with nothing recorded."""
    folder = Path(shutil.copytree(template, tmp_path / "tiny"))
    for name in ("MLFLOW_TRACKING_URI", "JPU_TRACKER", "JPU_PARENT_RUN", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JPU_TRACKING", "off")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(folder)
    return folder
