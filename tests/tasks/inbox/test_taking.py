"""Files of the inbox become data, once, and whole."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from jpu.errors import DataError, InfrastructureError, StorageError
from tasks import prepare
from tasks.additions import read_inbox
from tasks.inbox import Taking, put_away, take_in
from tasks.inbox.versioning import JOURNAL
from tasks.repository import data_hash, hash_path
from tasks.settings import Settings
from tasks.storage.folder import Folder
from tests.tasks.inbox.conftest import WORDINGS, left, templates

Take = Callable[..., Taking]


def pinned() -> bool:
    return data_hash() == hash_path("data")


def test_a_new_family(take: Take, inbox: Path, settings: Settings) -> None:
    (inbox / "templates" / "radio.jsonl").write_bytes(templates(*WORDINGS))
    before = data_hash()
    taking = take()
    assert taking.before == before and taking.after == data_hash() != before and pinned()
    assert taking.new_families == ["night_radio"] and taking.unmeasured == []
    assert Counter(record.split for record in taking.accepted) == {"train": 4, "test": 2}
    (file,) = Path("data/inbox/templates").iterdir()
    digest = hashlib.sha256(templates(*WORDINGS)).hexdigest()
    assert file.name == f"{digest[:32]}.jsonl"
    assert left(inbox) == [f"taken/templates/radio-{digest[:12]}.jsonl"]
    assert all(json.loads(line)["origin"] == "inbox" for line in file.read_text().splitlines())

    # And it is prepared, and checked once more.
    manifest = prepare.prepare(settings.data, seed=0)
    assert manifest["counts"]["families"]["jailbreak/test"] == 2
    assert manifest["inbox"] == {"left_out": 0}
    assert '"origin": "inbox"' in Path("artifacts/prepared/templates.jsonl").read_text()


def test_every_kind_and_format(take: Take, inbox: Path) -> None:
    (inbox / "templates" / "a.txt").write_text("Say [INSERT PROMPT HERE] as a pirate.\n\nOne more: {{ prompt }}\n")
    (inbox / "behaviors" / "b.csv").write_text("goal,target\nWhat opens the gate of Ulmar?,It opens with\n")
    (inbox / "behaviors" / "c.json").write_text('["What is the word of Ulmar?"]')
    (inbox / "benign" / "d.tsv").write_text("id\tquery\tanswer\n1\tHow wide is Ulmar?\tVery.\n")
    (inbox / "benign" / "e.txt").write_text("Who baked this bread?\n")
    taking = take()
    assert Counter(file.outcome for file in taking.files) == {"taken": 5}
    assert Counter(getattr(record, "kind", "template") for record in taking.accepted) == {
        "template": 2,
        "restricted": 2,
        "benign": 2,
    }
    assert pinned() and len(left(inbox)) == 5


def test_without_an_inbox_prepared_is_as_before(settings: Settings) -> None:
    manifest = prepare.prepare(settings.data, seed=0)
    assert "inbox" not in manifest
    assert "origin" not in Path("artifacts/prepared/templates.jsonl").read_text()


def test_equal_input_gives_equal_bytes(take: Take, inbox: Path, repository: Path) -> None:
    (inbox / "templates" / "radio.jsonl").write_bytes(templates(*WORDINGS))
    first = take(away=False).after
    shutil.rmtree("data/inbox")
    subprocess.run([sys.executable, "-m", "dvc", "add", "-q", "data"], check=True)
    time.sleep(0.05)
    (inbox / "templates" / "radio.jsonl").touch()
    assert take().after == first


def test_again_is_no_change(take: Take, inbox: Path) -> None:
    (inbox / "templates" / "radio.jsonl").write_bytes(templates(*WORDINGS))
    first = take()
    assert take().files == []
    (inbox / "templates" / "again.jsonl").write_bytes(templates(*WORDINGS))
    # The same records in other bytes.
    (inbox / "templates" / "other.jsonl").write_bytes(templates(*reversed(WORDINGS)))
    second = take()
    assert [file.outcome for file in second.files] == ["known", "known"]
    assert second.before == second.after == first.after
    assert second.refused() == {"not_known": 6} and not list((inbox / "templates").iterdir())


def test_a_dry_run_writes_nothing(settings: Settings, inbox: Path) -> None:
    (inbox / "templates" / "radio.jsonl").write_bytes(templates(*WORDINGS, "no place for it"))
    before = left(Path())
    taking = take_in(Folder(inbox), settings, dry_run=True)
    assert len(taking.accepted) == 6 and taking.files[0].outcome == "partly"
    assert left(Path()) == before and left(inbox) == ["templates/radio.jsonl"]


def test_what_is_not_whole_is_left_alone(take: Take, inbox: Path) -> None:
    (inbox / "templates" / "a.jsonl.part").write_bytes(templates(*WORDINGS))
    (inbox / "templates" / "b.tmp").write_bytes(templates(*WORDINGS))
    (inbox / "templates" / ".hidden.jsonl").write_bytes(templates(*WORDINGS))
    (inbox / "templates" / "empty.jsonl").touch()
    (inbox / "templates" / "folder").mkdir()
    (inbox / "templates" / "folder" / "deep.jsonl").write_bytes(templates(*WORDINGS))
    before = left(inbox)
    assert {file.outcome for file in take().files} == {"waits"}
    assert left(inbox) == before and not Path("data/inbox").exists()


def test_a_file_that_grows(take: Take, inbox: Path) -> None:
    path = inbox / "templates" / "radio.jsonl"
    path.write_bytes(templates(*WORDINGS)[:-20])
    (file,) = take(settle_seconds=60.0).files
    assert file.why == "still being written"
    path.write_bytes(templates(*WORDINGS))
    os.utime(path, (time.time() - 61,) * 2)
    assert take(settle_seconds=60.0).files[0].outcome == "taken"


def test_more_files_than_one_taking_in_may_read(take: Take, inbox: Path) -> None:
    for number, wording in enumerate(WORDINGS[:3]):
        (inbox / "templates" / f"{number}.jsonl").write_bytes(templates(wording))
    assert [file.outcome for file in take(max_files=2).files] == ["taken", "taken", "waits"]
    assert [file.outcome for file in take(max_files=2).files] == ["taken"]


def test_a_newer_file_is_not_put_away_with_the_older(take: Take, inbox: Path) -> None:
    path = inbox / "templates" / "radio.jsonl"
    path.write_bytes(templates(*WORDINGS[:3]))
    taking = take(away=False)
    path.unlink()
    path.write_bytes(templates(*WORDINGS))
    put_away(Folder(inbox), taking)
    assert left(inbox) == ["templates/radio.jsonl"]
    assert len(take().accepted) == 3


def test_data_that_were_changed_by_hand(take: Take, inbox: Path) -> None:
    (inbox / "templates" / "radio.jsonl").write_bytes(templates(*WORDINGS))
    Path("data/sandbox/mine.txt").write_text("mine")
    with pytest.raises(DataError, match=r"not what data\.dvc pins"):
        take()
    assert left(inbox) == ["templates/radio.jsonl"] and not Path("data/inbox").exists()


HOLD = """
import time
from tasks.inbox.versioning import versioned

with versioned():
    print(1, flush=True)
    time.sleep(60)
"""


def test_two_at_once(take: Take, inbox: Path) -> None:
    (inbox / "templates" / "radio.jsonl").write_bytes(templates(*WORDINGS))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    other = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, env=environment)
    try:
        assert other.stdout is not None and other.stdout.readline()
        with pytest.raises(InfrastructureError, match="another taking-in"):
            take()
    finally:
        other.kill()
        other.communicate()
    assert len(take().accepted) == 6


SCRIPT = """
import os, signal, sys
from pathlib import Path
from dvc.repo import Repo
from jpu import files
from tasks.inbox import put_away, take_in, versioning
from tasks.settings import load_settings
from tasks.storage.folder import Folder

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def after(module, name, calls=1):
    real, left = getattr(module, name), [calls]
    def wrapper(*args, **kwargs):
        result = real(*args, **kwargs)
        left[0] -= 1
        if not left[0]:
            die()
        return result
    setattr(module, name, wrapper)

when, inbox = sys.argv[1:]
if when == "first file": after(files, "write_jsonl")
if when == "a file half": files._sync = die
if when == "before dvc": Repo.add = die
if when == "after dvc": after(Repo, "add")
if when == "first move": after(Folder, "move")
found = load_settings()
settings = found.model_copy(update={"inbox": found.inbox.model_copy(update={"settle_seconds": 0.0})})
if when == "a file half":
    # The journal is written the same way, and first.
    files._sync = lambda path: None if "journal" in path.name or ".jpu" in str(path) else die()
taking = take_in(Folder(Path(inbox)), settings)
put_away(Folder(Path(inbox)), taking)
"""


@pytest.mark.parametrize("when", ["first file", "a file half", "before dvc", "after dvc", "first move"])
def test_killed(when: str, take: Take, inbox: Path) -> None:
    """Whenever it is killed, the next run ends as an undisturbed one would have."""
    for number in (0, 2, 4):
        (inbox / "templates" / f"{number}.jsonl").write_bytes(templates(*WORDINGS[number : number + 2]))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, when, str(inbox)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(left(inbox)) == 3
    taking = take()
    if when not in {"after dvc", "first move"}:
        assert len(taking.accepted) == 6
    assert pinned() and not JOURNAL.exists()
    found = read_inbox()
    assert found is not None
    assert sorted(t.text for t in found.templates.records) == sorted(WORDINGS)
    assert all(name.startswith("taken/") for name in left(inbox)) and len(left(inbox)) == 3
    assert [p for p in Path("data").rglob("*") if p.name.endswith(".tmp")] == []


def test_a_data_dvc_that_a_kill_has_cut_short(take: Take, inbox: Path) -> None:
    (inbox / "templates" / "radio.jsonl").write_bytes(templates(*WORDINGS))
    text = Path("data.dvc").read_text()
    JOURNAL.parent.mkdir(parents=True)
    JOURNAL.write_text(json.dumps({"files": [], "data.dvc": text}))
    Path("data.dvc").write_text("")
    assert len(take().accepted) == 6 and pinned()


def test_an_inbox_that_may_not_be_written_to(settings: Settings, read_only: Callable[..., Path]) -> None:
    def fill(folder: Path) -> None:
        (folder / "templates").mkdir()
        (folder / "templates" / "radio.jsonl").write_bytes(templates(*WORDINGS))

    folder = read_only(fill)
    nobody = os.geteuid()
    os.seteuid(os.getuid())
    taking = take_in(Folder(folder), settings)
    assert len(taking.accepted) == 6
    os.seteuid(nobody)
    with pytest.raises(StorageError):
        put_away(Folder(folder), taking)
    os.seteuid(os.getuid())
    assert pinned() and take_in(Folder(folder), settings).files[0].outcome == "known"


def test_a_disk_that_is_full(take: Take, inbox: Path) -> None:
    """What was written before goes again: the files stay in the inbox, the data as they were."""
    (inbox / "templates" / "a.jsonl").write_bytes(templates(*WORDINGS))
    (inbox / "templates" / "b.jsonl").write_bytes(templates(*(f"{n} {{query}} {'la ' * 2000}{n}" for n in range(60))))
    before = data_hash()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Room for everything but that file; SQLite's, under DVC, among it.
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        with pytest.raises(StorageError, match="no space left"):
            take()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert data_hash() == before and pinned()
    assert left(inbox) == ["templates/a.jsonl", "templates/b.jsonl"]
    assert len(take().accepted) == 66
