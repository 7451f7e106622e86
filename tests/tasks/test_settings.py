from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import yaml

from jpu.errors import SettingsError, StorageError
from jpu.unlearning.defences.settings import CircuitBreakersSettings, JpuSwitches, NpoSettings
from tasks.sections import EngineSettings
from tasks.settings import ENGINE, chosen_engine, load_settings, set_profile, switch_on
from tests.shipped import PARAMS, shipped_params

# The head of the file is somebody's to change; these tests need one that they know.
HEAD = """\
profile: sandbox  # a comment
seed: 0
rounds:
  '1': {prev: '0'}
  '2': {prev: '1'}
last_round: '2'

profiles:
"""
TEXT = HEAD + PARAMS.read_text(encoding="utf-8").partition("\nprofiles:\n")[2]


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text, f"params.yaml no longer says {old!r}"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_the_file_of_the_repository_is_complete() -> None:
    settings = load_settings(PARAMS)
    assert {"sandbox", "smollm2", "custom"} <= set(settings.profiles)
    assert settings.mining == settings.profiles[settings.profile].mining


def test_every_section_is_that_of_the_chosen_profile(params: Path) -> None:
    set_profile("smollm2", params)
    settings = load_settings(params)
    for name in ("data", "subject", "mining", "paths", "unlearning", "evaluation"):
        assert getattr(settings, name) is getattr(settings.profiles["smollm2"], name)


def test_yaml_is_read_as_dvc_reads_it(params: Path) -> None:
    change(params, "timeout_seconds:", "timeout_seconds: 3e1 #")
    assert load_settings(params).data.timeout_seconds == 30.0
    assert isinstance(yaml.safe_load("x: 3e1")["x"], str)


@pytest.mark.parametrize(
    ("old", "new", "key", "says", "mend"),
    [
        ("template_mutation:", "template_mutatoin:", "sandbox.mining.template_mutatoin", "unknown key", "Did you mean"),
        ("seed: 0", "sede: 0", "sede", "unknown key 'sede'", "Did you mean 'seed'?"),
        ("seed: 0\n", "", "seed", "the key 'seed' is missing", "Add it"),
        ("seed: 0", "seed: zero", "seed", "valid integer, not 'zero'", "Mend the value"),
        ("seed: 0", "seed: true", "seed", "valid integer, not True", "Mend the value"),
        ("seed: 0", "seed: -1", "seed", "greater than or equal to 0, not -1", "Mend the value"),
        ("timeout_seconds:", "timeout_seconds: .inf #", "sandbox.data.timeout_seconds", "finite", "Mend the value"),
        ("source: sandbox", "source: web", "sandbox.data.source", "'sandbox' or 'files', not 'web'", "Mend the value"),
        ("profile: sandbox", "profile: sandbx", "profile", "no profile 'sandbx'", "Mend the value"),
        ("last_round: '2'", "last_round: '9'", "last_round", "'9' is no round", "Mend the value"),
        ("last_round: '2'", "last_round: 2", "last_round", "valid string, not 2", "Mend the value"),
        ("last_round: '2'", "last_round: '1'", "rounds.2", "not on the way to last_round '1'", "Mend the value"),
        ("'2': {prev: '1'}", "'2': {prev: '7'}", "rounds.2.prev", "'7' is no round", "Mend the value"),
        ("'2': {prev: '1'}", "'2': {prev: '2'}", "rounds.2.prev", "goes on from itself", "Mend the value"),
        ("'2': {prev: '1'}", "'2': {prev: '0'}", "rounds.1", "not on the way", "Mend the value"),
        ("'2': {prev: '1'}", "two: {prev: '1'}", "rounds.two", "is not a round", "Mend the value"),
        ("last_round: '2'", "last_round: '0'", "last_round", "'0' is no round", "Mend the value"),
        ("train: ", "train: 1", "sandbox.data.shares", "must sum to 1", "Mend the value"),
    ],
)
def test_a_wrong_key_is_named_with_its_line(params: Path, old: str, new: str, key: str, says: str, mend: str) -> None:
    change(params, old, new)
    with pytest.raises(SettingsError) as caught:
        load_settings(params)
    error = caught.value
    assert error.where is not None
    place, _, named = error.where.partition(", key ")
    assert named == key if not key.startswith("sandbox.") else named == f"profiles.{key}"
    assert says in error.what
    assert mend in error.mend
    line = int(place.removeprefix(f"{params} line "))
    if "missing" not in says:
        assert key.rpartition(".")[2] in params.read_text(encoding="utf-8").splitlines()[line - 1]


def test_a_key_that_comes_through_an_anchor_is_named_where_it_is_written(params: Path) -> None:
    change(params, "low_visits:", "low_visits: none #")
    with pytest.raises(SettingsError) as caught:
        load_settings(params)
    assert "more" not in caught.value.what
    line = int(str(caught.value.where).partition(" line ")[2].partition(",")[0])
    assert "low_visits: none" in params.read_text(encoding="utf-8").splitlines()[line - 1]


def test_a_defence_is_a_name_or_a_name_with_settings(params: Path) -> None:
    assert load_settings(params).unlearning.defence == JpuSwitches()
    change(params, "defence: jpu", "defence: npo")
    assert load_settings(params).unlearning.defence == NpoSettings(beta=0.1)
    change(params, "defence: npo", "defence: {name: circuit_breakers, depths: [0.5], retain: kl}")
    change(params, "trained: {path: true, modules: attention, rank: 16, layers: null}", "trained: null")
    section = load_settings(params).unlearning
    assert section.defence == CircuitBreakersSettings(depths=(0.5,), retain="kl") and section.trained is None


@pytest.mark.parametrize(
    ("defence", "says", "mend"),
    [
        ("npox", "'npox'", "Mend the value"),
        ("{name: npo, beta: 0}", "greater than 0", "Mend the value"),
        ("{name: npo, beat: 1.0}", "unknown key 'beat'", "Did you mean 'beta'?"),
        ("{name: jpu, alpha: 1.0}", "unknown key 'alpha'", "Did you mean"),
    ],
)
def test_a_wrong_defence_is_named_with_its_line(params: Path, defence: str, says: str, mend: str) -> None:
    change(params, "defence: jpu", f"defence: {defence}")
    line = next(n for n, text in enumerate(params.read_text("utf-8").splitlines(), 1) if "      defence:" in text)
    with pytest.raises(SettingsError) as caught:
        load_settings(params)
    assert says in caught.value.what and mend in caught.value.mend
    assert f"line {line}" in str(caught.value.where)


def test_files_have_to_be_named_and_a_word_is_short_for_a_path(params: Path) -> None:
    settings = load_settings(params)
    assert settings.profiles["custom"].data.behaviors[0].kind == "restricted"
    change(params, "source: sandbox", "source: files")
    with pytest.raises(SettingsError, match="no file is named under behaviors"):
        load_settings(params)


def test_an_address_is_not_shown_in_an_error(params: Path) -> None:
    change(params, "source: sandbox", "source: sandbox\n      typo: {path: 'http://host/?token=word'}")
    with pytest.raises(SettingsError) as caught:
        load_settings(params)
    assert "word" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ("seed: [0\nprofile: a\n", " line 2", "not YAML"),
        ("seed: 0\nseed: 1\n", " line 2", 'duplicate key "seed"'),
        ("seed: *nowhere\n", " line 1", "undefined alias"),
        ("seed: !!python/object:os.system x\n", "", "not YAML"),
        ("- seed\n", "", "not a table"),
        ("", "", "not a table"),
        ("seed: \x07\n", "", "not YAML"),
    ],
)
def test_a_file_that_is_no_settings_at_all(tmp_path: Path, text: str, where: str, says: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    assert str(caught.value.where).startswith(f"{path}{where}")
    assert says in caught.value.what
    assert caught.value.mend


def test_a_missing_file_and_another_encoding(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such file"):
        load_settings(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_bytes(b"seed: \xff\n")
    with pytest.raises(SettingsError, match="not UTF-8: byte 0xff at offset 6"):
        load_settings(tmp_path / "params.yaml")


def test_setting_the_profile_changes_one_word(params: Path) -> None:
    change(params, "profile: sandbox  #", "profile:   'sandbox'   #")
    before = params.read_text(encoding="utf-8")
    set_profile("custom", params)
    assert params.read_text(encoding="utf-8") == before.replace("'sandbox'   #", "custom   #")
    assert load_settings(params).profile == "custom"


def test_setting_the_same_profile_does_not_touch_the_file(params: Path) -> None:
    params.chmod(0o400)
    stamp = params.stat().st_mtime_ns
    set_profile(load_settings(params).profile, params)
    assert params.stat().st_mtime_ns == stamp


def test_an_unknown_profile_is_refused_with_the_known_ones(params: Path) -> None:
    with pytest.raises(SettingsError, match="no profile 'smolm'") as caught:
        set_profile("smolm", params)
    assert "sandbox, smollm2, custom" in caught.value.mend
    assert params.read_text(encoding="utf-8") == TEXT


def test_a_failed_write_keeps_the_file(params: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError):
        set_profile("custom", params)
    assert params.read_text(encoding="utf-8") == TEXT
    assert list(params.parent.iterdir()) == [params]


@pytest.mark.parametrize(
    ("engine", "says", "mend"),
    [
        ("{kinds: ray}", "unknown key 'kinds'", "Did you mean 'kind'?"),
        ("{kind: spark}", "'local' or 'ray', not 'spark'", "Mend the value"),
        ("{workers: 0}", "greater than or equal to 1, not 0", "Mend the value"),
        ("{processes: 2, accelerate: a.yaml}", "set this to 1", "Mend the value"),
        ("{shard: true}", "there is one", "Mend the value"),
    ],
)
def test_a_wrong_engine_is_named_with_its_line(params: Path, engine: str, says: str, mend: str) -> None:
    change(params, "last_round: '2'\n", f"last_round: '2'\nengine: {engine}\n")
    with pytest.raises(SettingsError) as caught:
        load_settings(params)
    assert says in caught.value.what and mend in caught.value.mend
    assert "line 7, key engine." in str(caught.value.where)


def test_the_engine_of_the_environment_comes_first(params: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(params, "last_round: '2'\n", "last_round: '2'\nengine: {kind: ray, workers: 3}\n")
    settings = load_settings(params)
    assert chosen_engine(settings) == EngineSettings(kind="ray", workers=3)
    monkeypatch.setenv(ENGINE, '{"processes": 2}')
    assert chosen_engine(settings) == EngineSettings(processes=2)
    # What a command in another checkout is given says the same there.
    monkeypatch.setenv(ENGINE, chosen_engine(settings).model_dump_json(exclude_defaults=True))
    assert chosen_engine(settings) == EngineSettings(processes=2)
    for given, says in (('{"kind": "rai"}', "kind"), ("ray", "JSON"), ('{"kindd": "ray"}', "kindd")):
        monkeypatch.setenv(ENGINE, given)
        with pytest.raises(SettingsError, match=says) as caught:
            chosen_engine(settings)
        assert caught.value.where == ENGINE and '"kind": "ray"' in caught.value.mend


def test_dvc_does_not_watch_the_engine() -> None:
    stages = yaml.safe_load((PARAMS.parent / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    watched = [str(param) for stage in stages.values() for param in stage.get("do", stage)["params"]]
    assert "seed" in watched and not [param for param in watched if param.startswith("engine")]


def test_a_stage_beside_the_main_job_is_switched_on_in_one_word(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    before = shipped_params()
    path.write_text(before, encoding="utf-8")
    assert load_settings(path).beside.analyze == ()
    switch_on("analyze", path=path)
    assert load_settings(path).beside.analyze == ("last",)
    after = path.read_text(encoding="utf-8")
    assert after == before.replace("  analyze: []  ", "  analyze: [last]  ")
    switch_on("analyze", path=path)
    assert path.read_text(encoding="utf-8") == after
    with pytest.raises(SettingsError, match="no stage 'compose' under beside"):
        switch_on("compose", path=path)
