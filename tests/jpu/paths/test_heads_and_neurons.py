"""A path of neurons and heads together, from the search to the file and the adapter, with grouped queries."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest
import torch
from transformers import LlamaForCausalLM

from jpu.paths.passes import Exchanges
from jpu.paths.path import Path
from jpu.paths.select import Samples, identify
from jpu.paths.selectors import Search
from jpu.unlearning.adapter import adapter_factors, adapter_path, attach, load_adapter, save_adapter
from jpu.unlearning.trained import Trained
from tasks.attribution import overlaps, summary

Tiny = Callable[..., LlamaForCausalLM]
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")  # PEFT's use of transformers
SIZE = 8
GROUP = 2


def trained_rows(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], name: str, axis: int) -> list[int]:
    moved = (before[name] - after[name]).abs().sum(1 - axis) > 0
    return moved.nonzero()[:, 0].tolist()


def blocks(units: list[int], size: int = SIZE) -> list[int]:
    return [unit * size + i for unit in units for i in range(size)]


def test_neurons_and_heads_from_the_search_to_the_adapter(
    tiny: Tiny, exchanges: Exchanges, tmp_path: pathlib.Path
) -> None:
    model = tiny(key_heads=2)
    swapped = Exchanges(exchanges.prompts, exchanges.answers[::-1])
    search = Search(k=3, steps=4, positions=2)
    found = identify(model, Samples(exchanges, direct=swapped), search, heads=1)
    neurons = {n: list(u) for n, u in found.path.neurons.items()}
    heads = {n: list(u) for n, u in found.path.heads.items()}
    assert [len(u) for u in neurons.values()] == [3, 3, 3] and [len(u) for u in heads.values()] == [1, 1, 1]

    found.path.save(tmp_path / "path")
    path = Path.load(tmp_path / "path")
    assert path == found.path and {"layer.0", "heads.0", "direct_heads.2"} <= set(path.scores)

    before = {name: part.clone() for name, part in model.state_dict().items()}
    adapted = attach(model, path, Trained(path=True, rank=0))
    trained = [p for p in adapted.parameters() if p.requires_grad]
    rank = 3 * 3 * 3 * 32 + 3 * (SIZE * 32 * 4)
    assert sum(p.numel() for p in trained) == rank, "gate, up, down of 9 neurons; q, k, v, o of 3 heads"
    torch.autograd.backward(adapted(input_ids=torch.tensor([[1, 2, 3, 4]])).logits.square().mean())
    with torch.no_grad():
        for part in trained:
            assert part.grad is not None
            part.add_(0.1 * part.grad.sign())
    save_adapter(adapted, tmp_path / "adapter")
    assert adapter_path(adapter_factors(adapted)).neurons == path.neurons

    merged = load_adapter(tiny(key_heads=2), tmp_path / "adapter").merge_and_unload().state_dict()
    for layer in range(3):
        block = f"model.layers.{layer}"
        for name in ("gate_proj", "up_proj"):
            assert trained_rows(before, merged, f"{block}.mlp.{name}.weight", 0) == neurons[layer]
        assert trained_rows(before, merged, f"{block}.mlp.down_proj.weight", 1) == neurons[layer]
        assert trained_rows(before, merged, f"{block}.self_attn.q_proj.weight", 0) == blocks(heads[layer])
        assert trained_rows(before, merged, f"{block}.self_attn.o_proj.weight", 1) == blocks(heads[layer])
        keys = [head // GROUP for head in heads[layer]]
        for name in ("k_proj", "v_proj"):
            assert trained_rows(before, merged, f"{block}.self_attn.{name}.weight", 0) == blocks(keys)


def test_the_figures_of_both_kinds_are_reported(tiny: Tiny, exchanges: Exchanges) -> None:
    swapped = Exchanges(exchanges.prompts, exchanges.answers[::-1])
    samples = Samples(exchanges, direct=swapped)
    both = identify(tiny(), samples, Search(k=2, steps=4, positions=2), heads=1)
    figures = summary(both)
    assert figures["neurons"] == 6.0 and figures["heads"] == 3.0
    half, whole, twice = (figures[f"completeness_error.jailbreak{at}"] for at in (".steps_2", "", ".steps_8"))
    assert twice < whole < half
    assert "completeness_error.direct" in figures and "completeness_error.direct.steps_2" not in figures

    alone = identify(tiny(), samples, Search(k=0, steps=4, positions=2), heads=1)
    rows = overlaps(alone, ("direct", "safety"))
    assert [row["layer"] for row in rows] == [0, 1, 2]
    # One head of four each: chance is 1/16 shared of 2 - 1/16.
    assert rows[0]["chance"] == pytest.approx((1 / 4) / (2 - 1 / 4))
    assert all(row["direct_jaccard"] in (0.0, 1.0) for row in rows)


def test_half_precision_weights_are_summed_in_full_precision(tiny: Tiny, exchanges: Exchanges) -> None:
    search = Search(k=3, steps=4, positions=2)
    full = identify(tiny(key_heads=2), Samples(exchanges), search, heads=1)
    half = identify(tiny(key_heads=2).bfloat16(), Samples(exchanges), search, heads=1)
    for kind in ("neurons", "heads"):
        ours, theirs = getattr(half, kind)["jailbreak"], getattr(full, kind)["jailbreak"]
        assert all(part.dtype == torch.float32 for part in ours.attribution)
        for a, b in zip(ours.attribution, theirs.attribution, strict=True):
            assert float(torch.cosine_similarity(a, b, dim=0)) > 0.97
