"""The digest of the code: another program gives another one, another wording does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jpu.attacks import registered
from jpu.errors import SettingsError
from jpu.unlearning.defences.registry import DEFENCES
from tasks.comparing import code
from tasks.comparing.code import LISTS, PLUMBING, ROOT, code_digest, file_of, reached

RUN = "tasks/comparing/run.py"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small repository: a run, a part of it, a registry of two attacks behind a list, and plumbing."""
    files = {
        "tasks/run.py": '"""Run."""\nfrom jpu.part import double\nfrom jpu.attacks import get\nimport jpu.errors\n',
        "jpu/part.py": "def double(x):\n    return 2 * x\n",
        "jpu/errors.py": "class E(Exception): pass\n",
        "jpu/attacks/__init__.py": "from jpu.attacks.base import get\nfrom jpu.attacks.one import One\n",
        "jpu/attacks/base.py": "def get(name):\n    return name\n",
        "jpu/attacks/one.py": 'class One:\n    name = "one"\n',
        "jpu/attacks/two.py": 'from jpu.attacks.helper import help\nclass Two:\n    name = "two"\n',
        "jpu/attacks/helper.py": "def help(): ...\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(code, "ROOT", tmp_path)
    forget()
    yield tmp_path
    # What is known of this tree must not be taken for the repository's.
    forget()


def forget() -> None:
    """Read every file again."""
    for cached in (code.meaning, code.imports, code._names):
        cached.cache_clear()


def digest(tree: Path, name: str, text: str, *, named: tuple[str, ...] = ()) -> str:
    """The digest with a file in another's place."""
    before = (tree / name).read_text()
    (tree / name).write_text(text)
    forget()
    found = code_digest(["tasks/run.py"], named=named)
    (tree / name).write_text(before)
    return found


def test_imports_are_followed_and_plumbing_and_lists_are_not_hashed(tree: Path) -> None:
    assert reached(["tasks/run.py"]) == {"tasks/run.py", "jpu/part.py", "jpu/attacks/base.py"}
    assert reached(["tasks/run.py", "jpu/attacks/two.py"]) == {
        *("tasks/run.py", "jpu/part.py", "jpu/attacks/base.py", "jpu/attacks/two.py", "jpu/attacks/helper.py")
    }


@pytest.mark.parametrize(
    ("name", "text", "same"),
    [
        ("jpu/part.py", "# A comment.\n\n\ndef double(x):\n    return (2 * x)\n", True),
        ("jpu/part.py", 'def double(x):\n    """Twice."""\n    return 2 * x\n', True),
        ("jpu/part.py", "def double(x):\n    return 3 * x\n", False),
        (
            "tasks/run.py",
            '"""Other words."""\nfrom jpu.part import double\nfrom jpu.attacks import get\nimport jpu.errors\n',
            True,
        ),
        ("jpu/errors.py", "class F(Exception): pass\n", True),
        ("jpu/attacks/__init__.py", "from jpu.attacks.base import get\nfrom jpu.attacks.two import Two\n", True),
        ("jpu/attacks/one.py", 'class One:\n    name = "one"\n    depth = 3\n', True),
        ("jpu/attacks/base.py", "def get(name):\n    return name + name\n", False),
    ],
)
def test_the_digest_is_that_of_what_decides(tree: Path, name: str, text: str, same: bool) -> None:
    before = digest(tree, name, (tree / name).read_text())
    assert (digest(tree, name, text) == before) is same


def test_an_attack_counts_for_the_run_that_names_it(tree: Path) -> None:
    text = 'class One:\n    name = "one"\n    depth = 3\n'
    before = digest(
        tree, "jpu/attacks/one.py", (tree / "jpu/attacks/one.py").read_text(), named=("jpu/attacks/one.py",)
    )
    assert digest(tree, "jpu/attacks/one.py", text, named=("jpu/attacks/one.py",)) != before


def test_what_has_no_part_is_left_out(tree: Path) -> None:
    text = "def double(x):\n    return 3 * x\n"
    whole, part = code_digest(["tasks/run.py"]), code_digest(["tasks/run.py"], without=("jpu/part",))
    (tree / "jpu/part.py").write_text(text)
    forget()
    assert code_digest(["tasks/run.py"]) != whole and code_digest(["tasks/run.py"], without=("jpu/part",)) == part


# In this repository


@pytest.mark.parametrize("name", sorted(registered()))
def test_every_attack_is_found_by_its_name(name: str) -> None:
    file = file_of("jpu/attacks", name)
    assert type(registered()[name]).__module__ == file.removesuffix(".py").replace("/", ".")


@pytest.mark.parametrize("name", sorted(DEFENCES))
def test_every_defence_is_found_by_its_name(name: str) -> None:
    file = file_of("jpu/unlearning/defences", name)
    assert DEFENCES[name].__module__ == file.removesuffix(".py").replace("/", ".")


def test_what_there_is_none_of_is_refused() -> None:
    with pytest.raises(SettingsError, match="'magic'"):
        file_of("jpu/attacks", "magic")


def test_a_run_reaches_what_trains_and_measures_and_no_attack_that_it_does_not_name() -> None:
    found = reached([RUN, file_of("jpu/attacks", "static")])
    assert found >= {
        *("jpu/unlearning/training.py", "jpu/mining/mine.py", "jpu/paths/igi.py", "jpu/models/generation.py"),
        *("jpu/judges/secret.py", "jpu/evaluation/aftermath.py", "jpu/attacks/static.py", "tasks/hardening.py"),
    }
    assert not found & {"jpu/attacks/gcg.py", "jpu/unlearning/defences/npo.py", "tasks/tracking.py", *LISTS, *PLUMBING}


def test_what_is_called_plumbing_is_there() -> None:
    assert [path for path in (*PLUMBING, *LISTS) if not (ROOT / path).is_file()] == []
