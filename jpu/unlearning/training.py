"""The loop that trains a defence, the same for all: mine → steps → utility budget with roll-back → checkpoint.

Each step takes a defence's losses by name and moves what is trained of the subject. Every few steps the entries are
mined anew against the model as it then is, and its KL to M_0 on held-out retain prompts is measured: over the budget,
the step size is halved and the last good state comes back.

Training goes on from its last checkpoint after a kill, and then ends with the same bytes.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from jpu.checkpoint import Checkpoint, optimizer_tensors, restore_optimizers
from jpu.errors import BudgetError
from jpu.models import Subject, recomputed
from jpu.paths.path import Path
from jpu.processes import ALONE, Processes
from jpu.unlearning.conflict import Conflict, joined
from jpu.unlearning.defences.base import RETAIN, Defence, Step
from jpu.unlearning.mined import Mined, Refresh
from jpu.unlearning.retain import ReferenceDistribution


@dataclass(frozen=True)
class Schedule:
    """How long, how fast and how far.

    Attributes:
        steps: Optimiser steps.
        learning_rate: Peak AdamW rate; no weight decay.
        warmup: Steps of linear warm-up.
        clip: Gradient norm bound.
        refresh_every: Steps between two minings, and between two measurements of the KL.
        kl_budget: Bound on the held-out KL(M_0‖M_θ), nats per token; None for none.
        rollbacks: Roll-backs after which the run ends where it was last good.
        conflict: What is done where the safety gradient and the retain gradient are at odds.
        gradient_checkpointing: Whether a layer's activations are computed again for the backward pass
            (`jpu.models.recompute`): a third slower, and a model fits that else would not.
    """

    steps: int
    learning_rate: float
    warmup: int = 10
    clip: float = 1.0
    refresh_every: int = 20
    kl_budget: float | None = 0.05
    rollbacks: int = 4
    conflict: Conflict = "none"
    gradient_checkpointing: bool = False

    def rate(self, step: int, scale: float) -> float:
        """Learning rate at a step: warm-up, then linear decay to a tenth over the second half."""
        if step < self.warmup:
            return scale * self.learning_rate * (step + 1) / self.warmup
        half = self.steps / 2
        decay = 1.0 if step < half else 1.0 - 0.9 * (step - half) / max(1.0, self.steps - half)
        return scale * self.learning_rate * decay

    def overrun(self, kl: float) -> bool:
        """Whether a KL is over the budget; weights that are no numbers are over every one."""
        return kl >= sys.float_info.max or (self.kl_budget is not None and kl > self.kl_budget)


@dataclass
class Outcome:
    """What a training did.

    Attributes:
        history: One row a step: step, loss, rate, and of the defence's losses those that were part of it.
        checks: One row a check: step, held-out KL, fresh rate, rolled back (0 or 1).
        kl: Held-out KL at the end, nats per token.
    """

    history: list[dict[str, float]]
    checks: list[dict[str, float]]
    kl: float


class Pathfinder(Protocol):
    """Finds the path anew while a training goes on."""

    def find(self, mined: Mined, number: int) -> Path:
        """The path of the model as it is, for the stretch of this number."""

    def adopt(self, path: Path) -> Defence[Any]:
        """Join a path to what the subject trains, which changes nothing of what it computes; the defence on both."""


class Training:
    """One training of one subject by one defence.

    Args:
        subject: M_θ with its adapter; only parameters that require a gradient move.
        defence: What is minimised.
        held_out: M_0 on the retain set that the budget is measured on.
        schedule: Steps, rates, budget.
        seed: Seed of every draw.
        pathfinder: Finds the path anew at each stretch but the first; None for the path that there is.
        processes: Those that share the work; each runs this same training.
    """

    def __init__(
        self,
        subject: Subject,
        defence: Defence[Any],
        held_out: ReferenceDistribution,
        schedule: Schedule,
        seed: str,
        pathfinder: Pathfinder | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.subject, self.defence, self.held_out = subject, defence, held_out
        self.schedule, self.seed, self.pathfinder, self.processes = schedule, seed, pathfinder, processes
        # What was found on the way.
        self.path = Path()
        self.parameters = self._trained()
        self.optimizer = self._fresh_optimizer()

    def run(
        self,
        refresh: Refresh,
        checkpoint: Checkpoint | None = None,
        carry: Callable[[], Any] | None = None,
        restore: Callable[[Any], None] | None = None,
        progress: Callable[[int, int, dict[str, float]], None] | None = None,
    ) -> Outcome:
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
        schedule = self.schedule
        done = Outcome([], [], 0.0)
        step, scale, rolled = 0, 1.0, 0
        good = self._weights()
        loaded = checkpoint.load(f"model.{n}" for n in self.parameters) if checkpoint else None
        if loaded is not None:
            tensors, state = loaded
            neurons, heads = ({int(layer): units for layer, units in part.items()} for part in state["path"])
            self._adopt(Path(neurons, heads))
            self._set_weights({n: tensors[f"model.{n}"] for n in self.parameters})
            good = self._weights()
            restore_optimizers(tensors, self.optimizer)
            done.history, done.checks = state["history"], state["checks"]
            step, scale, rolled = int(state["step"]), float(state["scale"]), int(state["rolled"])
            done.kl = float(state["kl"])
            if restore is not None:
                restore(state["carry"])
        while step < schedule.steps and rolled <= schedule.rollbacks:
            self.processes.same(self.parameters.values())
            mined = refresh(len(done.checks))
            if self.pathfinder is not None and done.checks:
                self._adopt(self.pathfinder.find(mined, len(done.checks)))
                good = self._weights()
            self._begin(step, scale, mined)
            stop = min(step + schedule.refresh_every, schedule.steps)
            stretch = []
            for at in range(step, stop):
                stretch.append(self._step(at, scale, mined))
                if progress is not None:
                    progress(at + 1, schedule.steps, stretch[-1])
            kl = self.measure()
            over = schedule.overrun(kl)
            done.checks.append({"step": stop, "kl": kl, "fresh_rate": mined.fresh_rate, "rolled_back": float(over)})
            if over:
                self._set_weights(good)
                self.optimizer = self._fresh_optimizer()
                scale, rolled = scale / 2, rolled + 1
            else:
                good, step, done.kl = self._weights(), stop, kl
                done.history += stretch
            if checkpoint is not None and self.processes.main:
                tensors = {f"model.{n}": w for n, w in self._weights().items()}
                state = {"step": step, "scale": scale, "rolled": rolled, "kl": done.kl}
                state |= {"path": [{str(k): v for k, v in u.items()} for u in (self.path.neurons, self.path.heads)]}
                state |= {"history": done.history, "checks": done.checks, "carry": carry() if carry else None}
                checkpoint.save({**tensors, **optimizer_tensors(self.optimizer)}, state)
        if step == 0:
            raise BudgetError(
                f"the utility budget ({schedule.kl_budget} nats per token) was overrun {rolled} times at the first "
                f"check, down to {scale:g} of the learning rate",
                mend="Lower unlearning.learning_rate or raise unlearning.kl_budget in params.yaml.",
            )
        return done

    def measure(self) -> float:
        """Held-out KL(M_0‖M_θ), nats per answer token."""
        kl = self.held_out.mean_kl(self.subject)
        # Weights that are no numbers any more are as far away as can be; JSON knows no infinity.
        return kl if math.isfinite(kl) else sys.float_info.max

    def _adopt(self, path: Path) -> None:
        """Train a path's units too, from now on; the optimiser begins anew where there are new ones."""
        union = self.path.union(path)
        if self.pathfinder is not None and union != self.path:
            self.path, self.defence = union, self.pathfinder.adopt(union)
            self.parameters = self._trained()
            self.optimizer = self._fresh_optimizer()

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return {n: p for n, p in self.subject.model.named_parameters() if p.requires_grad}

    def _begin(self, step: int, scale: float, mined: Mined) -> None:
        """Make the defence ready for a stretch; each of its parts draws from a stream of its own."""
        self.defence.begin(mined, lambda name: random.Random(f"{self.seed}-{name}-{step}-{scale}"))

    def _step(self, step: int, scale: float, mined: Mined) -> dict[str, float]:
        schedule = self.schedule
        rng = random.Random(f"{self.seed}-step-{step}-{scale}")
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.rate(step, scale)
        self.optimizer.zero_grad(set_to_none=True)
        row = {"step": float(step + 1), "rate": schedule.rate(step, scale)}
        total = 0.0
        safety: list[Tensor] | None = None
        with recomputed(self.subject.model) if schedule.gradient_checkpointing else nullcontext():
            # Each forward pass is backpropagated by itself: the graphs need not be in memory together.
            for parts in self.defence.passes(Step(step, schedule.steps, rng, mined)):
                if RETAIN in parts and schedule.conflict != "none":
                    self.processes.sum_gradients(self.parameters.values())
                    safety = self._gradients()
                    self.optimizer.zero_grad(set_to_none=True)
                loss = torch.stack([weight * part for weight, part in parts.values()]).sum()
                loss.backward()  # type: ignore[no-untyped-call]
                total += float(loss.detach())
                row |= {name: float(part.detach()) for name, (_, part) in parts.items()}
        self.processes.sum_gradients(self.parameters.values())
        if safety is not None:
            resolved = joined(safety, self._gradients(), schedule.conflict)
            for parameter, gradient in zip(self.parameters.values(), resolved, strict=True):
                parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), schedule.clip)
        self.optimizer.step()
        return {**row, "loss": total}

    def _gradients(self) -> list[Tensor]:
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters.values()]

    def _fresh_optimizer(self) -> torch.optim.AdamW:
        rate = self.schedule.learning_rate
        return torch.optim.AdamW(self.parameters.values(), lr=rate, weight_decay=0.0, fused=True)

    def _weights(self) -> dict[str, Tensor]:
        return {n: p.detach().clone() for n, p in self.parameters.items()}

    @torch.no_grad()
    def _set_weights(self, weights: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(weights[name])
