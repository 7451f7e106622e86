"""What a version was made of, from its tags, its lock file and its runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from jpu.errors import DataError
from tasks.version_tree import lineage
from tests.hardened import Place, copied


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return copied(tmp_path / "base", monkeypatch, champion="2")


def test_the_tree_behind_a_champion(place: Place) -> None:
    found, version = lineage(place.client, "champion"), place.version("2")
    assert found["version"] == "jpu-micro/2" and found["aliases"] == ["challenger", "champion"]
    assert found["replaces"] == "1"
    assert found["adapter"] == {"path": "artifacts/rounds/2/adapter", "md5": version.tags["jpu.adapter"]}
    assert [(one["round"], one["kept_from"]) for one in found["rounds"]] == [("2", 0), ("1", 1)]
    for one in found["rounds"]:
        for name, stage in one["stages"].items():
            run = place.client.get_run(stage["run"]["run_id"])
            assert run.data.tags["jpu.stage"] == f"{name}-{one['round']}" and stage["run"]["status"] == "FINISHED"
            assert stage["run"]["page"] == f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
            assert all(run.data.tags[f"jpu.out/{path}"] == md5 for path, md5 in stage["outs"].items())
    assert found["rounds"][0]["prepared"] == found["data"]["prepared"]["md5"] != found["rounds"][1]["prepared"]
    assert found["data"]["md5"] == version.tags["jpu.data"]
    assert found["data"]["validation"]["expectations"] > 20 and found["data"]["validation"]["failed"] == []
    assert found["subject"]["md5"] == version.tags["jpu.subject"] and found["subject"]["kept_from"] == 1
    assert found["git"]["commit"] == version.lock_commit and found["git"]["tag"] == "jpu/micro/v2"
    assert found["git"]["code"] == place.version("1").lock_commit


def test_what_is_gone_is_said(place: Place) -> None:
    place.client.delete_run(place.version("2").maker("mine@2"))
    place.client.set_model_version_tag("jpu-micro", "2", "jpu.run.prepare", "0" * 32)
    place.client.set_model_version_tag("jpu-micro", "1", "jpu.run.subject", "unknown")
    found = lineage(place.client, "2")
    assert found["rounds"][0]["stages"]["mine"]["run"]["status"] == "deleted"
    assert found["data"]["run"]["status"] == "missing" and found["data"]["validation"]["expectations"] == 0
    assert found["subject"]["run"]["status"] == "unknown"


def test_a_version_that_is_not_recorded_is_read_from_the_working_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = copied(tmp_path / "base", monkeypatch)
    monkeypatch.chdir(place.checkout)
    found = lineage(place.client, "challenger")
    assert found["git"] == {"commit": "", "tag": "", "code": place.version("1").lock_commit}
    assert found["rounds"][1]["kept_from"] == 1
    (place.checkout / "dvc.lock").unlink()
    with pytest.raises(DataError, match=r"no commit holds its dvc\.lock"):
        lineage(place.client, "challenger")
