from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from jpu.errors import ModelError
from jpu.paths.activations import ablate, capture, decoder_layers, replace, unit_size

Tiny = Callable[..., LlamaForCausalLM]
IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])


def logits(model: LlamaForCausalLM) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
        return found


def test_capture_sees_what_down_proj_is_given(tiny: Tiny) -> None:
    model = tiny()
    with capture(model) as found:
        logits(model)
    mlp = model.model.layers[1].mlp
    seen: list[torch.Tensor] = []
    handle = mlp.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    logits(model)
    handle.remove()
    expected = mlp.act_fn(mlp.gate_proj(seen[0])) * mlp.up_proj(seen[0])
    torch.testing.assert_close(found[1], expected)
    assert sorted(found) == [0, 1, 2]


def test_capture_takes_each_rows_positions_and_leaves_no_hook(tiny: Tiny) -> None:
    model = tiny()
    with capture(model) as everything:
        logits(model)
    with capture(model, positions=torch.tensor([[3, 0], [1, 2]])) as some:
        logits(model)
    torch.testing.assert_close(some[2][0], everything[2][0, [3, 0]])
    torch.testing.assert_close(some[2][1], everything[2][1, [1, 2]])
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_captured_values_carry_gradients_to_the_weights(tiny: Tiny) -> None:
    model = tiny()
    with capture(model) as found:
        model(input_ids=IDS, use_cache=False)
    torch.autograd.backward(found[0].sum())
    assert model.model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0


def test_ablating_neurons_is_zeroing_their_down_columns(tiny: Tiny) -> None:
    model = tiny()
    with ablate(model, {1: [0, 7]}):
        ablated = logits(model)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[:, [0, 7]] = 0
    torch.testing.assert_close(ablated, logits(model))


def test_ablating_a_head_is_zeroing_its_output_columns(tiny: Tiny) -> None:
    model = tiny(key_heads=2)
    assert unit_size(model, "heads") == 8
    with ablate(model, {0: [2]}, "heads"):
        ablated = logits(model)
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight[:, 16:24] = 0
    torch.testing.assert_close(ablated, logits(model))


def test_an_ablation_of_nothing_and_replace_by_itself_change_nothing(tiny: Tiny) -> None:
    model = tiny()
    plain = logits(model)
    with ablate(model, {0: []}):
        assert torch.equal(logits(model), plain)
    with capture(model) as found:
        logits(model)
    index = torch.tensor([[3, 5], [0, 19]])
    own = found[1].gather(-1, index[:, None, :].expand(-1, 4, -1))
    with replace(model, {1: (index, own)}):
        assert torch.equal(logits(model), plain)
    with replace(model, {1: (index, own + 1)}):
        assert not torch.allclose(logits(model), plain)


def test_another_architecture_is_refused() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=10))
    with pytest.raises(ModelError, match="no decoder layers"):
        decoder_layers(model)
