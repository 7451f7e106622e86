"""Where a jailbreak's path meets that of direct harm, layer by layer (analysis 2).

The paper's second finding [P]: jailbreak paths differ from case to case and converge with direct-harm paths toward
the last layers. A path is what `jpu.paths.igi` finds in a set of prompts; two are compared in each layer by the
Jaccard index of their k chosen units and by the cosine of their attributions. [C: both measures; O: paths of a
template family]

Both prompts lead to the same answer, so their paths have to meet where that answer is written, whatever is in
between. What is plotted is therefore the excess over controls [O]: benign questions, wrapped against bare, which
share an answer as well; pairs of different behaviors; and k units drawn at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb

import torch
from torch import Tensor, nn

from jpu.analysis.resampling import Draws
from jpu.paths.igi import ranks, unit_length
from jpu.paths.passes import Exchanges
from jpu.paths.selectors import Search, igi


@dataclass(frozen=True)
class SampledPath:
    """A path with what each prompt had to say to it.

    Attributes:
        joint: Per layer (n, units): S_j of each prompt, given what was chosen below.
        attribution: Per layer (n, units): what each unit adds, scaled to length 1 a prompt.
        chosen: Per layer, the k units that all prompts together chose.
        names: Behavior of each prompt.
    """

    joint: list[Tensor]
    attribution: list[Tensor]
    chosen: list[list[int]]
    names: Sequence[str]


def sampled_path(model: nn.Module, exchanges: Exchanges, names: Sequence[str], search: Search) -> SampledPath:
    """The path of `jpu.paths.igi`, with the scores of each prompt kept.

    Args:
        model: Llama-like model, run as it stands.
        exchanges: Prompts and answers.
        names: Behavior of each prompt.
        search: k, steps, positions and reading of the candidates. Nothing is refined: the chosen units are those of the
            best mean rank, in the sample as in every resample.

    Raises:
        ModelError: The model is not Llama-like.
    """
    joint: list[Tensor] = []
    attribution: list[Tensor] = []

    def seen(scores: Tensor, base: Tensor) -> None:
        joint.append(scores.cpu())
        attribution.append(unit_length(scores - base[:, None]).cpu())

    found = igi(model, exchanges, replace(search, refine=0, check=()), "neurons", seen)
    return SampledPath(joint, attribution, found.chosen, list(names))


@dataclass(frozen=True)
class Agreement:
    """How alike two paths are in one layer, in the sample (first) and in every resample of its behaviors.

    Attributes:
        jaccard: (R + 1,) of the chosen units.
        cosine: (R + 1,) of the attributions.
        chance: Mean Jaccard of two random choices of k units.
    """

    jaccard: Tensor
    cosine: Tensor
    chance: float


def agreements(first: SampledPath, second: SampledPath, draws: Draws, k: int) -> list[Agreement]:
    """How alike two paths are, layer by layer. Units chosen in lower layers stay as they are in a resample.

    Args:
        first: A path.
        second: Another, of the same model's units.
        draws: Resamples; they have the names of both.
        k: Units of each layer.
    """
    weights = [draws.weights(path.names) for path in (first, second)]
    found = []
    for layer, scores in enumerate(first.joint):
        units = scores.shape[1]
        masks, sums = [], []
        for path, weight in zip((first, second), weights, strict=True):
            means = weight @ ranks(path.joint[layer])
            masks.append(_chosen(means, k))
            sums.append(weight @ path.attribution[layer])
        both, either = (masks[0] & masks[1]).sum(1), (masks[0] | masks[1]).sum(1)
        found.append(
            Agreement(
                both / either.clamp_min(1),
                torch.cosine_similarity(sums[0], sums[1], dim=1),
                chance_jaccard(units, k, k),
            )
        )
    return found


def reliability(path: SampledPath, draws: Draws, k: int) -> list[Tensor]:
    """How far a path agrees with itself: Jaccard of the k units that either half of its behaviors chooses.

    No two paths can be expected to agree more than that. Halves are every other behavior, in the order of their names.

    Args:
        path: A path of at least two behaviors.
        draws: Resamples; they have its names.
        k: Units of each layer.

    Returns:
        For each layer (R + 1,).
    """
    first = set(sorted(set(path.names))[::2])
    halves = [[i for i, name in enumerate(path.names) if (name in first) is side] for side in (True, False)]
    weights = [draws.weights([path.names[i] for i in half]) for half in halves]
    found = []
    for joint in path.joint:
        ranked = ranks(joint)
        a, b = (_chosen(weight @ ranked[half], k) for weight, half in zip(weights, halves, strict=True))
        found.append((a & b).sum(1) / (a | b).sum(1).clamp_min(1))
    return found


@dataclass(frozen=True)
class Pairing:
    """Jaccard of single prompts' paths in one layer: of prompts about one behavior, and of different ones.

    Attributes:
        paired: (R + 1,) mean over behaviors of prompts about the same behavior.
        shuffled: (R + 1,) mean over all pairs of prompts about different ones.
    """

    paired: Tensor
    shuffled: Tensor


def pairings(first: SampledPath, second: SampledPath, draws: Draws, k: int) -> list[Pairing]:
    """Each prompt's own k units against those of the other path's prompts, exactly over all pairs; layer by layer.

    Args:
        first: A path.
        second: Another; `second.names` are among `first.names`.
        draws: Resamples of the behaviors of both.
        k: Units of each layer.
    """
    same = torch.tensor([[a == b for b in second.names] for a in first.names])
    weights = [draws.weights(path.names) for path in (first, second)]
    found = []
    for ours, theirs in zip(first.joint, second.joint, strict=True):
        a, b = _chosen(ours, k).float(), _chosen(theirs, k).float()
        both = a @ b.T
        jaccard = both / (a.sum(1)[:, None] + b.sum(1)[None] - both).clamp_min(1)
        found.append(Pairing(*(_mean_over(jaccard, pairs, weights) for pairs in (same, ~same))))
    return found


def chance_jaccard(units: int, first: int, second: int) -> float:
    """Mean Jaccard index of two independent random choices of so many units: over the hypergeometric distribution."""
    if not first or not second:
        return 0.0
    ways = comb(units, second)
    shared = range(max(0, first + second - units), min(first, second) + 1)
    return sum(comb(first, s) * comb(units - first, second - s) / ways * s / (first + second - s) for s in shared)


def _chosen(scores: Tensor, k: int) -> Tensor:
    """(rows, units) bool: the k highest of each row, ties to the lower index, as `best` breaks them."""
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, order, True)


def _mean_over(values: Tensor, pairs: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Mean of (n, m) values over some pairs, each weighed by how often both of its behaviors were drawn: (R + 1,)."""
    weighed = torch.einsum("rn,rm,nm->r", weights[0], weights[1], values * pairs)
    total = torch.einsum("rn,rm,nm->r", weights[0], weights[1], pairs.float())
    return weighed / total.clamp_min(torch.finfo(torch.float32).tiny)
