"""What is trained: a LoRA on some matrices of some layers, or the matrices themselves."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from jpu.errors import ModelError
from jpu.models import original
from jpu.paths.path import Path
from jpu.unlearning.adapter import adapter_path, attach, load_adapter, save_adapter, trainable_parameters
from jpu.unlearning.adapter_folder import read_factors
from jpu.unlearning.trained import ATTENTION, MLP, Modules, Trained, at_depth

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")  # PEFT's use of transformers

IDS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
DENSE = Trained(path=False, modules="linear", rank="dense")


def tiny() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        tie_word_embeddings=True,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
        return found


def train(model: Any, parameters: Any, steps: int = 3) -> None:
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        optimizer.step()


def of_linear(name: str) -> bool:
    return any(f".{matrix}.weight" in name for matrix in (*ATTENTION, *MLP))


def test_the_dense_form_is_fine_tuning_of_the_matrices(tmp_path: pathlib.Path) -> None:
    """The same updates as a full fine-tuning of all linear weights, saved and loaded as any adapter, merged exactly."""
    plain = tiny()
    matrices = [p.requires_grad_(of_linear(name)) for name, p in plain.named_parameters()]
    train(plain, [p for p in matrices if p.requires_grad])
    before = logits(tiny())

    adapted = attach(tiny(), Path(), DENSE)
    assert torch.equal(logits(adapted), before)
    sizes = [p.numel() for name, p in tiny().named_parameters() if of_linear(name)]
    assert sum(p.numel() for p in trainable_parameters(adapted).values()) == sum(sizes)
    train(adapted, trainable_parameters(adapted).values())
    torch.testing.assert_close(logits(adapted), logits(plain), atol=1e-4, rtol=1e-4)
    with original(adapted):
        assert torch.equal(logits(adapted), before)

    save_adapter(adapted, tmp_path / "adapter")
    torch.testing.assert_close(logits(load_adapter(tiny(), tmp_path / "adapter")), logits(plain), atol=1e-4, rtol=1e-4)
    merged = adapted.merge_and_unload()
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(merged.get_parameter(name), weight, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("modules", "named"),
    [("attention", ATTENTION), ("mlp", MLP), ("linear", (*ATTENTION, *MLP)), ("mlp.down_proj", ("mlp.down_proj",))],
)
def test_a_lora_is_on_what_is_named_and_on_nothing_else(modules: Modules, named: tuple[str, ...]) -> None:
    for rank in (3, "dense"):
        trained = Trained(path=False, modules=modules, rank=rank, layers=[1])  # type: ignore[arg-type]
        model = attach(tiny(), Path({0: [1]}), trained)
        found = {name.split(".layers.")[1].split(".lora")[0] for name in trainable_parameters(model)}
        assert found == {f"1.{name}" for name in named}
        halves = 2 if rank == 3 else 1
        assert len(trainable_parameters(model)) == halves * len(named)


def test_a_rank_of_0_names_nothing() -> None:
    assert Trained(modules="linear").named == ()
    model = attach(tiny(), Path({0: [1]}), Trained(modules="linear"))
    assert len(trainable_parameters(model)) == 3


def test_neurons_and_a_lora_on_their_matrices_are_refused() -> None:
    with pytest.raises(ModelError, match="both path neurons and a LoRA on the MLP") as caught:
        attach(tiny(), Path({0: [1]}), Trained(modules="linear", rank=2))
    assert caught.value.mend
    attach(tiny(), Path({0: [1]}), Trained(path=False, modules="linear", rank=2))


def test_rounds_of_a_lora_on_everything_join(tmp_path: pathlib.Path) -> None:
    trained = Trained(path=False, modules="linear", rank=2)
    first = attach(tiny(), Path(), trained)
    train(first, trainable_parameters(first).values())
    save_adapter(first, tmp_path / "adapter")
    second = attach(tiny(), Path(), trained, previous=tmp_path / "adapter")
    torch.testing.assert_close(logits(second), logits(first))
    # What a plain LoRA trains is no path.
    assert adapter_path(read_factors(tmp_path / "adapter")) == Path()


def test_a_layer_is_as_deep_in_any_model() -> None:
    assert [at_depth(7 / 32, layers) for layers in (32, 6, 2, 1)] == [7, 1, 0, 0]
    assert [at_depth(30 / 32, layers) for layers in (32, 6, 2)] == [30, 5, 1]
