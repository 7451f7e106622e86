"""Safety anchors: where M_0's neurons stand while it refuses.

[P] jailbreak paths are pulled to safety anchors. [O] the anchor a_l(Q, i) of a behavior is the value of each path
neuron of layer l under M_0 on the bare question Q, at position i: the last prompt token and the first tokens of the
refusal y_ref that M_0 itself gives. A behavior that M_0 does not refuse directly gets the centroid of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jpu.data.schemas import Behavior
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
    """

    values: Mapping[int, Tensor]
    scale: Mapping[int, Tensor]
    index: Mapping[str, int]
    refusals: Mapping[str, str]


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
