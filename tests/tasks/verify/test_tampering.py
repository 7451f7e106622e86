"""Every link of a version's chain, broken on purpose: the first broken one is named, and what it means."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.gitstore import GitStore
from tasks.snapshots import snapshot_at
from tasks.verify import verify
from tests.hardened import Place

Tamper = Callable[[Place], None]


def commit_again(
    place: Place, files: dict[str, Callable[[str], str]], parent: str = "", more: dict[str, bytes] | None = None
) -> None:
    """Put other files into the version's commit, and move tag, branch and MLflow's tag to it, as a forger would."""
    git, version = GitStore(place.root), place.version("2")
    new = dict(snapshot_at(git, version.lock_commit).files)
    for name, edit in files.items():
        edited = edit(new[name].decode()).encode()
        assert edited != new[name], "nothing was edited"
        new[name] = edited
    new |= more or {}
    commit = git.commit_files(new, parent or place.git("rev-parse", f"{version.lock_commit}^"), "forged")
    place.git("tag", "-f", "-a", "-m", "forged", version.git_tag, commit)
    place.git("update-ref", "refs/heads/jpu/micro/champion", commit)
    place.client.set_model_version_tag("jpu-micro", "2", "jpu.lock_commit", commit)


def lock(pattern: str, by: str) -> Tamper:
    """Edit dvc.lock in the commit: the first place, from a stage's name on, that a pattern finds."""

    def tamper(place: Place) -> None:
        commit_again(place, {"dvc.lock": lambda text: re.sub(pattern, by, text, count=1, flags=re.DOTALL)})

    return tamper


def committed(name: str, old: str, new: str) -> Tamper:
    return lambda place: commit_again(place, {name: lambda text: text.replace(old, new, 1)})


def flip(path: Path) -> None:
    """Change one byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def stored(place: Place, oid: str) -> Path:
    """An object in the remote."""
    return place.remote / "files/md5" / oid[:2] / oid[2:]


def entry(place: Place, oid: str, name: str) -> Path:
    """A file of a folder, in the remote."""
    listing = json.loads(stored(place, oid).read_text())
    return stored(place, next(one["md5"] for one in listing if one["relpath"] == name))


def out(place: Place, path: str) -> str:
    return snapshot_at(GitStore(place.root), place.version("2").lock_commit).out(path)


def artifact(place: Place, run_id: str, name: str) -> Path:
    """A file among the artifacts of a run."""
    return Path(place.client.get_run(run_id).info.artifact_uri.removeprefix("file://"), name)


def sql(place: Place, statement: str, *values: str) -> None:
    with contextlib.closing(sqlite3.connect(place.root / "mlflow/mlflow.db")) as store, store:
        assert store.execute(statement, values).rowcount == 1


def adapter_in_mlflow(place: Place) -> None:
    flip(artifact(place, place.version("2").run_id, "adapter/adapter_model.safetensors"))


def pickle_in_mlflow(place: Place) -> None:
    artifact(place, place.version("2").run_id, "adapter/adapter_model.bin").write_bytes(pickle.dumps({}))


def link_in_mlflow(place: Place) -> None:
    config = artifact(place, place.version("2").run_id, "adapter/adapter_config.json")
    config.rename(place.root / "elsewhere.json")
    config.symlink_to(place.root / "elsewhere.json")


def other_source(place: Place) -> None:
    # Where the real adapter is, so that only its place differs.
    other = place.root / "mlflow/other"
    other.symlink_to(artifact(place, place.version("2").run_id, ""))
    sql(place, "update model_versions set source = ? where version = 2", f"{other.as_uri()}/adapter")


def adapter_in_remote(place: Place) -> None:
    flip(entry(place, out(place, "artifacts/rounds/2/adapter"), "adapter_model.safetensors"))


def data_in_remote(place: Place) -> None:
    flip(entry(place, place.version("2").tags["jpu.data"], "sandbox/behaviors.jsonl"))


def subject_in_remote(place: Place) -> None:
    """Another model under the subject's hash."""
    model = entry(place, out(place, "artifacts/subject"), "model.safetensors")
    other = entry(place, out(place, "artifacts/rounds/2/adapter"), "adapter_model.safetensors")
    model.chmod(0o644)
    model.write_bytes(other.read_bytes())


def listing_in_remote(place: Place) -> None:
    """A listing without one of the data's files."""
    path = stored(place, place.version("2").tags["jpu.data"])
    path.chmod(0o644)
    path.write_text(json.dumps(json.loads(path.read_text())[1:]))


def path_gone_from_remote(place: Place) -> None:
    stored(place, out(place, "artifacts/rounds/2/path")).unlink()


def run_deleted(place: Place) -> None:
    place.client.delete_run(place.version("2").maker("unlearn@2"))


def run_failed(place: Place) -> None:
    place.client.set_terminated(place.version("2").maker("mine@2"), "FAILED")


def run_of_another_stage(place: Place) -> None:
    other = place.version("1").maker("mine@1")
    place.client.set_model_version_tag("jpu-micro", "2", "jpu.run.identify-2", other)


def run_unknown(place: Place) -> None:
    place.client.set_model_version_tag("jpu-micro", "2", "jpu.run.identify-2", "unknown")


def output_tag(place: Place) -> None:
    place.client.set_tag(place.version("2").maker("identify@2"), "jpu.out/artifacts/rounds/2/path", "0" * 32 + ".dir")


def dataset(place: Place) -> None:
    run_id = place.version("2").maker("mine@2")
    sql(
        place,
        # One row of MLflow's, that every run with this input shares.
        "update datasets set digest = 'forged' where name = 'artifacts/subject' and dataset_uuid in "
        "(select source_id from inputs where destination_id = ?)",
        run_id,
    )


def failed_expectation(place: Place) -> None:
    path = artifact(place, place.version("2").maker("prepare"), "validation.json")
    path.write_text(path.read_text().replace('"success": true', '"success": false', 1))


def other_results(place: Place) -> None:
    path = artifact(place, place.version("2").maker("prepare"), "validation.json")
    path.write_text(re.sub(r'"rows": \d+', '"rows": 1', path.read_text(), count=1))


def no_results(place: Place) -> None:
    artifact(place, place.version("2").maker("prepare"), "validation.json").unlink()


def figure(place: Place) -> None:
    place.client.set_model_version_tag("jpu-micro", "2", "after.asr_static", "0.01")


def registered_hash(place: Place) -> None:
    place.client.set_model_version_tag("jpu-micro", "2", "jpu.subject", "0" * 32 + ".dir")


def tag_moved(place: Place) -> None:
    place.git("tag", "-f", "-a", "-m", "moved", "jpu/micro/v2", "HEAD")


def branch_moved(place: Place) -> None:
    place.git("update-ref", "refs/heads/jpu/micro/champion", "jpu/micro/v1^{commit}")


def commit_gone(place: Place) -> None:
    place.git("tag", "-d", "jpu/micro/v2")
    place.git("update-ref", "-d", "refs/heads/jpu/micro/champion")
    place.git("reflog", "expire", "--expire=now", "--all")
    place.git("gc", "-q", "--prune=now")


def start_lost(place: Place) -> None:
    """Without the buffer, in champion.dvc alone."""
    commit_again(place, {"champion.dvc": lambda text: text[: text.index("- path: artifacts/rounds/1/buffer")]})


def ancestor_untagged(place: Place) -> None:
    place.git("tag", "-d", "jpu/micro/v1")


def ancestor_gone(place: Place) -> None:
    """Version 2's commit on another parent; nothing else leads to that of version 1."""
    commit_again(place, {}, parent=place.git("rev-parse", "main"))
    place.git("tag", "-d", "jpu/micro/v1")
    place.git("worktree", "remove", "--force", str(place.checkout))
    place.git("reflog", "expire", "--expire=now", "--all")
    place.git("gc", "-q", "--prune=now")


def ancestor_run(place: Place) -> None:
    place.client.delete_run(place.version("1").maker("subject"))


def never_recorded(place: Place) -> None:
    place.client.delete_model_version_tag("jpu-micro", "2", "jpu.lock_commit")


def code_in_the_commit(place: Place) -> None:
    commit_again(place, {}, more={"tasks/evaluate.py": b"print('better')\n"})


def code_in_its_parent(place: Place) -> None:
    file = place.root / "jpu/judges/base.py"
    file.write_text(file.read_text() + "\n# lenient\n")
    place.git("commit", "-q", "-m", "other code", "jpu/judges/base.py")
    commit_again(place, {}, parent=place.git("rev-parse", "HEAD"))


def no_lock(place: Place) -> None:
    commit_again(place, {"dvc.lock": lambda text: "stages: [\n"})


# Of a stage's entry, from its name up to the hash of one of its paths.
_MD5 = r"(\n  {stage}:\n.*?- path: {path}\n      hash: md5\n      md5: )[0-9a-f]{{32}}"
_OTHER = rf"\g<1>{'5' * 32}"


@pytest.mark.parametrize(
    ("tamper", "link", "words"),
    [
        pytest.param(never_recorded, "git commit", "never recorded", id="never recorded"),
        pytest.param(commit_gone, "git commit", "found no such commit in git", id="commit gone"),
        pytest.param(no_lock, "dvc.lock", "expected a file that can be read", id="lock file cut off"),
        pytest.param(tag_moved, "git tag", "the tag was moved", id="tag moved"),
        pytest.param(branch_moved, "champion's branch", "disagree", id="branch moved"),
        pytest.param(code_in_the_commit, "git commit", "found tasks/evaluate.py", id="code in the commit"),
        pytest.param(code_in_its_parent, "code of mine@2: jpu/judges", "made by other code", id="code differs"),
        pytest.param(registered_hash, "hash of subject", "another subject than", id="registered hash"),
        pytest.param(committed("data.dvc", "md5: ", "md5: 0000"), "hash of data", "tag jpu.data", id="data.dvc"),
        pytest.param(other_source, "adapter's place", "from elsewhere", id="source"),
        pytest.param(adapter_in_mlflow, "adapter in MLflow", "not the one that was", id="adapter's byte, MLflow"),
        pytest.param(pickle_in_mlflow, "adapter in MLflow", "can run code", id="pickle, MLflow"),
        pytest.param(link_in_mlflow, "adapter in MLflow", "symbolic link", id="link, MLflow"),
        pytest.param(
            lock(_MD5.format(stage="unlearn@2", path="artifacts/rounds/2/path"), _OTHER),
            "identify@2 → unlearn@2",
            "found 5555",
            id="lock: input",
        ),
        pytest.param(
            lock(_MD5.format(stage="identify@2", path="artifacts/rounds/2/path"), _OTHER),
            "identify@2 → unlearn@2",
            "expected 5555",
            id="lock: output",
        ),
        pytest.param(
            lock(_MD5.format(stage="mine@2", path="artifacts/subject"), _OTHER),
            "champion.dvc → mine@2",
            "found 5555",
            id="lock: input from the champion",
        ),
        pytest.param(
            lock(_MD5.format(stage="evaluate", path="artifacts/evaluation/card.html"), _OTHER),
            "run of evaluate",
            "expected 5555",
            id="lock: output that nothing reads",
        ),
        pytest.param(lock(_MD5.format(stage="prepare", path="data"), _OTHER), "data", "found 5555", id="lock: data"),
        pytest.param(
            lock(_MD5.format(stage="mine@2", path="jpu/mining"), _OTHER), "code of mine@2", "5555", id="lock: code"
        ),
        pytest.param(
            lock(r"(\n  unlearn@2:\n.*?\n        seed: )\d+", r"\g<1>99"), "params of unlearn@2", "99", id="lock: param"
        ),
        pytest.param(
            lock(r"(\n  mine@2:\n    cmd: )[^\n]*", r"\g<1>echo forged"),
            "command of mine@2",
            "found echo forged",
            id="lock: command",
        ),
        pytest.param(
            lock(r"(\n  mine@2:\n.*?)    - path: tasks/mining\.py\n.*?(?=    - path:)", r"\g<1>"),
            "inputs of mine@2",
            "expected tasks/mining.py",
            id="lock: input left out",
        ),
        pytest.param(
            committed("params.yaml", '"steps": 6', '"steps": 7'), "params of unlearn@", "steps = 7", id="params.yaml"
        ),
        pytest.param(run_unknown, "run of identify@2", "found none", id="run unknown"),
        pytest.param(run_deleted, "run of unlearn@2", "a deleted run", id="run deleted"),
        pytest.param(run_failed, "run of mine@2", "found FAILED", id="run failed"),
        pytest.param(run_of_another_stage, "run of identify@2", "found mine-1", id="run of another stage"),
        pytest.param(output_tag, "run of identify@2", "did not make what", id="run's output tag"),
        pytest.param(dataset, "run of evaluate", "found forged", id="run's dataset"),
        pytest.param(adapter_in_remote, "contents of adapter of round 2", "swapped", id="adapter's byte, remote"),
        pytest.param(data_in_remote, "contents of data", "sandbox/behaviors.jsonl", id="data file, remote"),
        pytest.param(listing_in_remote, "contents of data", "swapped", id="data's listing, remote"),
        pytest.param(
            subject_in_remote, "jpu-micro/1: contents of subject (base model)", "model.safetensors", id="base model"
        ),
        pytest.param(
            committed("champion.dvc", "jpu-micro/1", "jpu-micro/7"),
            "champion.dvc",
            "found jpu-micro/7",
            id="start: no version",
        ),
        pytest.param(
            committed("champion.dvc", "jpu-micro/1", "jpu-micro/2"), "champion.dvc", "before 2", id="start: itself"
        ),
        pytest.param(committed("champion.dvc", "commit: ", "commit: 0"), "champion.dvc", "found 0", id="start: commit"),
        pytest.param(
            committed("champion.dvc", "md5: ", "md5: 5"),
            "champion.dvc",
            "artifacts/subject",
            id="start: subject's hash",
        ),
        pytest.param(start_lost, "champion.dvc", "found not pinned", id="start: buffer left out"),
        pytest.param(committed("champion.dvc", "meta:", "{"), "champion.dvc", "not YAML", id="start: cut off"),
        pytest.param(ancestor_untagged, "jpu-micro/1: git tag", "no such tag", id="start: tag gone"),
        pytest.param(ancestor_gone, "jpu-micro/1: git commit", "no such commit", id="start: commit gone"),
        pytest.param(ancestor_run, "jpu-micro/1: run of subject", "a deleted run", id="start: run deleted"),
        pytest.param(
            committed("dvc.yaml", "tasks.evaluate", "tasks.better"), "git commit", "what the stages run", id="dvc.yaml"
        ),
        pytest.param(path_gone_from_remote, "contents of path of round 2", "no such object", id="object gone"),
        pytest.param(figure, "figure after.asr_static", "found 0.01", id="figure"),
        pytest.param(failed_expectation, "validation", "failed", id="expectation failed"),
        pytest.param(other_results, "validation", "not those that the stage wrote", id="other results"),
        pytest.param(no_results, "validation", "found none", id="results removed"),
    ],
)
def test_the_first_broken_link_is_named(place: Place, tamper: Tamper, link: str, words: str) -> None:
    tamper(place)
    verdict = verify(place.client, "2")
    assert verdict.broken is not None
    assert verdict.broken.link.startswith(link), str(verdict.broken)
    said = str(verdict.broken)
    assert words in said and "\n" not in said
    assert verdict.broken.expected and verdict.broken.found and verdict.broken.where and verdict.broken.meaning
