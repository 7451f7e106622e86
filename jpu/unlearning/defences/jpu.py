"""JPU: jailbreak path unlearning (arXiv 2601.03005); docs/method.md 3 has its losses and what is whose.

    L = w_ref · L_ref + w_rect · L_rect + w_pre · L_prefill + w_leak · L_leak
        + w_re · L_re + w_x(t) · L_x(t) + w_ret · KL(M_0‖M_θ)

Refusals and anchors after mined jailbreaks, refusals after the leak's first words, the leak's unlikelihood, refusals
under simulated fine-tunings and under exposures that take turns, and M_0's word on the retain set.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from jpu.unlearning.anchors import Anchors, centred, directed, scattered
from jpu.unlearning.defences.base import Defence, Losses, Materials, Step
from jpu.unlearning.defences.settings import JpuSettings
from jpu.unlearning.leaks import broken_off
from jpu.unlearning.losses import leak_loss, prefill_loss, refusal_and_anchor_loss
from jpu.unlearning.mined import Mined
from jpu.unlearning.path_only import path_only
from jpu.unlearning.relearning import Relearning
from jpu.unlearning.trained import Trained


class JPU(Defence[JpuSettings]):
    """Rectification of the jailbreak path toward its safety anchors."""

    name = "jpu"
    cite = "arXiv 2601.03005"
    needs = frozenset({"leaks", "anchors", "exposures"})

    def __init__(self, materials: Materials, settings: JpuSettings) -> None:
        super().__init__(materials, settings)
        if materials.anchors is None:
            raise ValueError("JPU needs anchors")
        self.anchors = self._steered(materials.anchors)
        self.exposures = [x for x in materials.exposures if settings.exposures.get(x.name, 0.0) > 0]
        self.relearning: Relearning | None = None
        if settings.weights.relearned:
            # Every exposure has the same questions, whether it is trained on or not.
            asked = materials.exposures[0].asked if materials.exposures else []
            self.relearning = Relearning(self.subject, asked, materials.refusals)

    @classmethod
    def trained(cls, layers: int, settings: JpuSettings) -> Trained:
        """The path, and attention beside it (docs/decisions.md)."""
        del layers, settings
        return Trained(path=True, modules="attention", rank=16)

    def begin(self, mined: Mined, stream: Callable[[str], random.Random]) -> None:
        """Make the exposures and the fine-tunings anew from the model as it is."""
        del mined
        for exposure in self.exposures:
            exposure.begin(stream(exposure.name))
        if self.relearning:
            self.relearning.begin(stream("relearned"))

    def passes(self, step: Step) -> Iterator[Losses]:
        """As `Defence.passes`: jailbreaks, broken-off answers, fine-tunings, exposures, and the retain term."""
        settings, weights, mined, rng = self.settings, self.settings.weights, step.mined, step.rng
        if mined.scored:
            drawn = mined.draw(self.materials.batch, rng)
            refusal, anchor = refusal_and_anchor_loss(
                self.subject,
                [e.prompt for e in drawn],
                [e.behavior for e in drawn],
                self.anchors,
                self.materials.neurons,
                settings.positions,
            )
            yield {"refusal": (weights.refusal, refusal), "anchor": (weights.anchor, anchor)}
            del refusal, anchor
        if mined.scored and settings.prefill_batch and (weights.prefill or weights.leak):
            drawn = mined.draw(settings.prefill_batch, rng)
            prompts, leaks = [e.prompt for e in drawn], [self.materials.leaks[e.behavior] for e in drawn]
            if weights.prefill:
                cuts = [broken_off(leak, rng) for leak in leaks]
                refusals = [self.materials.refusals[e.behavior] for e in drawn]
                yield {"prefill": (weights.prefill, prefill_loss(self.subject, prompts, cuts, refusals))}
            if weights.leak:
                openings, secrets = [leak.opening for leak in leaks], [leak.secret for leak in leaks]
                with path_only(self.subject.model, settings.leak_scope == "path"):
                    leak = leak_loss(self.subject, prompts, openings, secrets)
                yield {"leak": (weights.leak, leak)}
        if self.relearning:
            yield {"relearned": (weights.relearned, self.relearning.loss(mined, self.materials.batch, rng))}
        if self.exposures and settings.exposure_batch:
            turns = min(settings.exposures_a_step, len(self.exposures))
            for turn in range(step.number * turns, (step.number + 1) * turns):
                exposure = self.exposures[turn % len(self.exposures)]
                yield {exposure.name: (settings.exposures[exposure.name], exposure.loss(settings.exposure_batch, rng))}
        yield from self.retained(step, weights.retain)

    def _steered(self, anchors: Anchors) -> Anchors:
        """The anchors that the settings ask for."""
        if self.settings.anchor == "centroid":
            return centred(anchors)
        if self.settings.anchor == "random":
            return scattered(anchors, self.materials.seed)
        if self.settings.anchor == "direction":
            retain = self.materials.retain
            bare = [
                (pair.kind, head) for pair, (head, _) in zip(retain.pairs, retain.rows, strict=True) if not pair.wrapped
            ]
            refused = [head for kind, head in bare if kind == "restricted"]
            answered = [head for kind, head in bare if kind in ("benign", "near_miss")]
            return directed(anchors, self.subject, refused, answered, self.materials.neurons)
        return anchors
