"""Going up the layers without running them again: what is chosen below stands in what enters the next layer.

A greedy step scores the units of one layer given what is chosen in the layers below, C. In each of its passes the
layers below are the same as in the step before, but for one: so what enters the layer is kept (`Standing`), and a step
runs the layers above it only. Half of all layers are run, on average, and no others are differentiated.

What is lost with the layers below are the gradients by C, of which the definition wants, for each position p, the sum

    G_p = Σ_{i∈C} ∂F/∂w_ip = Σ_{i∈C} (∂h/∂w_ip)·(∂F/∂h) = t_p · ∂F/∂h,

with h what enters the layer. t_p is a directional derivative: how h moves when all of C moves alike at p. It does not
depend on F, so it is carried up with h, one layer at a time, in forward mode (torch.autograd.forward_ad). For heads one
direction is enough, in which all of C move along their recorded values. Both are exact; docs/paths.md has the count.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from jpu.paths.activations import decoder_layers, layers_between
from jpu.paths.activations import replace as replaced
from jpu.paths.passes import AnswerPasses, constant_weights


@dataclass(frozen=True)
class Standing:
    """Where the rows of a search stand.

    Attributes:
        layer: The layer whose units are candidates.
        prompt: (R,) int64, the prompt of each row.
        alpha: (R,) the fraction at which its chosen units are held.
        entering: (R, P, d) what enters the layer; None below the first one, where it is the embedding.
        ways: (T, R, P, d) how `entering` moves when C does: for neurons T = P, way p all of C alike at position p; for
            heads T = 1, all of C along their recorded values.
        spread: Whether each prompt has a row for each fraction; before anything is chosen, one does for all.
    """

    layer: int
    prompt: Tensor
    alpha: Tensor
    entering: Tensor | None
    ways: Tensor | None

    spread: bool = False

    def over(self, alpha: Tensor) -> Standing:
        """Each prompt at each of these fractions, (m,), in the prompts' order; itself where it is spread already."""
        if self.spread:
            return self
        several = torch.arange(len(self.prompt), device=self.prompt.device).repeat_interleave(len(alpha))
        return Standing(
            self.layer,
            self.prompt[several],
            alpha.repeat(len(self.prompt)),
            None if self.entering is None else self.entering[several],
            None if self.ways is None else self.ways[:, several],
            True,
        )


def bottom(passes: AnswerPasses) -> Standing:
    """One row for each prompt, below the first layer."""
    prompt = torch.arange(len(passes), device=passes.score.device)
    return Standing(0, prompt, torch.ones_like(passes.score), None, None)


def rise(passes: AnswerPasses, standing: Standing, units: Tensor) -> Standing:
    """Run one layer with its chosen units held at their fractions, and stand on it.

    Args:
        passes: The prompts' passes.
        standing: Where the rows stand; with a row for each fraction, once something is chosen.
        units: The units chosen in this layer, (c,) int64.
    """
    layer, count = standing.layer, directions(passes)
    hidden, ways = [], []
    for part in passes.chunks(len(standing.prompt), standing.prompt.device, tokens=count):
        above, moved = _one_layer(passes, standing, part, units, layer, count)
        hidden.append(above)
        ways.append(moved)
    return replace(standing, layer=layer + 1, entering=torch.cat(hidden), ways=torch.cat(ways, 1))


@dataclass(frozen=True)
class Above:
    """What passes over the layers above found, float32.

    Attributes:
        own: Gradients of the layer's units, (Q, P, columns).
        drawn: G of C, (Q, T); 0 where nothing stands below.
    """

    own: Tensor
    drawn: Tensor


def above(passes: AnswerPasses, standing: Standing, rows: Tensor, scaled: Tensor | None) -> Above:
    """Run the layers from the one that the search stands below to the top, and differentiate F.

    Args:
        passes: The prompts' passes.
        standing: Where the search stands.
        rows: (Q,) int64, the standing row that each row of the passes starts from.
        scaled: Units of the layer, (c,) or (Q, c), to be held at their fractions and differentiated; None leaves the
            layer as it is, and differentiates by all its columns.
    """
    layer, start = standing.layer, None
    if standing.entering is not None:
        start = (standing.layer, standing.entering[rows])
    own, drawn = [], []
    for part, found in passes.slopes(
        standing.prompt[rows],
        standing.alpha[rows],
        {} if scaled is None else {layer: scaled},
        (layer,) if scaled is None else (),
        start,
    ):
        own.append(found.read[layer] if scaled is None else found.scaled[layer])
        if standing.ways is None or found.entering is None:
            drawn.append(own[-1].new_zeros(len(part), directions(passes)))
        else:
            drawn.append(torch.einsum("qpd,tqpd->qt", found.entering, standing.ways[:, rows[part]].float()))
    return Above(torch.cat(own), torch.cat(drawn))


@torch.no_grad()
def held(passes: AnswerPasses, standing: Standing, rows: Tensor, scaled: Tensor) -> Tensor:
    """F of rows (Q,) whose units `scaled` of the layer, (c,) or (Q, c), are held at their fractions; no gradient."""
    layer, scores = standing.layer, []
    for part in passes.chunks(len(rows), rows.device):
        at = rows[part]
        prompt, units = standing.prompt[at], scaled if scaled.dim() == 1 else scaled[part]
        index, values = passes.values(layer, units, prompt, standing.alpha[at])
        entering = None if standing.entering is None else standing.entering[at]
        with (
            constant_weights(passes.model),
            layers_between(passes.model, layer, None, entering),
            replaced(passes.model, {layer: (index, values)}, passes.kind),
        ):
            scores.append(passes.forward(prompt))
    return torch.cat(scores)


def directions(passes: AnswerPasses) -> int:
    """T: a way for each position for neurons, one for heads."""
    return passes.length if passes.kind == "neurons" else 1


@torch.no_grad()
def _one_layer(
    passes: AnswerPasses, standing: Standing, part: Tensor, units: Tensor, layer: int, count: int
) -> tuple[Tensor, Tensor]:
    """What leaves a layer (r, P, d), and its ways (T, r, P, d), for some rows."""
    prompt, rows = standing.prompt[part].repeat(count), len(part)
    index, values = passes.values(layer, units, prompt, standing.alpha[part].repeat(count))
    seen: list[Tensor] = []
    handle = decoder_layers(passes.model)[layer].register_forward_hook(lambda _, __, out: seen.append(out))
    try:
        with (
            constant_weights(passes.model),
            forward_ad.dual_level(),
            # The other kernels of scaled dot products know no forward mode.
            sdpa_kernel(SDPBackend.MATH),
        ):
            held = _dual(values.detach(), _own_way(passes, layer, units, prompt, rows))
            entering = None
            if standing.entering is not None and standing.ways is not None:
                entering = _dual(standing.entering[part].repeat(count, 1, 1), standing.ways[:, part].flatten(0, 1))
            with (
                layers_between(passes.model, layer, layer, entering),
                replaced(passes.model, {layer: (index, held)}, passes.kind) if len(units) else nullcontext(),
            ):
                passes.trunk(prompt)
            out = forward_ad.unpack_dual(seen[0])  # type: ignore[no-untyped-call]
            moved = torch.zeros_like(out.primal) if out.tangent is None else out.tangent.clone()
            return out.primal[:rows].clone(), moved.unflatten(0, (count, rows))
    finally:
        handle.remove()


def _dual(value: Tensor, way: Tensor) -> Tensor:
    """A value and how it moves."""
    both: Tensor = forward_ad.make_dual(value, way)  # type: ignore[no-untyped-call]
    return both


def _own_way(passes: AnswerPasses, layer: int, units: Tensor, prompt: Tensor, rows: int) -> Tensor:
    """How the chosen units themselves move, (T × r, P, c)."""
    if passes.kind == "heads":
        return passes.recorded(layer, units)[prompt]
    way = torch.eye(passes.length, device=prompt.device).repeat_interleave(rows, 0)
    return way[..., None].expand(-1, -1, len(units)).contiguous()
