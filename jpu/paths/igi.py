"""Inter-layer gradient integration: which units carry an answer, layer by layer.

**A set's joint attribution** (NeuronPath, Wang and Ren, ICLR 2025; MIP-Editor, arXiv 2511.06793, eq. 2-4). For a set S
of FFN neurons in any layers, with recorded activations a and F_S(w) = F with the neurons of S set to w, all other units
computed by the network from what they then see,

    IGI(S) = Σ_p (Σ_{i∈S} a_ip) · (Σ_k ω_k Σ_{i∈S} ∂F_S(α_k a)/∂w_ip)

- product of sums; recorded activations as independent inputs, scaled together from 0     [faithful]
- α_k = k/m, ω_k = 1/m, k = 1..m: the end point is in, the origin out (rule "right")      [faithful]
- Gauss-Legendre nodes instead (rule "gauss"): the same integral, fewer steps             [ours]
- units outside S are recomputed, not held at their recorded values                       [inferred]
- F = exp(mean log p) over the answer's first P tokens, not its loss: no sign is lost     [ours]
- p over the last prompt token and the P - 1 answer tokens after it; positions are not
  mixed, so for P = 1 it is the published form and for one neuron its integrated gradient [ours]

**The greedy search** goes up the layers. With C chosen below, S_j = IGI(C ∪ {j}) for every unit j of the next layer;
per prompt the S_j are ranked to [0, 1]; ranks are averaged over the prompts; the k best join C. One C for all prompts:
it is what gets trained. [k > 1 and the averaging: ours; k = 1 and one prompt: faithful]

Three readings of the candidate's own part of the path, `candidates`:

- ``"alone"``: only C ∪ {j} is scaled, the definition to the letter; one row for each candidate and step. [faithful]
- ``"shared"``: C is scaled, j keeps what the network gives it; one row a step scores the whole layer.    [inferred]
- ``"layer"``: C and j's whole layer are scaled, as in NeuronPath's code; one row a step.                 [inferred]

`refine` scores the best candidates of a cheap reading again by ``"alone"`` and chooses among those. [ours]

**Heads** are blocks of d_head values. Products across the dimensions of different heads mean nothing, so a set's joint
attribution is there the sum of its members' integrated gradients along the common path. [ours] With ever more steps
that sum is F(a) - F_S(0), how much F loses when C and j are set to 0 (completeness of integrated gradients;
Sundararajan et al., 2017, arXiv 1703.01365). So the integral of ``"alone"`` need not be summed:

- ``"limit"``: F(a) - F with C and j at 0: one forward pass a candidate, no steps, no gradient; heads only.  [ours]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from jpu.paths.activations import Kind
from jpu.paths.ascent import Standing, above, bottom, held, rise
from jpu.paths.passes import AnswerPasses, Exchanges

Candidates = Literal["shared", "layer", "alone", "limit"]
Rule = Literal["right", "gauss"]

# The end of the integral at which what is chosen is set to 0.
_ORIGIN = (torch.zeros(1), torch.ones(1))
# Rows of one block of "alone" candidates, in units of the passes' own budget: bounds what is held between passes.
_BLOCK = 32


@dataclass(frozen=True)
class PathScores:
    """What a selector found.

    Attributes:
        kind: Neurons or heads.
        scores: Per layer (units,) float32 in [0, 1]: ranks averaged over the prompts; what selection goes by.
        attribution: Per layer (units,) float32: what each unit adds, scaled to length 1 per prompt, averaged.
        chosen: Per layer the k best units, ascending.
        completeness: Relative completeness error of the chosen path's integral; None where none was summed.
        convergence: The same at other numbers of steps, where these were asked for.
        rows: Rows (prompt × step × candidate) that went through the model.
    """

    kind: Kind
    scores: list[Tensor]
    attribution: list[Tensor]
    chosen: list[list[int]]
    completeness: float | None = None
    convergence: Mapping[int, float] = field(default_factory=dict)
    rows: int = 0


def nodes(steps: int, rule: Rule) -> tuple[Tensor, Tensor]:
    """Interpolation points α_k in (0, 1] and their weights ω_k, both (steps,) float32; the weights sum to 1."""
    if rule == "gauss":
        points, weights = np.polynomial.legendre.leggauss(steps)
        return torch.tensor((points + 1) / 2).float(), torch.tensor(weights / 2).float()
    return torch.arange(1, steps + 1) / steps, torch.full((steps,), 1 / steps)


def ranks(scores: Tensor) -> Tensor:
    """Each row of (n, units) replaced by its ranks, scaled to [0, 1]; equal scores rank by index."""
    places = scores.sort(dim=-1, stable=True).indices.argsort(-1)
    return places.float() / max(scores.shape[-1] - 1, 1)


def best(scores: Tensor, k: int) -> list[int]:
    """The k highest of (units,), ascending; ties go to the lower index."""
    return sorted(scores.sort(descending=True, stable=True).indices[:k].tolist())


def igi_scores(
    model: nn.Module,
    exchanges: Exchanges,
    *,
    k: int,
    steps: int,
    positions: int,
    rows: int = 128,
    kind: Kind = "neurons",
    candidates: Candidates = "shared",
    refine: int = 0,
    rule: Rule = "gauss",
    recompute: bool = False,
    check: Sequence[int] = (),
    seen: Callable[[Tensor, Tensor], None] | None = None,
) -> PathScores:
    """Greedy search for the k units of each layer with the highest joint attribution.

    Args:
        model: Llama-like model, run as it stands (with its adapter, if enabled).
        exchanges: n prompts and the answers to attribute.
        k: Units chosen in each layer.
        steps: m, interpolation steps.
        positions: P, positions taken and answer tokens scored.
        rows: Bound on the rows of one pass.
        kind: Neurons or heads.
        candidates: Which reading of the definition scores the candidates; see above. "limit" is for heads, and takes no
            notice of steps and rule.
        refine: Candidates of each layer to score again by "alone"; 0 for none.
        rule: Quadrature.
        recompute: Keep only what enters each layer for the backward pass (`jpu.models.recompute`).
        check: Other numbers of steps at which the chosen path's completeness error is measured as well.
        seen: Called at each layer with the prompts' own S (n, units), and what each would be if j added nothing (n,).

    Raises:
        ModelError: The model is not Llama-like.
    """
    passes = AnswerPasses(model, exchanges, positions=positions, rows=rows, kind=kind, recompute=recompute)
    grid = _ORIGIN if candidates == "limit" else nodes(steps, rule)
    standing = bottom(passes)
    chosen: list[list[int]] = []
    scores, attribution = [], []
    for layer in range(passes.layers):
        joint, base = _scores(passes, standing, chosen, grid, candidates)
        mean = ranks(joint).mean(0)
        if refine and candidates != "alone":
            short = best(mean, max(refine, k))
            joint[:, short], _ = _scores(passes, standing, chosen, grid, "alone", short)
            mean = ranks(joint).mean(0)
            within = torch.full_like(mean, -1.0)
            within[short] = mean[short]
            chosen.append(best(within, k))
        else:
            chosen.append(best(mean, k))
        scores.append(mean.cpu())
        attribution.append(unit_length(joint - base[:, None]).mean(0).cpu())
        if seen is not None:
            seen(joint, base)
        if layer + 1 < passes.layers:
            standing = _higher(passes, standing, chosen[layer], grid)
    return PathScores(
        kind,
        scores,
        attribution,
        chosen,
        None if candidates == "limit" else completeness_error(passes, chosen, grid),
        {} if candidates == "limit" else convergence(passes, chosen, check, rule),
        passes.rows_run,
    )


def candidate_scores(
    passes: AnswerPasses,
    chosen: Sequence[Sequence[int]],
    layer: int,
    grid: tuple[Tensor, Tensor],
    candidates: Candidates = "shared",
    units: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """S_j of one layer's units, given what is chosen in the layers below.

    Args:
        passes: The prompts' passes.
        chosen: The units chosen in layers 0 .. layer - 1.
        layer: The layer whose units are candidates.
        grid: Interpolation points and weights.
        candidates: Which reading.
        units: The candidates; all of the layer's by default.

    Returns:
        S (n, candidates), and IGI(C) (n,): what S_j would be if j added nothing.
    """
    standing = bottom(passes)
    for number in range(layer):
        standing = _higher(passes, standing, chosen[number], grid)
    return _scores(passes, standing, chosen[:layer], grid, candidates, units)


def completeness_error(passes: AnswerPasses, chosen: Sequence[Sequence[int]], grid: tuple[Tensor, Tensor]) -> float:
    """How far the integral is from what it stands for, as a fraction.

    The integrated gradients of all chosen units sum, with ever more steps, to F(a) - F(0): Σ_prompts |sum - difference|
    over Σ_prompts |difference|. (The joint attribution's cross terms are no part of it.)
    """
    device = passes.score.device
    scaled = {number: torch.tensor(list(units), device=device) for number, units in enumerate(chosen)}
    alpha, weight = (part.to(device) for part in grid)
    every = torch.arange(len(passes), device=device)
    prompt, total = every.repeat_interleave(len(alpha)), torch.zeros_like(passes.score)
    for part, slopes in passes.slopes(prompt, alpha.repeat(len(passes)), scaled):
        for layer, slope in slopes.scaled.items():
            along = (passes.recorded(layer, scaled[layer])[prompt[part]] * slope).sum((1, 2))
            total.index_add_(0, prompt[part], along * weight[part % len(alpha)])
    origin, _, _ = passes.gradients(every, torch.zeros(len(passes), device=device), scaled)
    difference = passes.score - origin
    return float((total - difference).abs().sum() / difference.abs().sum().clamp_min(1e-30))


def convergence(
    passes: AnswerPasses,
    chosen: Sequence[Sequence[int]],
    steps: Sequence[int] = (1, 2, 4, 8, 16),
    rule: Rule = "gauss",
) -> dict[int, float]:
    """Completeness error of a chosen path against the number of interpolation steps."""
    return {count: completeness_error(passes, chosen, nodes(count, rule)) for count in steps}


def unit_length(scores: Tensor) -> Tensor:
    """Rows of (n, units) scaled to Euclidean length 1, so that no prompt outweighs another; zero rows stay zero."""
    length: Tensor = torch.linalg.vector_norm(scores, dim=-1, keepdim=True)
    return scores / length.clamp_min(torch.finfo(torch.float32).tiny)


def _higher(passes: AnswerPasses, standing: Standing, units: Sequence[int], grid: tuple[Tensor, Tensor]) -> Standing:
    """One layer higher, with these units of it chosen; from the first choice on with a row for each step."""
    device = passes.score.device
    if units:
        standing = standing.over(grid[0].to(device))
    return rise(passes, standing, torch.tensor(list(units), dtype=torch.long, device=device))


def _scores(
    passes: AnswerPasses,
    standing: Standing,
    chosen: Sequence[Sequence[int]],
    grid: tuple[Tensor, Tensor],
    candidates: Candidates,
    units: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """S_j and IGI(C) of the units of the layer that the search stands below; see `candidate_scores`."""
    device, count = passes.score.device, len(passes)
    wanted = torch.tensor(list(range(passes.units) if units is None else units), device=device)
    if candidates != "shared":
        standing = standing.over(grid[0].to(device))
    # Where nothing is chosen yet and the candidates are not scaled, every step is the same pass.
    weight = grid[1].to(device) if standing.spread else torch.ones(1, device=device)
    every = torch.arange(len(standing.prompt), device=device)
    if candidates == "limit":
        size = max(1, _BLOCK * passes.rows_budget // count)
        blocks = [_lost(passes, standing, block) for block in torch.split(wanted, size)]
        return torch.cat(blocks, 1), passes.score - held(passes, standing, every, wanted[:0])
    value = _chosen_values(passes, chosen, standing.layer)
    scaled = {"shared": None, "layer": wanted, "alone": wanted[:0]}[candidates]
    found = above(passes, standing, every, scaled)
    drawn = torch.einsum("nkt,k->nt", found.drawn.reshape(count, -1, found.drawn.shape[-1]), weight)[:, None]
    base = drawn[:, 0, 0] if passes.kind == "heads" else (value * drawn[:, 0]).sum(-1)
    if candidates == "alone":
        size = max(1, _BLOCK * passes.rows_budget // len(every))
        blocks = [_alone(passes, standing, value, weight, block) for block in torch.split(wanted, size)]
        return torch.cat(blocks, 1), base
    own = torch.einsum("nkpw,k->npw", found.own.reshape(count, -1, *found.own.shape[1:]), weight)
    if candidates == "shared":
        own = own[..., passes.columns(wanted)]
    return _joint(passes, standing.layer, value, drawn, wanted, _by_unit(own, passes.size)), base


def _alone(passes: AnswerPasses, standing: Standing, value: Tensor, weight: Tensor, units: Tensor) -> Tensor:
    """S of `units` by the definition to the letter: a path of its own for each candidate."""
    shape = (len(passes), len(units), len(weight))
    rows = torch.arange(len(standing.prompt), device=units.device).reshape(shape[0], 1, shape[2]).expand(shape)
    found = above(passes, standing, rows.flatten(), units[None, :, None].expand(shape).reshape(-1, 1))
    drawn = torch.einsum("nukt,k->nut", found.drawn.reshape(*shape, -1), weight)
    own = torch.einsum("nukpw,k->nupw", found.own.reshape(*shape, *found.own.shape[1:]), weight)
    return _joint(passes, standing.layer, value, drawn, units, own)


def _lost(passes: AnswerPasses, standing: Standing, units: Tensor) -> Tensor:
    """What F loses when C and each of `units` by itself are set to 0, (n, u)."""
    shape = (len(passes), len(units))
    rows = torch.arange(shape[0], device=units.device)[:, None].expand(shape).flatten()
    left = held(passes, standing, rows, units.repeat(shape[0])[:, None])
    return passes.score[:, None] - left.reshape(shape)


def _chosen_values(passes: AnswerPasses, chosen: Sequence[Sequence[int]], layer: int) -> Tensor:
    """Σ a of C at each position, (n, P) (neurons)."""
    total = passes.score.new_zeros(len(passes), passes.length)
    for number in range(layer):
        units = torch.tensor(list(chosen[number]), dtype=torch.long, device=total.device)
        total = total + passes.recorded(number, units).sum(-1)
    return total


def _joint(passes: AnswerPasses, layer: int, value: Tensor, drawn: Tensor, units: Tensor, own: Tensor) -> Tensor:
    """Join what C has with what each candidate adds.

    Args:
        passes: The prompts' passes.
        layer: The candidates' layer.
        value: Σ a of C (n, P).
        drawn: G of C (n, 1 or u, T), along one path or one for each candidate.
        units: The candidates, (u,).
        own: Their gradients (n, u, P, size).

    Returns:
        S (n, u).
    """
    values = _by_unit(passes.recorded(layer, units), passes.size)
    if passes.kind == "heads":
        return drawn[..., 0] + (values * own).sum((2, 3))
    return ((value[:, None] + values[..., 0]) * (drawn + own[..., 0])).sum(-1)


def _by_unit(columns: Tensor, size: int) -> Tensor:
    """(n, P, u × size) as (n, u, P, size)."""
    return columns.reshape(*columns.shape[:2], -1, size).transpose(1, 2)
