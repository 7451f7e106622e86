"""How much of what a layer knows by itself a jailbreak uses as well: |J_l ∩ E_l| / |E_l|, layer by layer (analysis 1).

The paper's first finding [P]: after unlearning, jailbreaks succeed through parameters that were not erased, in the
intermediate layers. E_l are the weights of layer l among the top q % by sensitivity on bare questions under M_0, J_l
those on jailbreaks that succeed against the erased model M_e. Chance gives q %. [C: SNIP; O: what is compared]
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jpu.analysis.resampling import Draws, Interval, interval
from jpu.analysis.sensitivity import layer_weights, sensitivities
from jpu.models import Subject
from jpu.paths.passes import Exchanges

# By how much the least of a resample's largest may lie below that of the sample, before all weights are looked at.
_LOOSE = 0.6


@dataclass(frozen=True)
class Source:
    """Samples whose sensitivities are taken.

    Attributes:
        exchanges: Prompts and answers, in tokens.
        names: Behavior of each.
        erased: Under M_e; else under M_0.
    """

    exchanges: Exchanges
    names: Sequence[str]
    erased: bool


@dataclass(frozen=True)
class Rows:
    """What a set is chosen from: sensitivities of each behavior in one layer.

    Attributes:
        values: (behaviors, weights).
        names: What each row is of; rows of one name are drawn together.
    """

    values: Tensor
    names: Sequence[str]


@dataclass(frozen=True)
class Overlap:
    """How much of a reference set another set holds.

    Attributes:
        condition: What the other set is of.
        share: q, the share of a layer's weights that is in either set.
        overlap: |J ∩ E| / |E|.
        excess: The same less that of another condition, drawn in the same resamples; by its name.
    """

    condition: str
    share: float
    overlap: Interval
    excess: Mapping[str, Interval]


@dataclass(frozen=True)
class LayerOverlap:
    """One layer.

    Attributes:
        layer: Its number.
        sensitive: Overlaps with E, the weights that bare questions need under M_0.
        changed: Overlaps with the weights that the erasure moved most, |W_e − W_0|: what was erased in fact.
        moved: How much of E is among those, by q.
    """

    layer: int
    sensitive: list[Overlap]
    changed: list[Overlap]
    moved: dict[float, float]


def overlap_by_layer(
    subject: Subject,
    reference: Source,
    conditions: Mapping[str, Source],
    shares: Sequence[float],
    draws: Draws,
    *,
    confidence: float = 0.95,
    against: Mapping[str, Sequence[str]] | None = None,
    held: int = 1 << 28,
) -> list[LayerOverlap]:
    """Overlap of every condition's top weights with those of bare questions, and with what the erasure moved.

    Args:
        subject: M_e; its reference is M_0.
        reference: Bare questions and their answers.
        conditions: What is compared with them, by name.
        shares: Values of q.
        draws: Resamples; they have the names of all.
        confidence: Coverage of the intervals.
        against: Condition → conditions that its overlap is compared with.
        held: Most values that are held at once: as many layers go together as fit, at least one.
    """
    behaviors = sum(len(set(source.names)) for source in (reference, *conditions.values()))
    size = len(layer_weights(subject, 0))
    together = max(1, held // (behaviors * size))
    found = []
    layers = range(len(subject.layers))
    for start in layers[::together]:
        group = layers[start : start + together]
        base = _rows(subject, reference, group)
        others = {name: _rows(subject, source, group) for name, source in conditions.items()}
        for layer in group:
            after = layer_weights(subject, layer)
            with subject.reference():
                change = (after - layer_weights(subject, layer)).abs()
            both = overlaps(
                {"sensitive": base[layer], "changed": change},
                {name: rows[layer] for name, rows in others.items()},
                shares,
                draws,
                confidence=confidence,
                against=against,
            )
            moved = overlaps({"e": change}, {"e": base[layer]}, shares, Draws([base[layer].names], 0, 0))["e"]
            found.append(
                LayerOverlap(layer, both["sensitive"], both["changed"], {one.share: one.overlap.value for one in moved})
            )
    return found


def _rows(subject: Subject, source: Source, layers: Sequence[int]) -> dict[int, Rows]:
    names = list(dict.fromkeys(source.names))
    owners = [names.index(name) for name in source.names]
    with contextlib.nullcontext() if source.erased else subject.reference():
        found = sensitivities(subject, source.exchanges, owners, layers)
    return {layer: Rows(values, names) for layer, values in found.items()}


def largest(values: Tensor, share: float) -> Tensor:
    """Indices of the largest share of (…, weights), at least one, the largest first; ties as torch.topk breaks them."""
    return values.topk(size_of(values.shape[-1], share), dim=-1).indices


def size_of(weights: int, share: float) -> int:
    """Weights in the top share of so many."""
    return max(1, round(share * weights))


def overlaps(
    references: Mapping[str, Rows | Tensor],
    conditions: Mapping[str, Rows],
    shares: Sequence[float],
    draws: Draws,
    *,
    confidence: float = 0.95,
    against: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, list[Overlap]]:
    """Overlap of each condition's top weights with each reference's, in one layer.

    Args:
        references: Name → what E is chosen from: sensitivities of each behavior, or one score (weights,) that is not
            resampled.
        conditions: Name → what J is chosen from.
        shares: Values of q in (0, 1].
        draws: Resamples; they have all names.
        confidence: Coverage of the intervals.
        against: Condition → conditions that its overlap is compared with.

    Returns:
        Reference → an overlap for each condition and q.
    """
    kept: dict[tuple[str, str, float], list[float]] = {
        (r, c, q): [] for r in references for c in conditions for q in shares
    }
    most = max(shares)
    chosen = {name: Largest(found, most, draws) for name, found in conditions.items()}
    drawn = {name: Largest(found, most, draws) for name, found in references.items() if isinstance(found, Rows)}
    places = {
        name: _places(largest(found, most), len(found))
        for name, found in references.items()
        if not isinstance(found, Rows)
    }
    for draw in range(draws.resamples + 1):
        places |= {name: _places(found.of(draw), found.weights) for name, found in drawn.items()}
        for condition, found in chosen.items():
            order = found.of(draw)
            for name, place in places.items():
                top = place[order]
                for q in shares:
                    count = size_of(len(place), q)
                    kept[name, condition, q].append(float((top[:count] < count).float().mean()))
    figures = {key: torch.tensor(values) for key, values in kept.items()}
    return {
        name: [
            Overlap(
                condition,
                q,
                interval(figures[name, condition, q], confidence),
                {
                    other: interval(
                        figures[name, condition, q] - figures[name, other, q], confidence, bounds=(-1.0, 1.0)
                    )
                    for other in (against or {}).get(condition, ())
                },
            )
            for condition in conditions
            for q in shares
        ]
        for name in references
    }


class Largest:
    """The top share of weights by their mean over behaviors, in every resample.

    Most weights can be in none of them. A mean is at most the largest of what it is of, so where the least of the
    chosen is above a bound, no weight is among them that no behavior lifts to that bound: the choice is exact.

    Args:
        rows: Sensitivities of each behavior.
        share: Of the weights.
        draws: Resamples; they have all names.
    """

    def __init__(self, rows: Rows, share: float, draws: Draws) -> None:
        self.weights = rows.values.shape[1]
        self._rows, self._count = rows.values, size_of(self.weights, share)
        self._draws = draws.weights(rows.names).to(rows.values.device)
        least = rows.values.mean(0).topk(self._count).values[-1]
        self._bound = _LOOSE * least
        self._likely = (rows.values.amax(0) >= self._bound).nonzero()[:, 0]
        self._some = rows.values[:, self._likely].contiguous()

    def of(self, draw: int) -> Tensor:
        """Indices of the weights in a resample, the largest first."""
        found = (self._draws[draw] @ self._some).topk(self._count)
        if found.values[-1] >= self._bound:
            return self._likely[found.indices]
        return (self._draws[draw] @ self._rows).topk(self._count).indices


def _places(order: Tensor, weights: int) -> Tensor:
    """Where each weight stands in an order of the largest, (weights,): the set of the c largest are those below c."""
    place = torch.full((weights,), weights, device=order.device)
    place[order] = torch.arange(len(order), device=order.device)
    return place
