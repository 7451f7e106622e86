"""Rectify the jailbreak path toward its safety anchors, on policy, inside a utility budget (docs/method.md 3).

Each step draws jailbreak entries, half of them such as the model was last seen not to refuse, and a part of the retain
set, and moves the adapter alone. Every few steps the entries are mined anew against the model as it then is, and its
KL to M_0 on held-out retain prompts is measured: over the budget, the step size is halved and the last good state
comes back.

Training goes on from its last checkpoint after a kill, and then ends with the same bytes.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from jpu.checkpoint import Checkpoint, optimizer_tensors, restore_optimizers
from jpu.errors import BudgetError
from jpu.mining.entry import Entry
from jpu.models import Subject
from jpu.unlearning.anchors import Anchors
from jpu.unlearning.exposures import Exposure
from jpu.unlearning.losses import leak_loss, prefill_loss, refusal_and_anchor_loss
from jpu.unlearning.retain import ReferenceDistribution


@dataclass(frozen=True)
class Weights:
    """Weights of the losses; 0 leaves one out, with its forward pass."""

    refusal: float = 1.0
    anchor: float = 1.0
    prefill: float = 1.0
    leak: float = 0.0
    retain: float = 1.0


@dataclass(frozen=True)
class RectifySettings:
    """How to rectify.

    Attributes:
        steps: Optimiser steps.
        batch: Jailbreak entries a step.
        retain_batch: Retain pairs a step.
        prefill_batch: Entries a step with the leak's first words given.
        exposure_batch: Questions a step under an exposure.
        exposures_a_step: Exposures in a step; they take turns.
        learning_rate: Peak AdamW rate; no weight decay.
        warmup: Steps of linear warm-up.
        clip: Gradient norm bound.
        positions: Positions at which path and anchor are compared.
        refresh_every: Steps between two minings, and between two measurements of the KL.
        kl_budget: Bound on the held-out KL(M_0‖M_θ), nats per token.
        rollbacks: Roll-backs after which the run ends where it was last good.
        weights: Weights of the losses.
        exposures: Name of an exposure → weight of its loss; 0 leaves it out.
    """

    steps: int
    batch: int
    retain_batch: int
    prefill_batch: int
    exposure_batch: int
    learning_rate: float
    warmup: int = 10
    clip: float = 1.0
    positions: int = 4
    refresh_every: int = 20
    kl_budget: float = 0.05
    rollbacks: int = 4
    weights: Weights = field(default_factory=Weights)
    exposures: Mapping[str, float] = field(default_factory=dict)
    exposures_a_step: int = 1

    def rate(self, step: int, scale: float) -> float:
        """Learning rate at a step: warm-up, then linear decay to a tenth over the second half."""
        if step < self.warmup:
            return scale * self.learning_rate * (step + 1) / self.warmup
        half = self.steps / 2
        decay = 1.0 if step < half else 1.0 - 0.9 * (step - half) / max(1.0, self.steps - half)
        return scale * self.learning_rate * decay


@dataclass(frozen=True)
class Leak:
    """The answer that a behavior must not get, in tokens.

    Attributes:
        opening: Tokens before the secret (all but the last third, where the secret is not known).
        secret: The tokens that give it away.
    """

    opening: Sequence[int]
    secret: Sequence[int]


def split_leak(subject: Subject, answer: str, secret: str) -> Leak:
    """Cut an affirmative answer where its secret begins."""
    ids = subject.answer_ids(answer)
    ids = ids[: len(ids) - len(subject.answer_ids(""))]
    at = answer.find(secret) if secret else -1
    if at < 0:
        cut = len(ids) * 2 // 3
        return Leak(ids[:cut], ids[cut:])
    # The secret's first token holds the space before it, so the cut is made in the text and counted in tokens.
    opening = subject.answer_ids(answer[:at].rstrip())
    opening = opening[: len(opening) - len(subject.answer_ids(""))]
    # Where a token spans the cut, it belongs to the secret.
    shared = next((i for i, pair in enumerate(zip(opening, ids, strict=False)) if pair[0] != pair[1]), len(opening))
    return Leak(ids[:shared], ids[shared:])


@dataclass
class Rectified:
    """What a rectification did.

    Attributes:
        history: One row a step: step, loss, rate, and of refusal, anchor, prefill, leak, retain and the exposures'
            names those that were part of it.
        checks: One row a check: step, held-out KL, fresh rate, rolled back (0 or 1).
        kl: Held-out KL at the end, nats per token.
    """

    history: list[dict[str, float]]
    checks: list[dict[str, float]]
    kl: float


@dataclass(frozen=True)
class Mined:
    """The jailbreak entries of the next stretch of steps.

    Attributes:
        live: Those that the model did not refuse when it was last asked (now, or at an earlier mining).
        scored: All that were scored in this round, the live ones among them.
        fresh_rate: Share of the fresh pairs that got through now.
    """

    live: Sequence[Entry]
    scored: Sequence[Entry]
    fresh_rate: float

    def draw(self, size: int, rng: random.Random) -> list[Entry]:
        """A batch: up to half of it live, the rest of all that was scored, or few live ones would be all it sees."""
        live = rng.sample(self.live, min(size // 2, len(self.live)))
        return live + rng.sample(self.scored, min(size - len(live), len(self.scored)))


# Mines against the model as it is; given the number of the stretch.
Refresh = Callable[[int], Mined]


class Rectifier:
    """One rectification of one subject.

    Args:
        subject: M_θ with its adapter; only parameters that require a gradient move.
        anchors: Safety anchors, refusals of each behavior included.
        neurons: Layer → path neurons.
        leaks: Behavior id → its leak.
        retain: M_0 on the retain set that is trained on.
        held_out: M_0 on the retain set that the budget is measured on.
        exposures: Other ways to the restricted questions; those without a weight are left out.
        settings: Steps, rates, weights, budget.
        seed: Seed of every draw.
    """

    def __init__(
        self,
        subject: Subject,
        anchors: Anchors,
        neurons: Mapping[int, Sequence[int]],
        leaks: Mapping[str, Leak],
        retain: ReferenceDistribution,
        held_out: ReferenceDistribution,
        exposures: Sequence[Exposure],
        settings: RectifySettings,
        seed: str,
    ) -> None:
        self.subject, self.anchors, self.neurons, self.leaks = subject, anchors, neurons, leaks
        self.retain, self.held_out, self.settings, self.seed = retain, held_out, settings, seed
        self.exposures = [x for x in exposures if settings.exposures.get(x.name, 0.0) > 0]
        self.parameters = {n: p for n, p in subject.model.named_parameters() if p.requires_grad}
        self.optimizer = self._fresh_optimizer()

    def run(
        self,
        refresh: Refresh,
        checkpoint: Checkpoint | None = None,
        carry: Callable[[], Any] | None = None,
        restore: Callable[[Any], None] | None = None,
        progress: Callable[[int, int, dict[str, float]], None] | None = None,
    ) -> Rectified:
        """Train.

        Args:
            refresh: Mines the entries of the next stretch of steps against the model as it is.
            checkpoint: Where to keep the state after each stretch.
            carry: JSON state of the caller to keep with a checkpoint (the buffer).
            restore: Takes that state back.
            progress: Called with step, steps and the step's losses.

        Raises:
            BudgetError: The utility budget was overrun before a single stretch of steps had kept it.
        """
        settings = self.settings
        done = Rectified([], [], 0.0)
        step, scale, rolled = 0, 1.0, 0
        good = self._weights()
        loaded = checkpoint.load(f"model.{n}" for n in self.parameters) if checkpoint else None
        if loaded is not None:
            tensors, state = loaded
            self._set_weights({n: tensors[f"model.{n}"] for n in self.parameters})
            good = self._weights()
            restore_optimizers(tensors, self.optimizer)
            done.history, done.checks = state["history"], state["checks"]
            step, scale, rolled = int(state["step"]), float(state["scale"]), int(state["rolled"])
            done.kl = float(state["kl"])
            if restore is not None:
                restore(state["carry"])
        while step < settings.steps and rolled <= settings.rollbacks:
            mined = refresh(len(done.checks))
            for exposure in self.exposures:
                exposure.begin(random.Random(f"{self.seed}-{exposure.name}-{step}-{scale}"))
            stop = min(step + settings.refresh_every, settings.steps)
            stretch = []
            for at in range(step, stop):
                stretch.append(self._step(at, scale, mined))
                if progress is not None:
                    progress(at + 1, settings.steps, stretch[-1])
            kl = self.measure()
            over = kl > settings.kl_budget
            done.checks.append({"step": stop, "kl": kl, "fresh_rate": mined.fresh_rate, "rolled_back": float(over)})
            if over:
                self._set_weights(good)
                self.optimizer = self._fresh_optimizer()
                scale, rolled = scale / 2, rolled + 1
            else:
                good, step, done.kl = self._weights(), stop, kl
                done.history += stretch
            if checkpoint is not None:
                tensors = {f"model.{n}": w for n, w in self._weights().items()}
                state = {"step": step, "scale": scale, "rolled": rolled, "kl": done.kl}
                state |= {"history": done.history, "checks": done.checks, "carry": carry() if carry else None}
                checkpoint.save({**tensors, **optimizer_tensors(self.optimizer)}, state)
        if step == 0:
            raise BudgetError(
                f"the utility budget ({settings.kl_budget} nats per token) was overrun {rolled} times at the first "
                f"check, down to {scale:g} of the learning rate",
                mend="Lower unlearning.learning_rate or raise unlearning.kl_budget in params.yaml.",
            )
        return done

    def measure(self) -> float:
        """Held-out KL(M_0‖M_θ), nats per answer token."""
        kl = self.held_out.mean_kl(self.subject)
        # Weights that are no numbers any more are as far away as can be; JSON knows no infinity.
        return kl if math.isfinite(kl) else sys.float_info.max

    def _step(self, step: int, scale: float, mined: Mined) -> dict[str, float]:
        settings = self.settings
        rng = random.Random(f"{self.seed}-step-{step}-{scale}")
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate(step, scale)
        self.optimizer.zero_grad(set_to_none=True)
        row = {"step": float(step + 1), "rate": settings.rate(step, scale)}
        total = 0.0
        # Each forward pass is backpropagated by itself: the graphs need not be in memory together.
        for parts in self._passes(step, rng, mined):
            loss = torch.stack([weight * part for weight, part in parts.values()]).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
            row |= {name: float(part.detach()) for name, (_, part) in parts.items()}
        torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), settings.clip)
        self.optimizer.step()
        return {**row, "loss": total}

    def _passes(self, step: int, rng: random.Random, mined: Mined) -> Iterator[dict[str, tuple[float, Tensor]]]:
        """The losses of one step by name, with their weights; those of one forward pass together."""
        settings, weights = self.settings, self.settings.weights
        if mined.scored:
            drawn = mined.draw(settings.batch, rng)
            refusal, anchor = refusal_and_anchor_loss(
                self.subject,
                [e.prompt for e in drawn],
                [e.behavior for e in drawn],
                self.anchors,
                self.neurons,
                settings.positions,
            )
            yield {"refusal": (weights.refusal, refusal), "anchor": (weights.anchor, anchor)}
            del refusal, anchor
        if mined.scored and settings.prefill_batch and (weights.prefill or weights.leak):
            drawn = mined.draw(settings.prefill_batch, rng)
            prompts, leaks = [e.prompt for e in drawn], [self.leaks[e.behavior] for e in drawn]
            if weights.prefill:
                cuts = [self._cut(rng, leak) for leak in leaks]
                refusals = [self.anchors.refusals[e.behavior] for e in drawn]
                yield {"prefill": (weights.prefill, prefill_loss(self.subject, prompts, cuts, refusals))}
            if weights.leak:
                openings, secrets = [leak.opening for leak in leaks], [leak.secret for leak in leaks]
                yield {"leak": (weights.leak, leak_loss(self.subject, prompts, openings, secrets))}
        if self.exposures and settings.exposure_batch:
            turns = min(settings.exposures_a_step, len(self.exposures))
            for turn in range(step * turns, (step + 1) * turns):
                exposure = self.exposures[turn % len(self.exposures)]
                yield {exposure.name: (settings.exposures[exposure.name], exposure.loss(settings.exposure_batch, rng))}
        if weights.retain and self.retain.rows:
            size = len(self.retain.rows)
            chosen = rng.sample(range(size), min(settings.retain_batch, size))
            yield {"retain": (weights.retain, self.retain.kl(self.subject, chosen))}

    def _cut(self, rng: random.Random, leak: Leak) -> Sequence[int]:
        """The leak's first tokens: often all of its opening, else fewer, or some of the secret as well."""
        whole = [*leak.opening, *leak.secret]
        if rng.random() < 0.5:
            return leak.opening
        return whole[: rng.randint(1, max(1, len(whole) - 1))]

    def _fresh_optimizer(self) -> torch.optim.AdamW:
        rate = self.settings.learning_rate
        return torch.optim.AdamW(self.parameters.values(), lr=rate, weight_decay=0.0, fused=True)

    def _weights(self) -> dict[str, Tensor]:
        return {n: p.detach().clone() for n, p in self.parameters.items()}

    @torch.no_grad()
    def _set_weights(self, weights: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(weights[name])
