"""What names a measurement, and where its attempts are kept; on a small model that was saved as a folder."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jpu.attacks import Budget
from jpu.data.schemas import Refusal
from jpu.evaluation.evaluate import Evaluation, Protocol
from jpu.models import Subject, Target
from jpu.models.endpoint import Endpoint
from jpu.paths.path import Path as NeuronPath
from jpu.sandbox.templates import all_templates
from jpu.sandbox.world import build_behaviors, build_places, build_refusals
from jpu.unlearning.adapter import attach
from jpu.unlearning.trained import Trained
from tasks.layout import Prepared
from tasks.protocol import ATTEMPTS, attempts_folder, budgets_of, describe, finish, identify, kept_attempts
from tests.small_subject import save_small_subject

KEPT = 24
ADDRESS = "http://127.0.0.1:9/v1"
PROTOCOL = Protocol(suite={"direct": Budget(2), "genetic": Budget(9, 4)}, longest=900, seed=3)
BEHAVIORS = build_behaviors(build_places(7, {"train": 1, "validation": 1, "test": 2}), 7)
TEMPLATES, REFUSALS = all_templates(), build_refusals()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_subject(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def here(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a model in it and an adapter."""
    shutil.copytree(saved, tmp_path / "model")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_model.safetensors").write_bytes(b"factors")
    (tmp_path / "adapter/adapter_config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def subject(here: Path) -> Subject:
    return Subject.load("model", device="cpu")


def described(
    target: Target, model: Path | str = "model", adapter: Path | None = None, **changes: Any
) -> dict[str, Any]:
    """The protocol of a measurement; keywords replace the data or the settings."""
    given = {"behaviors": BEHAVIORS, "templates": TEMPLATES, "refusals": REFUSALS, "protocol": PROTOCOL} | changes
    data = Prepared(given["behaviors"], given["templates"], given["refusals"])
    return describe(target, model, adapter, Evaluation(**given), data)


def digest(target: Target, model: str = "model", adapter: Path | None = None, **changes: Any) -> str:
    return kept_attempts(described(target, model, adapter, **changes)).name


def flip(path: Path) -> None:
    """Change the last byte of a file."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def spoken(subject: Subject, template: str) -> Subject:
    """The same weights with another chat template."""
    tokenizer = type(subject.tokenizer).from_pretrained("model")
    tokenizer.chat_template = template
    return Subject(subject.model, tokenizer)


# The digest


def test_every_ingredient_is_in_the_digest(subject: Subject) -> None:
    adapter = Path("adapter")
    template: str = subject.tokenizer.chat_template
    open_fact = next(b for b in BEHAVIORS if b.split == "test" and b.kind == "benign")
    found = {"plain": digest(subject), "adapter": digest(subject, adapter=adapter)}

    def one_other(records: list[Any], **fields: Any) -> list[Any]:
        at = next(i for i, r in enumerate(records) if getattr(r, "split", "test") == "test")
        return [*records[:at], records[at].model_copy(update=fields), *records[at + 1 :]]

    found |= {
        "behavior": digest(subject, behaviors=one_other(BEHAVIORS, answer="Another answer.")),
        "a behavior less": digest(subject, behaviors=[b for b in BEHAVIORS if b is not open_fact]),
        "template": digest(subject, templates=one_other(TEMPLATES, text="Another {query} wording.")),
        "refusal": digest(subject, refusals=one_other(REFUSALS, text="Another no.")),
        "more refusals": digest(subject, refusals=[*REFUSALS, Refusal(id="more", text="Never.")]),
        "chat template": digest(spoken(subject, template + "{# said otherwise #}")),
        "seed": digest(subject, protocol=replace(PROTOCOL, seed=4)),
        "max new tokens": digest(subject, protocol=replace(PROTOCOL, max_new_tokens=25)),
        "longest": digest(subject, protocol=replace(PROTOCOL, longest=None)),
        "split": digest(subject, protocol=replace(PROTOCOL, split="validation")),
    }
    flip(adapter / "adapter_model.safetensors")
    found["adapter, a byte"] = digest(subject, adapter=adapter)
    (adapter / "deeper").mkdir()
    (adapter / "deeper/more.bin").write_bytes(b"")
    found["adapter, a file"] = digest(subject, adapter=adapter)
    flip(Path("model/model.safetensors"))
    found["weights"] = digest(subject)
    assert len(set(found.values())) == len(found), found
    assert all(re.fullmatch("[0-9a-f]{16}", name) for name in found.values())


def test_what_does_not_move_an_attempt_is_not_in_the_digest(subject: Subject) -> None:
    plain = digest(subject)
    for protocol in (
        replace(PROTOCOL, suite={"gcg": Budget(7)}),
        replace(PROTOCOL, suite={"direct": Budget(3), "genetic": Budget(9, 5)}),
        replace(PROTOCOL, resamples=7, confidence=0.5, probe_wordings=7, retain_pairs=7),
    ):
        assert digest(subject, protocol=protocol) == plain
    # What is not of the split is not asked about.
    assert digest(subject, behaviors=[b for b in BEHAVIORS if b.split == "test"]) == plain
    assert digest(subject, templates=[t for t in TEMPLATES if t.split == "test"]) == plain
    again = Subject.load("model", device="cpu")
    assert digest(again) == plain


def test_an_adapter_that_is_disabled_leaves_the_original(subject: Subject) -> None:
    """What `jpu harden` asks the model before is what `jpu attack artifacts/subject` asks it."""
    plain = described(subject, "model", None)
    in_memory = identify(subject, "memory")
    count = sum(p.numel() for p in subject.base.parameters())
    subject.model = attach(subject.model, NeuronPath({0: [1, 5]}), trained=Trained(rank=2))
    assert described(subject, "model", None) == plain
    assert plain["model"]["parameters"] == count
    assert identify(subject, "memory") == in_memory


def test_equal_weights_in_memory_have_one_hash(subject: Subject) -> None:
    def weights(one: Subject) -> str:
        found: str = identify(one, "some/hub-name")["weights"]
        return found

    other = Subject.load("model", device="cpu")
    first = weights(subject)
    assert re.fullmatch("[0-9a-f]{64}", first) and weights(other) == first
    with torch.no_grad():
        next(other.model.parameters()).view(-1)[0] += 1.0
    assert weights(other) != first
    assert weights(Subject.load("model", device="cpu", dtype="bfloat16")) != first
    # Files are hashed where there are files, so that a hash can be held against them.
    assert identify(subject, "model")["weights"] not in ("", first)


def test_what_is_described_can_be_read_back(subject: Subject) -> None:
    told = described(subject, "model", Path("adapter"))
    assert json.loads(json.dumps(told)) == told
    assert budgets_of(told) == PROTOCOL.suite
    assert {name: value for name, value in told["model"].items() if name in identify(subject, "model")} == identify(
        subject, "model", Path("adapter")
    )
    counts = {name: told["data"][name]["count"] for name in ("behaviors", "templates", "refusals")}
    assert counts == {
        "behaviors": sum(b.split == "test" for b in BEHAVIORS),
        "templates": sum(t.split == "test" for t in TEMPLATES),
        "refusals": len(REFUSALS),
    }


def test_models_at_one_address_are_told_apart(here: Path) -> None:
    first, second = (described(Endpoint(ADDRESS, name), ADDRESS, None) for name in ("one", "two"))
    assert first["model"]["weights"] == "" and first["model"]["access"] == "chat"
    assert kept_attempts(first) != kept_attempts(second)


def test_nothing_of_the_machine_or_the_data_is_in_it(
    here: Path, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-to-be-seen")
    texts = [t for b in BEHAVIORS if b.kind == "restricted" for t in (b.query, b.answer, b.secret, b.entity)]
    texts += [t.text for t in TEMPLATES] + [r.text for r in REFUSALS]
    hidden = [str(here), str(Path(__file__).parents[2]), "sk-not-to-be-seen", *texts]

    def strings(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [s for k, v in value.items() for s in (k, *strings(v))]
        return [value] if isinstance(value, str) else []

    for told in (
        described(subject, "model", Path("adapter")),
        described(Endpoint(ADDRESS, "one"), ADDRESS, None),
        # Whoever names a model by its full path does not want that path on a card.
        described(subject, here / "model", here / "adapter"),
        identify(subject, str(here / "model")),
    ):
        found = strings(told)
        assert [s for s in found if s.startswith(("/", "~")) or any(h in s for h in hidden)] == []


# The folder


def test_the_folder_is_for_its_owner_alone(here: Path, subject: Subject) -> None:
    ATTEMPTS.mkdir(parents=True)
    ATTEMPTS.chmod(0o755)
    told = described(subject, "model", None)
    assert not kept_attempts(told).exists()
    folder = attempts_folder(told)
    assert folder == kept_attempts(told) and folder.is_dir() and folder.parent == ATTEMPTS
    assert ATTEMPTS.stat().st_mode & 0o777 == 0o700
    assert attempts_folder(json.loads(json.dumps(told))) == folder


@pytest.fixture
def aged(here: Path) -> Callable[[int], Path]:
    """Makes the folder of a protocol as if it were the n-th ever used."""

    def make(number: int) -> Path:
        folder = attempts_folder({"number": number})
        (folder / "piece.json").write_text("{}")
        os.utime(folder, (1000.0 + number, 1000.0 + number))
        return folder

    return make


def test_the_oldest_folders_go(aged: Callable[[int], Path]) -> None:
    made = [aged(number) for number in range(KEPT)]
    assert all(folder.exists() for folder in made)
    # One that is used is young again.
    assert attempts_folder({"number": 0}) == made[0] and (made[0] / "piece.json").exists()
    newest = [attempts_folder({"number": number}) for number in (100, 101)]
    left = {p.name for p in ATTEMPTS.iterdir()}
    assert left == {folder.name for folder in (made[0], *made[3:], *newest)} and len(left) == KEPT


def test_only_what_was_finished_is_begun_anew(here: Path) -> None:
    protocol = {"seed": 1}
    folder = attempts_folder(protocol, anew=True)
    (folder / "static-6xall").mkdir()
    piece = folder / "static-6xall/0000.json"
    piece.write_text("{}")
    # Stopped, it goes on.
    assert attempts_folder(protocol, anew=True) == folder and piece.exists()
    finish(folder)
    # Looked at by whoever does not measure anew, it stays.
    assert attempts_folder(protocol) == folder and piece.exists()
    other = attempts_folder({"seed": 2}, anew=True)
    assert piece.exists() and other != folder
    assert attempts_folder(protocol, anew=True) == folder
    assert list(folder.iterdir()) == []
    # And is not finished any more.
    piece.parent.mkdir()
    piece.write_text("{}")
    attempts_folder(protocol, anew=True)
    assert piece.exists()
