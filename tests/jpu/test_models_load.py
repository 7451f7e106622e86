"""Models on disk: what is written comes back, and what is broken is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from jpu.errors import ModelError
from jpu.models import Subject
from jpu.sandbox.teach import CHAT_TEMPLATE
from jpu.unlearning.adapter import save_adapter

Make = Callable[..., Subject]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<s>[INST] ' + m['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'].strip() + ' </s>' }}{% endif %}{% endfor %}"
)
PLAIN = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"


# The end of a turn


def chat_tokenizer(template: str, *special: str, eos: str | None) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        special_tokens=list(special), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["user assistant Hello there"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos)
    fast.chat_template = template
    return fast


@pytest.mark.parametrize(
    ("template", "special", "eos", "text", "stops"),
    [
        (CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>", "<|im_end|>", ["<|im_end|>"]),
        # A model may also end the whole text.
        (CHATML, ("<|im_start|>", "<|im_end|>", "<eos>"), "<eos>", "<|im_end|>", ["<|im_end|>", "<eos>"]),
        # The space before the end is part of the turn and must not end a completion.
        (LLAMA_2, ("<s>", "</s>"), "</s>", " </s>", ["</s>"]),
        (CHAT_TEMPLATE, ("<|user|>", "<|assistant|>", "<|end|>"), "<|end|>", "<|end|>", ["<|end|>"]),
        # Nothing but a line end: the eos token is the end.
        (PLAIN, ("</s>",), "</s>", "</s>", ["</s>"]),
    ],
)
def test_the_end_of_the_turn_is_read_off_the_chat_template(
    make_subject: Make, template: str, special: tuple[str, ...], eos: str, text: str, stops: list[str]
) -> None:
    tokenizer = chat_tokenizer(template, *special, eos=eos)
    subject = Subject(make_subject().model, tokenizer)
    assert subject.answer_ids("") == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert sorted(subject._stop_ids) == sorted(tokenizer.convert_tokens_to_ids(stops))


@pytest.mark.parametrize(
    ("template", "special", "joint"),
    [(CHATML, "<|im_end|>", "\n"), (LLAMA_2, "</s>", ""), (CHAT_TEMPLATE, "<|end|>", "")],
)
def test_prompt_and_answer_make_the_chat_that_the_template_makes(
    make_subject: Make, template: str, special: str, joint: str
) -> None:
    tokenizer = chat_tokenizer(template, special, eos=special)
    subject = Subject(make_subject().model, tokenizer)
    ids = subject.prompt_ids("Hello?") + subject.answer_ids("There")
    chat = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "There"}]
    whole: str = tokenizer.apply_chat_template(chat, tokenize=False)
    # Llama 2 has a space before the answer, which its models say themselves.
    assert tokenizer.decode(ids) + joint == whole.replace("] There", "]There")


@pytest.mark.parametrize(
    ("template", "eos", "what"),
    [
        ("{% for %}", "</s>", "cannot be used"),
        ("{{ raise_exception('no') }}", "</s>", "cannot be used"),
        ("always the same", "</s>", "leaves the user's words out"),
        (PLAIN, None, "nothing ends the assistant's turn"),
        (None, "</s>", "no chat template"),
    ],
)
def test_a_chat_template_that_is_no_use(make_subject: Make, template: str, eos: str | None, what: str) -> None:
    tokenizer = chat_tokenizer(template, "</s>", eos=eos)
    with pytest.raises(ModelError, match=what) as caught:
        Subject(make_subject().model, tokenizer, "models/mine")
    assert caught.value.where == "models/mine" and "chat_template.jinja" in caught.value.mend


# To the disk and back


@pytest.fixture
def folder(make_subject: Make, tmp_path: Path) -> Path:
    make_subject().save(tmp_path / "subject")
    return tmp_path / "subject"


def test_a_saved_subject_comes_back_as_it_was(make_subject: Make, folder: Path, tmp_path: Path) -> None:
    before, after = make_subject(), Subject.load(folder, device="cpu", dtype="float32")
    # Losses to the last bit but one: weights that lie elsewhere in memory may be summed in another order.
    assert after.prompt_ids("Hello?", "The") == before.prompt_ids("Hello?", "The")
    assert after.answer_ids("Yes.") == before.answer_ids("Yes.")
    assert torch.allclose(after.nll(["a", "b c"], ["d", "e"]), before.nll(["a", "b c"], ["d", "e"]), rtol=1e-6)
    assert not after.model.training and not any(p.requires_grad for p in after.model.parameters())
    after.save(tmp_path / "again")
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    assert not list(folder.glob("*.bin")) and not list(folder.glob("*.pkl"))


def test_the_dtype_is_the_one_that_is_asked_for(folder: Path) -> None:
    assert Subject.load(folder, device="cpu", dtype="bfloat16").model.dtype is torch.bfloat16
    assert Subject.load(folder, device="cpu").model.dtype is torch.float32


def test_an_adapter_comes_with_its_model(make_subject: Make, adapt: Make, folder: Path, tmp_path: Path) -> None:
    subject = adapt(make_subject())
    save_adapter(subject.model, tmp_path / "adapter")
    loaded = Subject.load(folder, tmp_path / "adapter", device="cpu")
    assert torch.allclose(loaded.nll(["a"], ["b"]), subject.nll(["a"], ["b"]), rtol=1e-6)
    assert not any(p.requires_grad for p in loaded.model.parameters())
    with loaded.reference():
        assert torch.allclose(loaded.nll(["a"], ["b"]), make_subject().nll(["a"], ["b"]), rtol=1e-6)
    assert not any(p.requires_grad for p in loaded.model.parameters())


def test_the_adapter_of_round_0_is_none(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "adapter"
    empty.mkdir()
    (empty / "round.json").write_text('{"rank": 0, "converged": false}')
    subject = Subject.load(folder, empty, device="cpu")
    assert subject.model is subject.base


@pytest.mark.parametrize("text", [None, '{"rank": 3}', "[]", "{"])
def test_a_folder_that_is_no_adapter(folder: Path, tmp_path: Path, text: str | None) -> None:
    wrong = tmp_path / "adapter"
    wrong.mkdir()
    if text is not None:
        (wrong / "round.json").write_text(text)
    with pytest.raises(ModelError) as caught:
        Subject.load(folder, wrong, device="cpu")
    assert str(wrong) in (caught.value.where or "") and caught.value.mend


# What is broken


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def reweigh(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "a broken config": (lambda f: (f / "config.json").write_text("{"), "cannot be loaded"),
    "an unknown architecture": (
        lambda f: (f / "config.json").write_text(json.dumps({"model_type": "nope"})),
        "cannot be loaded",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "cannot be loaded"),
    "truncated weights": (lambda f: cut(f / "model.safetensors", 5000), "cannot be loaded"),
    "no header": (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 999), "cannot be loaded"),
    "a tensor is missing": (
        lambda f: reweigh(f, lambda w: w.pop("model.layers.1.mlp.up_proj.weight")),
        "weights are missing: model.layers.1.mlp.up_proj.weight",
    ),
    "a tensor of another shape": (
        lambda f: reweigh(f, lambda w: w.update({"model.norm.weight": torch.ones(7)})),
        "cannot be loaded",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "cannot be loaded"),
    "a truncated tokenizer": (lambda f: cut(f / "tokenizer.json", 700), "cannot be loaded"),
    "no chat template": (lambda f: (f / "chat_template.jinja").unlink(), "no chat template"),
    "a broken chat template": (lambda f: (f / "chat_template.jinja").write_text("{% for %}"), "cannot be used"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_named_with_its_mend(folder: Path, case: str) -> None:
    damage, what = BROKEN[case]
    damage(folder)
    with pytest.raises(ModelError, match=what) as caught:
        Subject.load(folder, device="cpu")
    assert caught.value.where == str(folder) and caught.value.mend.endswith(".")
    assert "\n" not in caught.value.what


@pytest.mark.parametrize("name", ["artifacts/subject", "./models/mine", "/nowhere/at/all", "no-such-model"])
def test_a_folder_that_is_not_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="no such model folder") as caught:
        Subject.load(name)
    assert caught.value.where == name
