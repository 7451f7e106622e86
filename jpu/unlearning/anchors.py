"""Safety anchors: where M_0's neurons stand while it refuses.

[P] jailbreak paths are pulled to safety anchors. [O] the anchor a_l(Q, i) of a behavior is the value of each path
neuron of layer l under M_0 on the bare question Q, at position i: the last prompt token and the first tokens of the
refusal y_ref that M_0 itself gives. A behavior that M_0 does not refuse directly gets the centroid of the others.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jpu.data.schemas import Behavior
from jpu.errors import DataError
from jpu.models import Subject, token_batches
from jpu.paths.activations import capture


def anchor_positions(heads: Sequence[Sequence[int]], tails: Sequence[Sequence[int]], count: int) -> Tensor:
    """The last prompt token and the first answer tokens of each row.

    Args:
        heads: Prompt tokens of each row.
        tails: Answer tokens of each row.
        count: Positions wanted; a shorter answer repeats its last token.

    Returns:
        (rows, count) int64.
    """
    rows = [[min(len(h) - 1 + i, len(h) + len(t) - 1) for i in range(count)] for h, t in zip(heads, tails, strict=True)]
    return torch.tensor(rows, dtype=torch.long)


@dataclass(frozen=True)
class Anchors:
    """Targets of the rectification.

    Attributes:
        values: Layer → (behaviors, positions, k_l) float32.
        scale: Layer → (k_l,) float32: mean square of each neuron over behaviors and positions, plus ε.
        index: Behavior id → row of ``values``.
        refusals: Behavior id → the refusal y_ref that its anchor was taken on.
        direction: Layer → (k_l,) float32 of length 1 in units of √scale: the one direction that is rectified; None
            for all of them.
    """

    values: Mapping[int, Tensor]
    scale: Mapping[int, Tensor]
    index: Mapping[str, int]
    refusals: Mapping[str, str]
    direction: Mapping[int, Tensor] | None = None


def own_refusals(subject: Subject, behaviors: Sequence[Behavior], refusals: Sequence[str]) -> dict[str, str]:
    """The likeliest y_ref of each behavior's bare question under M_0: a foreign wording inflates every loss.

    Returns:
        Behavior id → refusal.
    """
    pairs = [(b.query, r) for b in behaviors for r in refusals]
    with subject.reference():
        losses = subject.nll([q for q, _ in pairs], [r for _, r in pairs]).view(len(behaviors), len(refusals))
    return {b.id: refusals[int(losses[i].argmin())] for i, b in enumerate(behaviors)}


def compute_anchors(
    subject: Subject,
    behaviors: Sequence[Behavior],
    refusals: Mapping[str, str],
    refused: Sequence[str],
    neurons: Mapping[int, Sequence[int]],
    positions: int,
) -> Anchors:
    """Run M_0 over the bare questions and keep the path neurons' values.

    Args:
        subject: Its adapter is disabled for this.
        behaviors: Restricted behaviors of the train split.
        refusals: Behavior id → y_ref.
        refused: Ids of the behaviors that M_0 refuses directly; the others get the centroid.
        neurons: Layer → neurons of the path.
        positions: Positions compared.
    """
    layers = [layer for layer in neurons if len(neurons[layer])]
    parts: dict[int, list[Tensor]] = {layer: [torch.empty(0)] * len(behaviors) for layer in layers}
    heads = [subject.prompt_ids(b.query) for b in behaviors]
    tails = [subject.answer_ids(refusals[b.id]) for b in behaviors]
    with torch.no_grad(), subject.reference():
        for batch in token_batches([len(h) + len(t) for h, t in zip(heads, tails, strict=True)]):
            some_heads, some_tails = [heads[i] for i in batch], [tails[i] for i in batch]
            ids, _ = subject.collate(some_heads, some_tails)
            at = anchor_positions(some_heads, some_tails, positions)
            with capture(subject.model, positions=at) as found:
                subject.base.model(input_ids=ids, use_cache=False)
            for layer in layers:
                chosen = found[layer][..., list(neurons[layer])].float()
                for row, index in enumerate(batch):
                    parts[layer][index] = chosen[row]
    known = [i for i, b in enumerate(behaviors) if b.id in set(refused)]
    values, scale = {}, {}
    for layer in layers:
        stacked = torch.stack(parts[layer])
        if known:
            centroid = stacked[known].mean(0)
            for i in set(range(len(behaviors))) - set(known):
                stacked[i] = centroid
        values[layer] = stacked
        scale[layer] = stacked.square().mean((0, 1)) + 1e-3
    return Anchors(values, scale, {b.id: i for i, b in enumerate(behaviors)}, dict(refusals))


def centred(anchors: Anchors) -> Anchors:
    """An ablation of ours: the centroid of all for each behavior."""
    return replace(anchors, values={k: v.mean(0, keepdim=True).expand_as(v) for k, v in anchors.values.items()})


def scattered(anchors: Anchors, seed: str) -> Anchors:
    """A control of ours: one random anchor of each layer and position for all behaviors, as long as theirs."""
    generator = torch.Generator().manual_seed(random.Random(f"{seed}-anchor").getrandbits(63))
    drawn = {}
    for layer, values in anchors.values.items():
        noise = torch.randn(values.shape[1:], generator=generator) * anchors.scale[layer].cpu().sqrt()
        drawn[layer] = noise.to(values).expand_as(values)
    return replace(anchors, values=drawn)


def directed(
    anchors: Anchors,
    subject: Subject,
    refused: Sequence[Sequence[int]],
    answered: Sequence[Sequence[int]],
    neurons: Mapping[int, Sequence[int]],
) -> Anchors:
    """An ablation of ours: rectified only along the direction of refusal, as the path's neurons see it.

    r_l = the mean over refused prompts less that over answered ones of M_0's neurons at the last prompt token (after
    Arditi et al., 2024, arXiv 2406.11717, who take it of the residual stream), each neuron in units of √scale.

    Args:
        anchors: Where the path stands on that direction is still theirs.
        subject: M_0 is its reference.
        refused: Prompts that M_0 refuses, in tokens.
        answered: Prompts that it answers.
        neurons: Layer → neurons of the path.

    Raises:
        DataError: None of either.
    """
    if not refused or not answered:
        raise DataError(
            "the direction of refusal needs questions that are refused and ones that are answered",
            mend="Raise unlearning.retain.direct and retain_pairs, or choose another anchor.",
        )
    means = []
    for prompts in (refused, answered):
        sums: dict[int, Tensor] = {}
        for batch in token_batches([len(p) for p in prompts]):
            heads = [prompts[i] for i in batch]
            ids, _ = subject.collate(heads, [[] for _ in heads])
            with torch.no_grad(), subject.reference():
                at = torch.tensor([[len(head) - 1] for head in heads])
                with capture(subject.model, positions=at) as found:
                    subject.base.model(input_ids=ids, use_cache=False)
            for layer in anchors.values:
                mine = found[layer][:, 0, list(neurons[layer])].float().sum(0)
                sums[layer] = sums.get(layer, torch.zeros_like(mine)) + mine
        means.append({layer: total / len(prompts) for layer, total in sums.items()})
    directions = {}
    for layer in anchors.values:
        way = (means[0][layer] - means[1][layer]) / anchors.scale[layer].to(means[0][layer]).sqrt()
        directions[layer] = way / way.norm().clamp(min=1e-12)
    return replace(anchors, direction=directions)
