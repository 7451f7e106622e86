"""Ways to choose units, behind one signature: the method's own and the controls that stand beside it at equal k.

Every selector scores all units of every layer for each prompt; scores are ranked within layer and prompt, averaged over
the prompts, and the k best of each layer are chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jpu.errors import SettingsError
from jpu.paths.activations import Kind, bare_model, decoder_layers, unit_size
from jpu.paths.igi import Candidates, PathScores, Rule, best, igi_scores, ranks, unit_length
from jpu.paths.passes import AnswerPasses, Exchanges


@dataclass(frozen=True)
class Search:
    """How units are searched for.

    Attributes:
        selector: Name in SELECTORS.
        k: Units of each layer.
        steps: m, interpolation steps.
        positions: P: the last prompt token and the first P - 1 answer tokens.
        candidates: Reading of the candidate's part of the path; see `jpu.paths.igi`.
        refine: Candidates of each layer scored again to the letter of the definition; 0 for none.
        rule: Quadrature.
        rows: Bound on the rows of one pass.
        recompute: Keep only what enters each layer for the backward pass: slower, and less memory.
        check: Other numbers of steps at which the completeness error is measured.
        seed: Of the random selector.
    """

    selector: str = "igi"
    k: int = 8
    steps: int = 8
    positions: int = 4
    candidates: Candidates = "shared"
    refine: int = 0
    rule: Rule = "gauss"
    rows: int = 128
    recompute: bool = False
    check: tuple[int, ...] = ()
    seed: int = 0


Selector = Callable[[nn.Module, Exchanges, Search, Kind], PathScores]


def select(model: nn.Module, exchanges: Exchanges, search: Search, kind: Kind = "neurons") -> PathScores:
    """Score and choose units by the selector that `search` names.

    Args:
        model: Llama-like model, run as it stands.
        exchanges: Prompts and the answers to attribute.
        search: How.
        kind: Neurons or heads.

    Raises:
        SettingsError: There is no such selector.
        ModelError: The model is not Llama-like.
    """
    if search.selector not in SELECTORS:
        raise SettingsError(
            f"unknown selector {search.selector!r}",
            where="params.yaml, paths.selector",
            mend=f"Use one of {', '.join(SELECTORS)}.",
        )
    return SELECTORS[search.selector](model, exchanges, search, kind)


def igi(
    model: nn.Module,
    exchanges: Exchanges,
    search: Search,
    kind: Kind,
    seen: Callable[[Tensor, Tensor], None] | None = None,
) -> PathScores:
    """Inter-layer gradient integration; see `jpu.paths.igi`, of which `seen` is."""
    return igi_scores(
        model,
        exchanges,
        k=search.k,
        steps=search.steps,
        positions=search.positions,
        rows=search.rows,
        kind=kind,
        candidates=search.candidates,
        refine=search.refine,
        rule=search.rule,
        recompute=search.recompute,
        check=search.check,
        seen=seen,
    )


def random(model: nn.Module, exchanges: Exchanges, search: Search, kind: Kind) -> PathScores:
    """Uniform noise from the seed, whatever the exchanges."""
    generator = torch.Generator().manual_seed(search.seed)
    config = bare_model(model).config
    units = config.intermediate_size if kind == "neurons" else config.num_attention_heads
    return _gather(kind, [torch.rand(1, units, generator=generator) for _ in decoder_layers(model)], search)


def activation(model: nn.Module, exchanges: Exchanges, search: Search, kind: Kind) -> PathScores:
    """Magnitude of the recorded values, summed over positions (for a head, over its dimensions too)."""
    passes = _passes(model, exchanges, search, kind)
    return _gather(kind, [_per_unit(values.abs(), passes) for values in passes.activations], search, passes)


def gradient(model: nn.Module, exchanges: Exchanges, search: Search, kind: Kind) -> PathScores:
    """Value times gradient of F at the unscaled point: each unit by itself, no path and no integral."""
    passes = _passes(model, exchanges, search, kind)
    every = torch.arange(len(passes), device=passes.score.device)
    _, _, slopes = passes.gradients(every, passes.score.new_ones(len(passes)), {}, range(passes.layers))
    scores = [_per_unit(values * slopes[layer], passes) for layer, values in enumerate(passes.activations)]
    return _gather(kind, scores, search, passes)


def snip(model: nn.Module, exchanges: Exchanges, search: Search, kind: Kind) -> PathScores:
    """Connection sensitivity |W · ∂loss/∂W| (Lee et al., ICLR 2019), summed over a unit's own weights, per prompt.

    The loss is the mean negative log-likelihood of the answer's first P tokens. A neuron's weights are its gate and up
    rows and its down column; a head's are its query rows and output columns (keys and values may be shared). Base
    weights only, at the adapted model's gradient. [ours: published for single weights]
    """
    size = unit_size(model, kind)
    weights = [_unit_weights(layer, kind) for layer in decoder_layers(model)]
    flat = [weight for layer in weights for weight, _ in layer]
    wanted = [weight.requires_grad for weight in flat]
    scores: list[list[Tensor]] = [[] for _ in weights]
    try:
        for weight in flat:
            weight.requires_grad_(True)
        for prompt, answer in zip(exchanges.prompts, exchanges.answers, strict=True):
            slopes = iter(torch.autograd.grad(_loss(model, prompt, answer[: search.positions]), flat))
            for found, layer in zip(scores, weights, strict=True):
                total: Tensor | None = None
                for weight, axis in layer:
                    part = (weight.detach() * next(slopes)).float().abs().sum(1 - axis)
                    total = part if total is None else total + part
                if total is not None:
                    found.append(total.reshape(-1, size).sum(-1))
    finally:
        for weight, before in zip(flat, wanted, strict=True):
            weight.requires_grad_(before)
    return _gather(kind, [torch.stack(found) for found in scores], search, rows=len(exchanges.prompts))


SELECTORS: dict[str, Selector] = {
    "igi": igi,
    "random": random,
    "activation": activation,
    "gradient": gradient,
    "snip": snip,
}


def _passes(model: nn.Module, exchanges: Exchanges, search: Search, kind: Kind) -> AnswerPasses:
    return AnswerPasses(
        model, exchanges, positions=search.positions, rows=search.rows, kind=kind, recompute=search.recompute
    )


def _per_unit(values: Tensor, passes: AnswerPasses) -> Tensor:
    """(n, P, width) summed to (n, units)."""
    return values.sum(1).reshape(len(values), -1, passes.size).sum(-1)


def _gather(
    kind: Kind, scores: Sequence[Tensor], search: Search, passes: AnswerPasses | None = None, rows: int = 0
) -> PathScores:
    """Ranks, averages and choice from each layer's scores (n, units)."""
    means = [ranks(layer).mean(0).cpu() for layer in scores]
    return PathScores(
        kind,
        means,
        [unit_length(layer).mean(0).cpu() for layer in scores],
        [best(mean, search.k) for mean in means],
        rows=passes.rows_run if passes else rows,
    )


def _unit_weights(layer: nn.Module, kind: Kind) -> list[tuple[nn.Parameter, int]]:
    """The weight matrices of a layer's units, each with the axis along which the units lie."""
    if kind == "neurons":
        named = {"mlp.gate_proj": 0, "mlp.up_proj": 0, "mlp.down_proj": 1}
    else:
        named = {"self_attn.q_proj": 0, "self_attn.o_proj": 1}
    found = []
    for name, axis in named.items():
        module: Any = layer.get_submodule(name)
        found.append((getattr(module, "base_layer", module).weight, axis))
    return found


def _loss(model: nn.Module, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
    bare = bare_model(model)
    ids = torch.tensor([[*prompt, *answer]], device=next(bare.parameters()).device)
    logits = bare(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    return nn.functional.cross_entropy(logits.float(), ids[0, len(prompt) :])
