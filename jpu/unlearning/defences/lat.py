"""Targeted latent adversarial training: refuse even where the residual stream was pushed toward the leak.

    δ* = argmin_{‖δ‖≤ε} −log π(y_leak | J, δ) − log(1 − π(y_ref | J, δ))
    L  = −log π_θ(y_ref | J, δ*) − log(1 − π_θ(y_leak | J, δ*)) + retain

Sheshadri et al., 2024, arXiv 2407.15549, eq. 1 to 3: δ is added to the tokens' vectors and to the stream behind layers
8, 16, 24 and 30 of 32 at the prompt's tokens, each token's within a ball, and found by 16 steps of projected gradient
descent. The retain term has a fifth of the others' weight, and a LoRA of rank 64 is trained, as in the authors' code.

faithful: both losses, where δ is, the projection. inferred: a radius in mean lengths of the stream, where the paper has
one in units of its model; normalised gradient steps, where its code has Adam's; one step of training for each search,
where its code has four; J mined.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from jpu.mining.entry import Entry
from jpu.models import Subject, answer_logits
from jpu.paths.passes import constant_weights
from jpu.unlearning.defences.base import Baseline, Losses, Step
from jpu.unlearning.defences.settings import LatSettings
from jpu.unlearning.streams import EMBEDDING, moved, streams
from jpu.unlearning.trained import Trained, at_depth

# A step of the search, in radii over the number of steps: far enough to cross the ball, and to settle at its edge.
_STRIDE = 2.5
Batch = tuple[Tensor, Tensor]


def toward_loss(log_p: Tensor) -> Tensor:
    """−mean log p over tokens (t,); a scalar."""
    return -log_p.mean()


def away_loss(log_p: Tensor) -> Tensor:
    """−mean log(1 − p) over tokens (t,), from their log-probabilities; a scalar, at least 0."""
    return -torch.log1p(-log_p.exp().clamp(max=1 - 1e-6)).mean()


def projected(delta: Tensor, radius: Tensor) -> Tensor:
    """Vectors (…, width) back to the ball of a radius where they have left it."""
    length = delta.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    inside: Tensor = delta * (radius / length).clamp(max=1.0)
    return inside


class Lat(Baseline[LatSettings]):
    """Refusal training under targeted perturbations of the residual stream."""

    name = "lat"
    cite = "Sheshadri et al., 2024, arXiv 2407.15549, eq. 1-3"
    needs = frozenset({"leaks"})

    @classmethod
    def trained(cls, layers: int, settings: LatSettings) -> Trained:
        """A LoRA of rank 64 on all linear matrices; the authors' code leaves the gates out."""
        del layers, settings
        return Trained(path=False, modules="linear", rank=64)

    def losses(self, drawn: Sequence[Entry], step: Step) -> Iterator[Losses]:
        """As `Baseline.losses`; the refusal and the leak of an entry see the same δ, on the prompt that they share."""
        del step
        refused, leaked = (self.subject.collate(*rows) for rows in (self.refused(drawn), self.leaked(drawn)))
        delta = self.perturbation(refused, leaked)
        toward, away = self.settings.toward, self.settings.away
        with moved(self.subject, _fitted(delta, refused[0].shape[1])):
            loss = toward_loss(_log_p(self.subject, refused))
        yield {"toward": (toward, loss)}
        if away:
            with moved(self.subject, _fitted(delta, leaked[0].shape[1])):
                loss = away_loss(_log_p(self.subject, leaked))
            yield {"away": (away, loss)}

    def perturbation(self, refused: Batch, leaked: Batch) -> dict[int, Tensor]:
        """δ* of a batch: layer → (rows, longest prompt, width), 0 off the prompts."""
        prompts = [_prompts(labels) for _, labels in (refused, leaked)]
        width = int(prompts[0].sum(1).max())
        mask = prompts[0][:, :width, None]
        layers = sorted({at_depth(depth, len(self.subject.layers)) for depth in self.settings.depths})
        layers = [EMBEDDING, *layers] if self.settings.embedding else layers
        with torch.no_grad():
            found = streams(self.subject, layers, refused[0], prompts[0])
        radii = self.settings.radius * found.norm(dim=-1).mean(-1)
        delta = {layer: torch.zeros(*mask.shape[:2], found.shape[-1], device=mask.device) for layer in layers}
        for _ in range(self.settings.searched):
            leaves = {layer: values.requires_grad_() for layer, values in delta.items()}
            with constant_weights(self.subject.model):
                with moved(self.subject, _fitted(leaves, leaked[0].shape[1])):
                    loss = toward_loss(_log_p(self.subject, leaked))
                with moved(self.subject, _fitted(leaves, refused[0].shape[1])):
                    loss = loss + away_loss(_log_p(self.subject, refused))
                slopes = torch.autograd.grad(loss, list(leaves.values()))
            for layer, slope, radius in zip(layers, slopes, radii, strict=True):
                way = slope / slope.norm(dim=-1, keepdim=True).clamp(min=1e-12)
                stride = _STRIDE * radius / self.settings.searched
                delta[layer] = projected(leaves[layer].detach() - stride * way * mask, radius)
        return delta


def _log_p(subject: Subject, batch: Batch) -> Tensor:
    """(t,) log-probability of each answer token."""
    logits, targets, _ = answer_logits(subject.model, *batch)
    return logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]


def _prompts(labels: Tensor) -> Tensor:
    """(rows, length) bool: the tokens before each answer."""
    return (labels != -100).cumsum(1) == 0


def _fitted(delta: dict[int, Tensor], length: int) -> dict[int, Tensor]:
    """The same, padded with zeros to a batch's length."""
    return {layer: nn.functional.pad(values, (0, 0, 0, length - values.shape[1])) for layer, values in delta.items()}
