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
attribution is there the sum of its members' integrated gradients along the common path. [ours]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from jpu.paths.activations import Kind
from jpu.paths.passes import AnswerPasses, Exchanges

Candidates = Literal["shared", "layer", "alone"]
Rule = Literal["right", "gauss"]

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
        completeness: Relative completeness error of the chosen path's integral; None where there is no integral.
        rows: Rows (prompt × step × candidate) that went through the model.
    """

    kind: Kind
    scores: list[Tensor]
    attribution: list[Tensor]
    chosen: list[list[int]]
    completeness: float | None = None
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
        candidates: Which reading of the definition scores the candidates; see above.
        refine: Candidates of each layer to score again by "alone"; 0 for none.
        rule: Quadrature.

    Raises:
        ModelError: The model is not Llama-like.
    """
    passes = AnswerPasses(model, exchanges, positions=positions, rows=rows, kind=kind)
    grid = nodes(steps, rule)
    chosen: list[list[int]] = []
    scores, attribution = [], []
    for layer in range(passes.layers):
        joint, base = candidate_scores(passes, chosen, layer, grid, candidates)
        mean = ranks(joint).mean(0)
        if refine and candidates != "alone":
            short = best(mean, max(refine, k))
            joint[:, short], _ = candidate_scores(passes, chosen, layer, grid, "alone", short)
            mean = ranks(joint).mean(0)
            within = torch.full_like(mean, -1.0)
            within[short] = mean[short]
            chosen.append(best(within, k))
        else:
            chosen.append(best(mean, k))
        scores.append(mean.cpu())
        attribution.append(unit_length(joint - base[:, None]).mean(0).cpu())
    return PathScores(kind, scores, attribution, chosen, completeness_error(passes, chosen, grid), passes.rows_run)


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
    device = passes.score.device
    below = {number: torch.tensor(list(units), device=device) for number, units in enumerate(chosen[:layer])}
    wanted = torch.tensor(list(range(passes.units) if units is None else units), device=device)
    if candidates == "alone":
        size = max(1, _BLOCK * passes.rows_budget // (len(passes) * len(grid[0])))
        blocks = [_alone(passes, below, layer, grid, block) for block in torch.split(wanted, size)]
        slopes, _ = _integrate(passes, below, grid)
        none = wanted[:0]
        return torch.cat(blocks, 1), _joint(passes, below, layer, none, slopes, none[None, :, None, None])[1][:, 0]
    if candidates == "shared" and not below:  # nothing is scaled: every step is the same pass
        grid = (torch.ones(1), torch.ones(1))
    scaled = dict(below)
    if candidates == "layer":
        scaled[layer] = wanted
    slopes, read = _integrate(passes, scaled, grid, read=() if layer in scaled else (layer,))
    own = slopes.pop(layer)[:, 0] if layer in scaled else read[layer][:, 0][..., passes.columns(wanted)]
    joint, base = _joint(passes, below, layer, wanted, slopes, _by_unit(own, passes.size))
    return joint, base[:, 0]


def completeness_error(passes: AnswerPasses, chosen: Sequence[Sequence[int]], grid: tuple[Tensor, Tensor]) -> float:
    """How far the integral is from what it stands for, as a fraction.

    The integrated gradients of all chosen units sum, with ever more steps, to F(a) - F(0): Σ_prompts |sum - difference|
    over Σ_prompts |difference|. (The joint attribution's cross terms are no part of it.)
    """
    scaled = {number: torch.tensor(list(units), device=passes.score.device) for number, units in enumerate(chosen)}
    slopes, _ = _integrate(passes, scaled, grid)
    total = torch.stack(
        [(passes.recorded(layer, scaled[layer]) * slope[:, 0]).sum((1, 2)) for layer, slope in slopes.items()]
    ).sum(0)
    every = torch.arange(len(passes), device=total.device)
    origin, _, _ = passes.gradients(every, torch.zeros(len(passes), device=total.device), scaled)
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


def _integrate(
    passes: AnswerPasses, scaled: dict[int, Tensor], grid: tuple[Tensor, Tensor], read: Sequence[int] = ()
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Gradients averaged over the path, (n, 1, P, columns) for each layer."""
    if not scaled and not read:
        return {}, {}
    count, device = len(passes), passes.score.device
    alpha, weight = (part.to(device) for part in grid)
    prompt = torch.arange(count, device=device).repeat_interleave(len(alpha))
    _, ours, theirs = passes.gradients(prompt, alpha.repeat(count), scaled, read)

    def mean(slopes: dict[int, Tensor]) -> dict[int, Tensor]:
        return {
            layer: torch.einsum("nkpw,k->npw", slope.reshape(count, len(alpha), *slope.shape[1:]), weight)[:, None]
            for layer, slope in slopes.items()
        }

    return mean(ours), mean(theirs)


def _joint(
    passes: AnswerPasses, below: dict[int, Tensor], layer: int, units: Tensor, slopes: dict[int, Tensor], own: Tensor
) -> tuple[Tensor, Tensor]:
    """Join the path's gradients and the candidates' own.

    Args:
        passes: The prompts' passes.
        below: Layer → units of C.
        layer: The candidates' layer.
        units: The candidates, (u,).
        slopes: Layer → gradients of C (n, 1 or u, P, columns), along one path or one for each candidate.
        own: Gradients of the candidates (n, u, P, size).

    Returns:
        S (n, u), and what the gradients of C alone come to (n, 1 or u).
    """
    values = _by_unit(passes.recorded(layer, units), passes.size)
    shape = next(iter(slopes.values())).shape[:3] if slopes else (len(passes), 1, passes.length)
    if passes.kind == "heads":
        base = values.new_zeros(shape[:2])
        for number, slope in slopes.items():
            base = base + (passes.recorded(number, below[number])[:, None] * slope).sum((2, 3))
        return base + (values * own).sum((2, 3)), base
    value, pull = values.new_zeros(len(passes), 1, passes.length), values.new_zeros(shape)
    for number, slope in slopes.items():
        value = value + passes.recorded(number, below[number]).sum(-1)[:, None]
        pull = pull + slope.sum(-1)
    return ((value + values[..., 0]) * (pull + own[..., 0])).sum(-1), (value * pull).sum(-1)


def _by_unit(columns: Tensor, size: int) -> Tensor:
    """(n, P, u × size) as (n, u, P, size)."""
    return columns.reshape(*columns.shape[:2], -1, size).transpose(1, 2)


def _alone(
    passes: AnswerPasses, below: dict[int, Tensor], layer: int, grid: tuple[Tensor, Tensor], units: Tensor
) -> Tensor:
    """S of `units` by the definition to the letter: a path of its own for each candidate."""
    count, device = len(passes), passes.score.device
    alpha, weight = (part.to(device) for part in grid)
    shape = (count, len(units), len(alpha))
    prompt = torch.arange(count, device=device)[:, None, None].expand(shape).flatten()
    unit = units[None, :, None].expand(shape).reshape(-1, 1)
    _, slopes, _ = passes.gradients(prompt, alpha.expand(shape).flatten(), {**below, layer: unit})
    mean = {
        number: torch.einsum("nukpw,k->nupw", slope.reshape(*shape, *slope.shape[1:]), weight)
        for number, slope in slopes.items()
    }
    own = mean.pop(layer)
    return _joint(passes, below, layer, units, mean, own)[0]
