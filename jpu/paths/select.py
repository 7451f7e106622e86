"""From three paths to the one that is rectified, and how alike two paths are.

- jailbreak: J → the affirmative answer, under the current model            [the paper names it, the definition is ours]
- direct harm: bare Q → the same answer, under the current model            [the same]
- safety: bare Q → the refusal, under the frozen original M_0               [the same]
- utility: benign prompts → their answers; what these need most is left out [constrained knowledge unlearning]
- contrast: J → the refusal, under the current model; what carries it too counts less       [ours]

Rectified: R_l = the k best units of the jailbreak path without the layer's utility units U_l, filled up to k from the
next best; joined with the best of the safety path where asked for. [ours]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from jpu.models import original
from jpu.paths.activations import Kind
from jpu.paths.igi import PathScores, best
from jpu.paths.passes import Exchanges
from jpu.paths.path import Path, Units
from jpu.paths.selectors import Search, select


@dataclass(frozen=True)
class Samples:
    """The exchanges that each path is read from; a path without exchanges is not searched."""

    jailbreak: Exchanges
    direct: Exchanges | None = None
    safety: Exchanges | None = None
    utility: Exchanges | None = None
    contrast: Exchanges | None = None


@dataclass(frozen=True)
class Identified:
    """The path to rectify and what it was chosen from.

    Attributes:
        path: Neurons and heads, with the scores of every path that was searched: ``layer.{l}`` and ``heads.{l}`` of the
            jailbreak path, ``direct.{l}``, ``direct_heads.{l}`` and so on of the others.
        neurons: Path name → scores of the neurons.
        heads: Path name → scores of the heads; empty when none were asked for.
    """

    path: Path
    neurons: dict[str, PathScores]
    heads: dict[str, PathScores]


@dataclass(frozen=True)
class Overlap:
    """How alike two paths are in one layer.

    Attributes:
        layer: Its number.
        jaccard: Of the chosen units.
        chance: The Jaccard that two random choices of these sizes have, to first order.
        cosine: Of the attributions of all units.
    """

    layer: int
    jaccard: float
    chance: float
    cosine: float


def identify(
    model: nn.Module,
    samples: Samples,
    search: Search,
    *,
    safety_k: int = 0,
    heads: int = 0,
    exclude: float = 0.0,
    contrast: float = 0.0,
) -> Identified:
    """Search the paths and choose what is rectified.

    Args:
        model: The current model M_t; M_0 is the same with its adapter disabled.
        samples: What each path is read from.
        search: How; ``search.k`` neurons of each layer come from the jailbreak path.
        safety_k: Neurons of each layer that come from the safety path.
        heads: Heads of each layer that come from the jailbreak path.
        exclude: Fraction of a layer's units, the first in utility, that are not chosen from the jailbreak path.
        contrast: Weight by which the scores of the refusal after the same J are taken off the jailbreak path's.

    Raises:
        SettingsError: There is no such selector.
        ModelError: The model is not Llama-like.
    """
    neurons = _search(model, samples, search, "neurons") if search.k or safety_k else {}
    # For heads the definition's limit costs no more than a reading of it.
    of_heads = replace(search, k=heads, candidates="limit", refine=0)
    found_heads = _search(model, samples, of_heads, "heads") if heads else {}
    scores = _named(neurons, "") | _named(found_heads, "_heads")
    chosen = rectified(contrasted(neurons, contrast), search.k, neurons.get("utility"), exclude) if neurons else {}
    chosen_heads = (
        rectified(contrasted(found_heads, contrast), heads, found_heads.get("utility"), exclude) if heads else {}
    )
    path = Path(chosen, chosen_heads, scores)
    if safety_k and "safety" in neurons:
        path = path.union(Path(rectified(neurons["safety"], safety_k, taken=chosen)))
    return Identified(path, neurons, found_heads)


def rectified(
    scores: PathScores,
    k: int,
    utility: PathScores | None = None,
    exclude: float = 0.0,
    *,
    taken: Units | None = None,
) -> dict[int, list[int]]:
    """R_l of each layer: its k best units, less those that may not be chosen, filled up from the next best.

    Args:
        scores: What to choose by.
        k: Units of each layer.
        utility: Scores of what benign answers need.
        exclude: Fraction of the layer's units, the first in `utility`, to leave out (fewer where k would not be left).
        taken: Units chosen already, so that paths joined at a given k have the same size whatever they share.
    """
    chosen = {}
    for layer, mean in enumerate(scores.scores):
        allowed = mean.clone()
        if utility is not None:
            barred = best(utility.scores[layer], max(0, min(round(exclude * len(mean)), len(mean) - k)))
            allowed[barred] = -1.0
        if taken is not None:
            allowed[list(taken.get(layer, ()))] = -2.0
        chosen[layer] = best(allowed, k)
    return chosen


def contrasted(found: Mapping[str, PathScores], weight: float) -> PathScores:
    """The jailbreak path's scores, and as much more as a unit stands low in what carries the refusal.

    Scores are ranks in [0, 1]; s + w (1 − s') orders units as s − w s' does, and stays above what bars a unit.
    """
    scores = found["jailbreak"]
    if not weight or "contrast" not in found:
        return scores
    pairs = zip(scores.scores, found["contrast"].scores, strict=True)
    return replace(scores, scores=[leak + weight * (1.0 - refusal) for leak, refusal in pairs])


def overlap(first: PathScores, second: PathScores) -> list[Overlap]:
    """Jaccard and cosine of two paths over the same units, layer by layer."""
    found = []
    for layer, (ours, theirs) in enumerate(zip(first.chosen, second.chosen, strict=True)):
        units = len(first.scores[layer])
        both, either = len(set(ours) & set(theirs)), len(set(ours) | set(theirs))
        expected = len(ours) * len(theirs) / units
        chance = expected / max(len(ours) + len(theirs) - expected, 1e-12)
        cosine = torch.cosine_similarity(first.attribution[layer], second.attribution[layer], dim=0)
        found.append(Overlap(layer, both / either if either else 0.0, chance, float(cosine)))
    return found


def _search(model: nn.Module, samples: Samples, search: Search, kind: Kind) -> dict[str, PathScores]:
    # Half and twice the steps tell whether so many are enough; asked of the path that is rectified only.
    found = {
        "jailbreak": select(
            model, samples.jailbreak, replace(search, check=(max(1, search.steps // 2), 2 * search.steps)), kind
        )
    }
    for name in ("direct", "utility", "contrast"):
        exchanges: Exchanges | None = getattr(samples, name)
        if exchanges is not None:
            found[name] = select(model, exchanges, search, kind)
    if samples.safety is not None:
        with original(model):
            found["safety"] = select(model, samples.safety, search, kind)
    return found


def _named(found: dict[str, PathScores], suffix: str) -> dict[str, Tensor]:
    """Scores under the names that they are saved by."""
    plain = {"": "layer", "_heads": "heads"}[suffix]
    return {
        f"{plain if name == 'jailbreak' else name + suffix}.{layer}": scores
        for name, paths in found.items()
        for layer, scores in enumerate(paths.scores)
    }
