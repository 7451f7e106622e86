"""Nothing that a run leaves behind, and nothing that it says, holds a restricted prompt or a secret, unless asked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jpu.attacks import Attempt
from jpu.attacks.campaign import read_piece
from jpu.data.schemas import Behavior, read_records
from jpu.files import read_jsonl
from jpu.sandbox.__main__ import write
from tests.micro import ROOT, params
from tests.shipped import shipped_pipeline

pytestmark = pytest.mark.e2e

# What a run needs to know, and so holds in the open: data, the model's own files, and the attempts to be judged again.
OPEN = ("data", "artifacts/prepared", "artifacts/subject", ".jpu/attempts", ".dvc/cache", ".git")
# Mined prompts are what the defence is trained on; they stay beside the data, in files that no report is made of.
MINED = ("batch.jsonl", "buffer.jsonl")
COPIED = ("jpu", "tasks", "flows", ".dvc/plots", ".gitignore", ".dvcignore")


class Place:
    """A repository with the real stages and real services, and what its commands have said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said = ""

    def run(self, *command: str) -> str:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("JPU_", "MLFLOW_", "PREFECT_", "DVC_"))}
        kept |= {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1"}
        kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
        done = subprocess.run(
            command, cwd=self.folder, env=kept, capture_output=True, text=True, timeout=400, check=False
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        self.said += said
        return said

    def files(self) -> Iterator[tuple[str, bytes]]:
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_file() and not name.startswith(OPEN) and path.name not in MINED:
                yield name, path.read_bytes()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """`jpu harden` on a micro sandbox, with Prefect and MLflow, then `jpu attack` and `jpu report`."""
    folder = tmp_path_factory.mktemp("redaction")
    for name in COPIED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy: Callable[..., object] = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    (folder / ".dvc/config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    (folder / "dvc.yaml").write_text(shipped_pipeline())
    (folder / "params.yaml").write_text(params(1))
    write(folder / "data" / "sandbox")
    place = Place(folder)
    place.run("git", "init", "-q", "-b", "main")
    place.run("dvc", "add", "-q", "data")
    place.run("git", "add", "-A")
    place.run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "-m", "micro")
    place.run("jpu", "harden")
    place.run("jpu", "attack", "artifacts/subject", "--suite", "static", "--suite", "prefill", "--control")
    place.run("jpu", "report", "--no-open")
    place.run("jpu", "report", "artifacts/attacks/subject", "artifacts/evaluation", "--anyway", "--no-open")
    return place


@pytest.fixture(scope="module")
def restricted(place: Place) -> list[str]:
    """Every restricted question and answer, secret and name, and every prompt that was mined or attacked with."""
    behaviors = [b for b in read_records(place.folder / "artifacts/prepared/behaviors.jsonl", Behavior)]
    texts = {t for b in behaviors if b.kind == "restricted" for t in (b.query, b.answer, b.secret, b.entity)}
    for path in place.folder.glob("artifacts/rounds/*/batch.jsonl"):
        texts |= {row["prompt"] for _, row in read_jsonl(path)}
    attempts = list(attacked(place))
    assert attempts
    texts |= {text for a in attempts for text in (a.prompt, a.prefill)}
    texts |= {a.completion for a in attempts if any(b.secret in a.completion for b in behaviors)}
    return sorted(text for text in texts if len(text) > 4)


def attacked(place: Place) -> Iterator[Attempt]:
    for path in (place.folder / ".jpu/attempts").rglob("*.json"):
        yield from (read_piece(path) or ([], 0.0))[0]


def test_nothing_that_is_left_or_said_holds_restricted_text(place: Place, restricted: list[str]) -> None:
    left = dict(place.files())
    # What a reader would look at is among it: the records, the tables, the cards.
    for name in ("mlflow/mlflow.db", "artifacts/evaluation/card.html", "artifacts/attacks/subject/card.json"):
        assert name in left
    assert any(name.startswith("mlflow/") and name.endswith("card.html") for name in left)
    assert any(name.startswith(".jpu/reports/") for name in left)
    found = [
        (name, text[:3])
        for name, data in {**left, "the terminal": place.said.encode()}.items()
        for text in restricted
        if text.lower().encode() in data.lower()
    ]
    assert found == []


def test_what_is_kept_in_the_open_is_closed_to_others(place: Place) -> None:
    assert (place.folder / ".jpu/attempts").stat().st_mode & 0o077 == 0


def test_texts_are_shown_when_they_are_asked_for(place: Place, restricted: list[str]) -> None:
    place.run("jpu", "attack", "artifacts/subject", "--suite", "static", "--out", "shown", "--reveal")
    for name in ("attempts.jsonl", "card.html", "card.json"):
        data = (place.folder / "artifacts/attacks/shown" / name).read_text()
        assert any(text in data for text in restricted), name
    shutil.rmtree(place.folder / "artifacts/attacks/shown")
