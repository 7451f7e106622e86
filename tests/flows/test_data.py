"""The data folder, from DVC's cache, a remote or the generator, and never anything but what data.dvc pins."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flows import data
from flows.data import materialise
from jpu.errors import DataError
from tasks.repository import data_hash

GENERATOR = """\
import pathlib, sys
folder = pathlib.Path(sys.argv[1]).parent
folder.mkdir(parents=True, exist_ok=True)
(folder / "file.txt").write_text({text!r})
{end}
"""


@pytest.fixture
def generator(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A generator that makes what the tiny repository pins."""
    script = repository / "generate.py"
    script.write_text(GENERATOR.format(text="facts\n", end=""))
    monkeypatch.setattr(data, "GENERATOR", (str(script),))
    return script


def left() -> list[str]:
    return [path.name for path in Path().iterdir() if "data" in path.name and path.name != "data.dvc"]


def test_data_that_are_there_are_left_alone(repository: Path) -> None:
    before = Path("data/file.txt").stat().st_mtime_ns
    assert materialise(pytest.fail) == data_hash()
    assert Path("data/file.txt").stat().st_mtime_ns == before


def test_from_the_cache_then_from_the_generator(generator: Path) -> None:
    shutil.rmtree("data")
    said: list[str] = []
    materialise(said.append)
    assert said == ["data: from the DVC cache"]

    # A fresh clone: neither data nor cache. Afterwards the cache has them.
    shutil.rmtree("data")
    shutil.rmtree(".dvc/cache")
    said.clear()
    assert materialise(said.append) == data_hash()
    assert said == ["data: not in DVC's cache; generating the sandbox"]
    generator.write_text("raise SystemExit('not again')")
    shutil.rmtree("data")
    materialise(said.append)
    assert Path("data/file.txt").read_text() == "facts\n"
    assert left() == ["data"]


def test_from_a_remote(tiny, repository: Path, tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    tiny.run(repository, ["dvc", "remote", "add", "-q", "-d", "here", str(remote)])
    tiny.run(repository, ["dvc", "push", "-q"])
    shutil.rmtree("data")
    shutil.rmtree(".dvc/cache")
    said: list[str] = []
    materialise(said.append)
    assert said == ["data: from the remote"]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (GENERATOR.format(text="other facts\n", end=""), "the generator made .*, data.dvc pins"),
        (GENERATOR.format(text="facts\n", end="raise SystemExit('no names left')"), "no names left"),
    ],
)
def test_a_generator_that_makes_something_else(generator: Path, script: str, words: str) -> None:
    generator.write_text(script)
    shutil.rmtree("data")
    shutil.rmtree(".dvc/cache")
    with pytest.raises(DataError, match=words):
        materialise(lambda line: None)
    assert left() == []


def test_data_changed_by_hand(repository: Path) -> None:
    Path("data/file.txt").write_text("my facts\n")
    with pytest.raises(DataError, match=r"dvc add data"):
        materialise(lambda line: None)
    assert Path("data/file.txt").read_text() == "my facts\n"


def test_without_data_dvc_there_is_nothing_to_do(repository: Path) -> None:
    Path("data.dvc").unlink()
    assert materialise(pytest.fail) == ""


def with_inbox(tiny, repository: Path) -> None:
    """The data have a file that the generator does not make."""
    Path("data/inbox").mkdir()
    Path("data/inbox/new.jsonl").write_text("{}\n")
    tiny.run(repository, ["dvc", "add", "-q", "data"])
    shutil.rmtree("data")


def test_data_with_an_inbox_come_from_the_cache(tiny, generator: Path, repository: Path) -> None:
    with_inbox(tiny, repository)
    said: list[str] = []
    assert materialise(said.append) == data_hash()
    assert said == ["data: from the DVC cache"] and Path("data/inbox/new.jsonl").exists()


def test_data_with_an_inbox_cannot_be_generated(tiny, generator: Path, repository: Path) -> None:
    with_inbox(tiny, repository)
    shutil.rmtree(".dvc/cache")
    with pytest.raises(DataError, match="neither DVC's cache nor a remote") as caught:
        materialise(lambda line: None)
    assert "inbox" in caught.value.mend and left() == []


def test_the_cache_is_enough_where_the_remote_is_away(tiny, repository: Path, tmp_path: Path) -> None:
    tiny.run(repository, ["dvc", "remote", "add", "-q", "-d", "gone", "s3://gone/data"])
    tiny.run(repository, ["dvc", "remote", "modify", "-q", "gone", "endpointurl", "http://127.0.0.1:9"])
    shutil.rmtree("data")
    said: list[str] = []
    materialise(said.append)
    assert said == ["data: from the DVC cache"]
