from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from jpu.errors import SettingsError
from jpu.paths.activations import Kind
from jpu.paths.igi import ranks
from jpu.paths.passes import AnswerPasses, Exchanges
from jpu.paths.selectors import SELECTORS, Search, select

Tiny = Callable[..., LlamaForCausalLM]


@pytest.mark.parametrize("kind", ["neurons", "heads"])
@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector_keeps_the_contract(tiny: Tiny, exchanges: Exchanges, name: str, kind: Kind) -> None:
    model = tiny(key_heads=2)
    for parameter in model.model.layers[0].parameters():
        parameter.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    search = Search(selector=name, k=3, steps=2, positions=2)
    found = select(model, exchanges, search, kind)
    units = 20 if kind == "neurons" else 4
    assert found.kind == kind
    assert [len(layer) for layer in found.chosen] == [3, 3, 3]
    for scores, attribution, chosen in zip(found.scores, found.attribution, found.chosen, strict=True):
        assert scores.shape == attribution.shape == (units,)
        assert float(scores.min()) >= 0 and float(scores.max()) <= 1
        assert chosen == sorted(chosen)
        assert float(scores[chosen].min()) >= float(scores.sort(descending=True).values[3])
    again = select(model, exchanges, search, kind)
    assert all(torch.equal(a, b) for a, b in zip(found.scores, again.scores, strict=True))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(p.requires_grad for p in model.model.layers[0].parameters())
    assert all(p.requires_grad for p in model.model.layers[1].parameters())
    assert all(p.grad is None for p in model.parameters())


def test_random_goes_by_the_seed_alone(tiny: Tiny, exchanges: Exchanges) -> None:
    search = Search(selector="random", k=5)
    state = torch.random.get_rng_state()
    first = select(tiny(), exchanges, search)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert select(tiny(seed=3), exchanges, search).chosen == first.chosen
    assert select(tiny(), exchanges, replace(search, seed=1)).chosen != first.chosen


def test_activation_ranks_recorded_magnitudes(tiny: Tiny, exchanges: Exchanges) -> None:
    model = tiny()
    passes = AnswerPasses(model, exchanges, positions=2)
    found = select(model, exchanges, Search(selector="activation", positions=2))
    expected = ranks(passes.activations[1].abs().sum(1)).mean(0)
    torch.testing.assert_close(found.scores[1], expected)


def test_snip_sums_weight_times_gradient(tiny: Tiny, exchanges: Exchanges) -> None:
    model = tiny()
    prompt, answer = exchanges.prompts[0], exchanges.answers[0]
    found = select(model, Exchanges([prompt], [answer]), Search(selector="snip", positions=2))
    logits = model(input_ids=torch.tensor([[*prompt, *answer[:2]]])).logits[0, len(prompt) - 1 : -1]
    torch.autograd.backward(torch.nn.functional.cross_entropy(logits, torch.tensor(answer[:2])))
    mlp = model.model.layers[2].mlp
    rows = sum((part.weight * part.weight.grad).abs().sum(1) for part in (mlp.gate_proj, mlp.up_proj))
    expected = (rows + (mlp.down_proj.weight * mlp.down_proj.weight.grad).abs().sum(0)).detach()
    torch.testing.assert_close(found.attribution[2], expected / expected.norm())


def test_an_unknown_selector_is_refused(tiny: Tiny, exchanges: Exchanges) -> None:
    with pytest.raises(SettingsError, match="unknown selector 'best'") as caught:
        select(tiny(), exchanges, Search(selector="best"))
    assert "igi" in caught.value.mend
