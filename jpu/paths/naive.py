"""Inter-layer gradient integration written out, one candidate and one step at a time: the yardstick of `igi`.

Follows the definition in `jpu.paths.igi` to the letter, with the whole sequence in every pass, no cache, no batch, and
hooks of its own; shares no code with the fast search. For tests and benchmarks on tiny models: d_ff × m forward and
backward passes for each layer and prompt. Neurons only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn


def naive_scores(
    model: nn.Module,
    prompt: Sequence[int],
    answer: Sequence[int],
    chosen: Sequence[Sequence[int]],
    layer: int,
    *,
    steps: int,
    positions: int,
    candidates: Literal["shared", "layer", "alone"],
    units: Sequence[int] | None = None,
) -> Tensor:
    """S_j of one layer's neurons for one prompt.

    Args:
        model: A bare Llama-like model.
        prompt: Its tokens.
        answer: The answer's tokens.
        chosen: The neurons chosen in layers 0 .. layer - 1.
        layer: The layer whose neurons are candidates.
        steps: m.
        positions: P.
        candidates: Which reading of the definition.
        units: The candidates; all neurons of the layer by default.

    Returns:
        (candidates,) float32.
    """
    count = min(positions, len(answer))
    places = range(len(prompt) - 1, len(prompt) - 1 + count)
    recorded = [seen.detach() for seen in _run(model, prompt, answer, count, {})[1]]
    width = recorded[0].shape[-1]
    below = [(number, neuron) for number in range(layer) for neuron in chosen[number]]
    scores = []
    for candidate in range(width) if units is None else units:
        members = [*below, (layer, candidate)]
        scaled = {"shared": below, "alone": members, "layer": [*below, *((layer, i) for i in range(width))]}[candidates]
        slopes = torch.zeros(len(members), count)
        for step in range(1, steps + 1):
            values = {
                (number, neuron, place): (step / steps * recorded[number][place, neuron]).requires_grad_()
                for number, neuron in scaled
                for place in places
            }
            score, seen = _run(model, prompt, answer, count, values)
            torch.autograd.backward(score)
            for row, (number, neuron) in enumerate(members):
                for column, place in enumerate(places):
                    slope = values[number, neuron, place].grad if (number, neuron) in scaled else None
                    if (number, neuron) not in scaled:
                        whole = seen[number].grad
                        slope = None if whole is None else whole[place, neuron]
                    if slope is not None:
                        slopes[row, column] += slope / steps
        total = torch.zeros(())
        for column, place in enumerate(places):
            value = sum(float(recorded[number][place, neuron]) for number, neuron in members)
            total += value * slopes[:, column].sum()
        scores.append(total)
    return torch.stack(scores)


def _run(
    model: nn.Module,
    prompt: Sequence[int],
    answer: Sequence[int],
    count: int,
    values: dict[tuple[int, int, int], Tensor],
) -> tuple[Tensor, list[Tensor]]:
    """F with each (layer, neuron, place) set to its value; every layer's values (length, width), for .grad."""
    seen: list[Tensor] = []
    handles = []
    for number, block in enumerate(model.model.layers):  # type: ignore[union-attr,arg-type]

        def hook(_: nn.Module, inputs: tuple[Tensor, ...], number: int = number) -> Tensor:
            now = inputs[0][0].clone()
            for (place_layer, neuron, place), value in values.items():
                if place_layer == number:
                    now[place, neuron] = value
            if not now.requires_grad:
                now.requires_grad_()
            now.retain_grad()
            seen.append(now)
            return now[None]

        handles.append(block.mlp.down_proj.register_forward_pre_hook(hook))
    try:
        logits = model(input_ids=torch.tensor([[*prompt, *answer[:count]]]), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    lines = logits.log_softmax(-1)
    said = [lines[len(prompt) - 1 + number, answer[number]] for number in range(count)]
    return torch.stack(said).mean().exp(), seen
