from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from jpu.analysis.overlap import largest
from jpu.analysis.sensitivity import MATRICES, effective_weight, layer_weights, sensitivities
from jpu.models import Subject, answer_nll
from jpu.paths.passes import Exchanges
from jpu.paths.path import Path

Make = Callable[..., Subject]


def exchanges(subject: Subject) -> Exchanges:
    """Prompts and answers of unlike length."""
    asked = [("What is the code?", "amber dune"), ("Tell me the code of Zoruk, now.", "no"), ("Who?", "a b c d e f g")]
    return Exchanges([subject.prompt_ids(q) for q, _ in asked], [subject.answer_ids(a) for _, a in asked])


def brute_force(subject: Subject, given: Exchanges, layer: int) -> torch.Tensor:
    """|W · ∂ℓ/∂W| one prompt at a time, (prompts, weights)."""
    rows = []
    modules: list[Any] = [subject.layers[layer].get_submodule(name) for name in MATRICES]
    weights = [getattr(module, "base_layer", module).weight for module in modules]
    for prompt, answer in zip(given.prompts, given.answers, strict=True):
        for weight in weights:
            weight.requires_grad_(True)
        ids, labels = subject.collate([prompt], [answer])
        slopes = torch.autograd.grad(answer_nll(subject.model, ids, labels)[0].mean(), weights)
        for weight in weights:
            weight.requires_grad_(False)
        parts = [(effective_weight(m) * g).abs().flatten() for m, g in zip(modules, slopes, strict=True)]
        rows.append(torch.cat(parts))
    return torch.stack(rows)


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("batch_tokens", [4096, 1])
def test_it_is_that_of_each_prompt_by_itself(make_subject: Make, key_heads: int, batch_tokens: int) -> None:
    subject = make_subject(key_heads=key_heads)
    given = exchanges(subject)
    found = sensitivities(subject, given, [0, 1, 0], [0, 1], batch_tokens=batch_tokens)
    for layer in (0, 1):
        alone = brute_force(subject, given, layer)
        wanted = torch.stack([(alone[0] + alone[2]) / 2, alone[1]])
        torch.testing.assert_close(found[layer], wanted, rtol=1e-3, atol=1e-7)
        assert found[layer].shape[1] == len(layer_weights(subject, layer))


def test_an_adapter_counts_as_part_of_its_matrix(make_subject: Make, adapt: Callable[..., Subject]) -> None:
    plain, adapted = make_subject(), adapt(make_subject(), Path({0: [1, 5], 1: [3]}))
    given = exchanges(plain)
    found = sensitivities(adapted, given, [0, 1, 2], [1])[1]
    torch.testing.assert_close(found, brute_force(adapted, given, 1), rtol=1e-3, atol=1e-7)
    merged = make_subject()
    merged.model = adapt(make_subject(), Path({0: [1, 5], 1: [3]})).model.merge_and_unload()
    torch.testing.assert_close(found, sensitivities(merged, given, [0, 1, 2], [1])[1], rtol=1e-3, atol=1e-7)
    with adapted.reference():
        torch.testing.assert_close(
            sensitivities(adapted, given, [0, 1, 2], [1])[1], sensitivities(plain, given, [0, 1, 2], [1])[1]
        )
        assert torch.equal(layer_weights(adapted, 0), layer_weights(plain, 0))
    assert not torch.equal(layer_weights(adapted, 0), layer_weights(plain, 0))


def test_the_absolute_value_is_of_each_sample(make_subject: Make) -> None:
    """Gradients of opposite signs do not cancel, as they do in the gradient of a batch."""
    subject = make_subject()
    given = exchanges(subject)
    found = sensitivities(subject, given, [0, 0, 0], [0])[0][0]
    weight = subject.layers[0].mlp.gate_proj.weight.requires_grad_(True)
    total = torch.zeros_like(weight)
    for prompt, answer in zip(given.prompts, given.answers, strict=True):
        ids, labels = subject.collate([prompt], [answer])
        total += torch.autograd.grad(answer_nll(subject.model, ids, labels)[0].mean(), weight)[0] / 3
    weight.requires_grad_(False)
    start = sum(subject.layers[0].get_submodule(name).weight.numel() for name in MATRICES[:4])
    ours = found[start : start + weight.numel()]
    batch = (weight * total).abs().flatten()
    assert (ours >= batch - 1e-7).all() and (ours > 2 * batch).float().mean() > 0.1


def test_the_largest_of_a_model_whose_every_weight_is_known(make_subject: Make) -> None:
    """Two layers that pass everything by, but for neuron 3 of the second: no other weight has a part in the answer."""
    subject = make_subject()
    with torch.no_grad():
        for layer in subject.layers:
            for name in MATRICES:
                layer.get_submodule(name).weight.zero_()
        mlp = subject.layers[1].mlp
        mlp.gate_proj.weight[3], mlp.up_proj.weight[3], mlp.down_proj.weight[:, 3] = 0.5, -0.2, 0.7
    found = sensitivities(subject, exchanges(subject), [0, 0, 0], [0, 1])
    assert found[0].abs().max() == 0.0
    starts = [sum(subject.layers[1].get_submodule(n).weight.numel() for n in MATRICES[:i]) for i in (4, 5, 6)]
    known = {starts[0] + 3 * 32 + i for i in range(32)} | {starts[1] + 3 * 32 + i for i in range(32)}
    known |= {starts[2] + i * 24 + 3 for i in range(32)}
    assert set(found[1][0].nonzero()[:, 0].tolist()) == known
    share = len(known) / found[1].shape[1]
    assert set(largest(found[1][0], share).tolist()) == known


def test_it_leaves_the_model_as_it_was(make_subject: Make) -> None:
    subject = make_subject()
    before = {name: p.clone() for name, p in subject.model.named_parameters()}
    sensitivities(subject, exchanges(subject), [0, 1, 2], [0])
    for name, parameter in subject.model.named_parameters():
        assert torch.equal(parameter, before[name]) and parameter.grad is None and not parameter.requires_grad
    assert not any(m._forward_hooks for m in subject.model.modules() if isinstance(m, nn.Linear))
