"""The champion: what is committed for a version, and alias and branch that move together or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jpu.errors import DataError, InfrastructureError, SettingsError
from tasks.alias import Alias
from tasks.champion import promote, record, recover
from tasks.gitstore import GitStore
from tasks.promotion import Promotion
from tasks.snapshots import KEPT
from tasks.versions import find_version
from tests.hardened import Place, copied, git

REF = "refs/heads/jpu/micro/champion"
# A promotion that is killed just before, or just after, the alias moves.
KILLED = """
import os, signal
from tasks.champion import promote
from tasks.alias import Alias
from tasks.store import open_client
moves = Alias.set
def killed(self, *arguments, **named):
    {body}
    os.kill(os.getpid(), signal.SIGKILL)
Alias.{hook} = killed
promote(open_client(), "2")
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Version 1 is the champion; version 2 is in a checkout, which is the current folder, and nowhere recorded."""
    place = copied(tmp_path / "base", monkeypatch)
    monkeypatch.chdir(place.checkout)
    return place


def agree(place: Place, number: int) -> None:
    """Alias, branch and tag say the same."""
    assert place.champion() == number
    assert place.branch() == place.version(str(number)).lock_commit
    assert not GitStore(place.root).common.joinpath("jpu/champion-micro.json").exists()


def test_a_version_is_recorded_beside_what_a_person_works_on(place: Place) -> None:
    (place.root / "staged.txt").write_text("half done")
    place.git("add", "staged.txt")
    (place.root / "README.md").write_text("not added")
    before = place.state()
    commit = record(place.client, place.version("2"))
    assert place.state() == before
    assert place.version("2").lock_commit == commit == place.git("rev-parse", "jpu/micro/v2^{commit}")
    assert place.git("cat-file", "-t", "jpu/micro/v2") == "tag"
    assert place.git("rev-parse", f"{commit}^") == place.version("1").lock_commit
    for name in KEPT:
        assert GitStore(place.root).read(commit, name) == (place.checkout / name).read_bytes()
    changed = place.git("diff", "--name-only", f"{commit}^", commit).splitlines()
    assert sorted(changed) == sorted(KEPT)
    # Again, and after a kill between git and MLflow, it is the same commit.
    assert record(place.client, place.version("2")) == commit
    place.client.delete_model_version_tag("jpu-micro", "2", "jpu.lock_commit")
    assert record(place.client, place.version("2")) == commit


def test_a_version_of_another_tree_is_not_recorded(place: Place) -> None:
    place.client.delete_model_version_tag("jpu-micro", "1", "jpu.lock_commit")
    with pytest.raises(DataError, match="the working tree is not jpu-micro/1: adapter"):
        record(place.client, place.version("1"))


def test_a_version_of_code_that_git_does_not_have_is_not_recorded(place: Place) -> None:
    git(place.checkout, "rm", "-q", "--cached", "tasks/expectations.py")
    git(place.checkout, "commit", "-q", "-m", "a file too few")
    with pytest.raises(DataError, match=r"ran with tasks/expectations\.py .*no such path"):
        promote(place.client, "2")
    (place.checkout / "dvc.yaml").write_text((place.checkout / "dvc.yaml").read_text() + "\n")
    with pytest.raises(DataError, match="differs from HEAD's"):
        promote(place.client, "2")
    agree(place, 1)


def test_a_version_of_other_settings_than_these_is_not_recorded(place: Place) -> None:
    settings = place.checkout / "params.yaml"
    settings.write_text(settings.read_text().replace('"seed": 3', '"seed": 4'))
    with pytest.raises(DataError, match=r"ran with seed 3, HEAD and params\.yaml have 4"):
        promote(place.client, "2")
    agree(place, 1)


def test_a_tag_never_moves(place: Place) -> None:
    place.git("tag", "-a", "-m", "of another store", "jpu/micro/v2", "HEAD")
    with pytest.raises(DataError, match=r"jpu/micro/v2: is there already"):
        record(place.client, place.version("2"))


def test_a_promotion_moves_both_and_says_so_on_both(place: Place) -> None:
    before = place.state()
    change = promote(place.client)
    assert (change.old, change.new) == (1, 2)
    agree(place, 2)
    assert place.state() == before
    new, old = place.version("champion").tags, place.version("1").tags
    assert new["jpu.replaces"] == "1" and old["jpu.replaced_by"] == "2"
    assert new["jpu.promoted_at"] == old["jpu.replaced_at"] == change.at
    assert promote(place.client, "2").old == 2


def test_a_branch_that_cannot_move_leaves_everything_as_it_was(place: Place) -> None:
    """Another git holds the branch's lock."""
    lock = GitStore(place.root).common / f"{REF}.lock"
    lock.touch()
    with pytest.raises(InfrastructureError, match="update-ref"):
        promote(place.client, "2")
    lock.unlink()
    agree(place, 1)
    promote(place.client, "2")
    agree(place, 2)


def test_an_alias_that_cannot_move_takes_the_branch_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(self: Alias, number: int) -> None:
        raise InfrastructureError("away", where="MLflow")

    with monkeypatch.context() as patch:
        patch.setattr(Alias, "set", away)
        with pytest.raises(InfrastructureError, match="away"):
            promote(place.client, "2")
    agree(place, 1)


def test_somebody_else_promotes_at_the_same_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = GitStore.move

    def meanwhile(self: GitStore, ref: str, new: str | None, old: str | None, why: str) -> None:
        moved(self, ref, new, old, why)
        place.client.delete_registered_model_alias("jpu-micro", "champion")

    with monkeypatch.context() as patch:
        patch.setattr(GitStore, "move", meanwhile)
        with pytest.raises(InfrastructureError, match="at the same time"):
            promote(place.client, "2")
    assert place.branch() == place.version("1").lock_commit
    with pytest.raises(DataError, match="the alias says version none"):
        promote(place.client, "2")


def test_gates_that_compared_with_a_former_champion(place: Place) -> None:
    with pytest.raises(DataError, match="the champion is version 1 by now, not 7"):
        promote(place.client, "2", expected="7")
    agree(place, 1)
    assert promote(place.client, "2", expected="jpu-micro/1").new == 2


def test_a_promotion_that_was_cut_off_is_done_when_it_is_tried_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the flow's task does: the same call again, which still names the champion that gates compared with."""
    moved = GitStore.move

    def away(self: Alias, *arguments: object) -> int:
        raise InfrastructureError("away", where="MLflow")

    def last(self: GitStore, *arguments: str) -> None:
        moved(self, *arguments)
        patch.setattr(Alias, "number", away)

    with monkeypatch.context() as patch:
        patch.setattr(GitStore, "move", last)
        with pytest.raises(InfrastructureError, match="away"):
            promote(place.client, "2", expected="jpu-micro/1")
    assert (place.champion(), place.branch()) == (1, place.version("2").lock_commit)
    assert promote(place.client, "2", expected="jpu-micro/1").new == 2
    agree(place, 2)


def test_two_commands_at_once(place: Place) -> None:
    with (
        Promotion(place.client, GitStore(place.root), "jpu-micro", "micro").alone(),
        pytest.raises(InfrastructureError, match="another command"),
    ):
        promote(place.client, "2")


def test_a_branch_that_is_checked_out_is_not_moved(place: Place) -> None:
    place.git("worktree", "add", "-q", str(place.root.parent / "other"), "jpu/micro/champion")
    with pytest.raises(SettingsError, match="is checked out"):
        promote(place.client, "2")
    agree(place, 1)


@pytest.mark.parametrize(
    ("hook", "body"),
    [
        pytest.param("set", "", id="between branch and alias"),
        pytest.param("set", "moves(self, *arguments)", id="after the alias"),
        pytest.param("note", "", id="before the notes"),
    ],
)
def test_kill_9_in_the_middle_is_completed(place: Place, hook: str, body: str) -> None:
    killed = place.run(KILLED.format(hook=hook, body=body or "pass"))
    assert killed.returncode == -9, killed.stderr
    assert place.branch() != place.version("1").lock_commit
    assert recover(place.client, "micro") == "completed: the promotion from version 1 to 2"
    agree(place, 2)
    assert place.version("2").tags["jpu.replaces"] == "1"
    assert recover(place.client, "micro") == ""


def test_kill_9_before_anything_moved_is_undone_by_the_next_promotion(place: Place) -> None:
    killed = place.run(
        "import os, signal\nfrom tasks.champion import promote\nfrom tasks.gitstore import GitStore\n"
        "from tasks.store import open_client\n"
        "GitStore.move = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\npromote(open_client(), '2')"
    )
    assert killed.returncode == -9, killed.stderr
    said: list[str] = []
    promote(place.client, "2", say=said.append)
    assert said == ["undone: a promotion to version 2 that had moved nothing yet"]
    agree(place, 2)


def test_a_cut_off_promotion_whose_alias_was_moved_by_hand(place: Place) -> None:
    place.run(KILLED.format(hook="set", body="pass"))
    place.client.delete_registered_model_alias("jpu-micro", "champion")
    with pytest.raises(DataError, match=r"moved to none and the branch"):
        recover(place.client, "micro")


def test_a_journal_is_seen_from_every_working_tree(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.run(KILLED.format(hook="set", body="pass"))
    other = place.root.parent / "other"
    place.git("worktree", "add", "-q", "--detach", str(other))
    assert recover(place.client, "micro", other).startswith("completed")
    agree(place, 2)


def test_a_version_is_found_by_number_alias_and_name(place: Place) -> None:
    names = ("2", "challenger", "jpu-micro/2", "micro/challenger")
    assert {find_version(place.client, name).name for name in names} == {"jpu-micro/2"}
    with pytest.raises(DataError, match=r"no version 'best'\nThere are: 1 \(champion\), 2 \(challenger\)\."):
        find_version(place.client, "best")
    with pytest.raises(DataError, match=r"run `jpu harden`"):
        find_version(place.client, "jpu-other/1")


def test_the_record_names_no_machine(place: Place) -> None:
    commit = record(place.client, place.version("2"))
    said = place.git("log", "-1", "--format=%B", commit) + place.git("cat-file", "tag", "jpu/micro/v2")
    assert str(place.root) not in said and json.dumps("micro") not in said
