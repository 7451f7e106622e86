from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jpu.adversary.directions import ablated
from jpu.models import Subject, answer_nll
from jpu.models.recompute import recomputed
from jpu.paths.activations import capture
from jpu.paths.path import Path
from jpu.unlearning.adapter import attach
from jpu.unlearning.retain import ReferenceDistribution, RetainPair
from jpu.unlearning.trained import Trained

Make = Callable[..., Subject]
IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]])
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")  # PEFT's use of transformers


def adapted(make_subject: Make) -> Subject:
    subject = make_subject(layers=3)
    subject.model = attach(subject.model, Path({0: [1, 2], 2: [3]}), Trained(rank=2))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in subject.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) / 4)
    return subject


def gradients(subject: Subject, loss: Tensor) -> dict[str, Tensor]:
    trained = {n: p for n, p in subject.model.named_parameters() if p.requires_grad}
    return dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(first[n], second[n]) for n in first) and first.keys() == second.keys()


def watched(subject: Subject) -> Tensor:
    """A loss on the output and on neurons that were captured; the hooks are gone when it is differentiated."""
    positions = torch.tensor([[1, 2], [3, 4]])
    with capture(subject.model, positions=positions) as found:
        logits = subject.model(input_ids=IDS, use_cache=False).logits
    loss: Tensor = logits.log_softmax(-1)[:, :, 3].sum() + sum(found[layer].square().sum() for layer in found)
    return loss


def without_a_direction(subject: Subject) -> Tensor:
    vector = torch.zeros(32)
    vector[4] = 1.0
    with ablated(subject, vector):
        loss: Tensor = subject.model(input_ids=IDS, use_cache=False).logits.square().mean()
    return loss


@pytest.mark.parametrize("loss", [watched, without_a_direction])
def test_gradients_are_those_of_the_plain_model(make_subject: Make, loss: Callable[[Subject], Tensor]) -> None:
    subject = adapted(make_subject)
    plain = gradients(subject, loss(subject))
    assert all(bool(part.abs().sum() > 0) for part in plain.values())
    with recomputed(subject.model):
        again = gradients(subject, loss(subject))
    assert same(plain, again)


def test_each_layer_runs_twice_and_keeps_its_input_alone(make_subject: Make) -> None:
    subject = adapted(make_subject)
    ran: list[int] = []
    for number, layer in enumerate(subject.layers):
        layer.mlp.register_forward_pre_hook(lambda _, __, number=number: ran.append(number))
    kept: dict[str, set[int]] = {}

    def loss(name: str) -> Tensor:
        found = kept.setdefault(name, set())

        def pack(tensor: Tensor) -> Tensor:
            if tensor.dim() == 3 and tensor.shape[-1] == 24:
                found.add(tensor.data_ptr())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            return without_a_direction(subject)

    loss("plain").backward()  # type: ignore[no-untyped-call]
    assert ran == [0, 1, 2]
    with recomputed(subject.model):
        value = loss("recomputed")
        # Nothing of the neurons' width is kept between the forward and the backward pass.
        assert kept["plain"] and not kept["recomputed"]
        value.backward()  # type: ignore[no-untyped-call]
    assert ran == [0, 1, 2] * 2 + [2, 1, 0]


def test_everything_is_as_before_afterwards(make_subject: Make) -> None:
    subject = adapted(make_subject)

    def state() -> list[Any]:
        return [
            (name, module.forward, dict(module._forward_pre_hooks), dict(module._forward_hooks))
            for name, module in subject.model.named_modules()
        ]

    before = state()
    with recomputed(subject.model):
        watched(subject).backward()  # type: ignore[no-untyped-call]
        assert state() != before
    assert state() == before


def test_a_pass_that_fills_a_cache_runs_once(make_subject: Make) -> None:
    subject = adapted(make_subject)
    with recomputed(subject.model):
        out = subject.model(input_ids=IDS, use_cache=True)
        out.logits.sum().backward()
        assert out.past_key_values.get_seq_length() == 5
        with torch.no_grad():
            more = subject.model(input_ids=IDS[:, :1], past_key_values=out.past_key_values, use_cache=True)
    with torch.no_grad():
        whole = subject.model(input_ids=torch.cat([IDS, IDS[:, :1]], 1), use_cache=False).logits[:, -1]
    torch.testing.assert_close(more.logits[:, -1], whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 3, 100])
def test_losses_over_parts_of_the_answers_have_the_same_gradients(
    make_subject: Make, monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    subject = adapted(make_subject)
    prompts, answers = ["Hi", "Go on, please"], ["No, that must stay secret.", "A"]
    batch = subject.collate([subject.prompt_ids(p) for p in prompts], [subject.answer_ids(a) for a in answers])
    pairs = [RetainPair(p, a, "benign", False, "e") for p, a in zip(prompts, answers, strict=True)]
    reference = ReferenceDistribution(subject, pairs, top=7)

    def loss() -> Tensor:
        return answer_nll(subject.model, *batch)[0].mean() + reference.kl(subject, [0, 1])

    whole, expected = loss(), gradients(subject, loss())
    seen: list[int] = []
    hook = subject.base.lm_head.register_forward_hook(lambda _, __, out: seen.append(len(out)))
    monkeypatch.setattr("jpu.models.scoring._LOGITS", tokens * len(subject.tokenizer))
    again = ReferenceDistribution(subject, pairs, top=7)
    for (values, indices), (others, places) in zip(reference.kept, again.kept, strict=True):
        assert torch.equal(indices, places)
        torch.testing.assert_close(values, others)
    torch.testing.assert_close(loss(), whole)
    found = gradients(subject, loss())
    hook.remove()
    assert max(seen) <= tokens
    for name, part in expected.items():
        torch.testing.assert_close(found[name], part, rtol=1e-4, atol=1e-6)


def test_a_failure_in_the_middle_leaves_the_layers_as_they_were(make_subject: Make) -> None:
    subject = make_subject()

    class Stop(Exception):
        pass

    with pytest.raises(Stop), recomputed(subject.model):
        raise Stop
    assert not any("forward" in vars(module) for module in subject.model.modules() if isinstance(module, nn.Module))
