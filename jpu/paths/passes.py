"""Forward and backward passes over an answer's first tokens only, many at a time, behind a cached prompt.

Interventions happen at the last prompt token and at the answer tokens after it, so keys and values of every earlier
token are the same in all passes: they are computed once, and a pass is a few tokens long. Rows (prompt × interpolation
step × candidate) go through together, a bounded number at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from jpu.errors import DataError
from jpu.models.cache import PrefixCache, PrefixLayer
from jpu.models.recompute import recomputed
from jpu.paths.activations import Kind, bare_model, capture, layers_between, replace, unit_size, watch


@dataclass(frozen=True)
class Exchanges:
    """Prompts and answers as tokens: n chat-formatted prompts, and what the model is made to say after each."""

    prompts: Sequence[Sequence[int]]
    answers: Sequence[Sequence[int]]

    def __post_init__(self) -> None:
        """Refuse what no pass can be made of.

        Raises:
            DataError: None at all, unequal numbers, a prompt under two tokens, or an empty answer.
        """
        if not self.prompts or len(self.prompts) != len(self.answers):
            raise DataError(
                f"{len(self.prompts)} prompts and {len(self.answers)} answers",
                mend="Give one answer to each prompt, and at least one.",
            )
        for row, (prompt, answer) in enumerate(zip(self.prompts, self.answers, strict=True)):
            if len(prompt) < 2 or not answer:
                raise DataError(
                    f"a prompt of {len(prompt)} and an answer of {len(answer)} tokens",
                    where=f"exchange {row}",
                    mend="A prompt needs at least two tokens, an answer at least one.",
                )


@dataclass(frozen=True)
class Slopes:
    """F of some rows and its gradients, float32.

    Attributes:
        score: F, (R,).
        scaled: Layer → gradients of its scaled columns (R, P, c × size).
        read: Layer → gradients of all its columns (R, P, width).
        entering: Gradient by what enters the first layer that was run (R, P, d); None where all were.
    """

    score: Tensor
    scaled: dict[int, Tensor]
    read: dict[int, Tensor]
    entering: Tensor | None


@contextmanager
def constant_weights(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without weight gradients inside: graphs hold activations only. Put back as it was after."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = [module for module in model.modules() if module.training]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        model.eval()
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True


class AnswerPasses:
    """F(x, y) = exp(mean log p(y_i | x, y_<i)) over the first P answer tokens, and its gradients at the units.

    Token y_i is predicted at position i: position 0 is the last prompt token, position i the i-th answer token. An
    answer shorter than P uses the positions that it has.

    Attributes:
        model: The model, as it was given.
        kind: Which units: neurons or heads.
        size: Columns of a unit.
        length: P, positions.
        activations: Recorded values of each layer, float32 (n, P, width), 0 at positions that an answer lacks.
        score: F without intervention, float32 (n,).
        rows_budget: Bound on the rows of one pass.
        rows_run: Rows that have gone through so far (one row: one prompt at one interpolation step).
    """

    def __init__(
        self,
        model: nn.Module,
        exchanges: Exchanges,
        *,
        positions: int,
        rows: int = 128,
        kind: Kind = "neurons",
        recompute: bool = False,
    ) -> None:
        """Cache the prompts and record the activations.

        Args:
            model: Llama-like model, with or without an adapter; run as it stands.
            exchanges: n prompts and answers.
            positions: P ≥ 1: the last prompt token and the first P - 1 answer tokens.
            rows: Bound on the rows of one pass.
            kind: Which units.
            recompute: Keep only what enters each layer for the backward pass (`jpu.models.recompute`).

        Raises:
            ModelError: The model is not Llama-like.
        """
        if positions < 1 or rows < 1:
            raise DataError("positions and rows must be at least 1", mend="Mend paths in params.yaml.")
        self.model = model
        self._bare = bare_model(model)
        self._recompute = recompute
        self.rows_budget = rows
        self.kind: Kind = kind
        self.size = unit_size(model, kind)
        self.rows_run = 0
        device = next(self._bare.parameters()).device
        self.length = min(positions, max(len(answer) for answer in exchanges.answers))
        self._inputs, self._targets, self._present = (t.to(device) for t in self._stack(exchanges))
        heads = [len(prompt) - 1 for prompt in exchanges.prompts]
        self._start = torch.tensor(heads, device=device)
        with torch.no_grad(), constant_weights(model):
            self._keys = self._prefix(exchanges, max(heads), device)
            recorded: list[list[Tensor]] = []
            scores = []
            for part in self.chunks(len(heads), device):
                with capture(model, kind) as found:
                    scores.append(self.forward(part))
                recorded.append([found[layer] for layer in sorted(found)])
        self.score = torch.cat(scores)
        present = self._present[..., None]
        self.activations = [torch.cat(layer).float() * present for layer in zip(*recorded, strict=True)]

    def __len__(self) -> int:
        """Number of prompts."""
        return len(self._start)

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return len(self.activations)

    @property
    def units(self) -> int:
        """Units of a layer."""
        return self.activations[0].shape[-1] // self.size

    def gradients(
        self, prompt: Tensor, alpha: Tensor, scaled: Mapping[int, Tensor], read: Sequence[int] = ()
    ) -> tuple[Tensor, dict[int, Tensor], dict[int, Tensor]]:
        """Set units to a fraction of their recorded values and differentiate F.

        Args:
            prompt: (R,) int64, the prompt of each row.
            alpha: (R,) the fraction of each row.
            scaled: Layer → units, int64 (c,) the same in all rows or (R, c). They are set to alpha × their recorded
                values and differentiated as independent inputs: a lower unit's gradient does not pass through them.
            read: Layers whose units keep the values that the network gives them, and whose gradients are wanted.

        Returns:
            F (R,); for each scaled layer the gradients of its chosen columns (R, P, c × size); for each read layer the
            gradients of all its columns (R, P, width). All float32.
        """
        found = list(self.slopes(prompt, alpha, scaled, read))
        return (
            torch.cat([part.score for _, part in found]),
            {layer: torch.cat([part.scaled[layer] for _, part in found]) for layer in scaled},
            {layer: torch.cat([part.read[layer] for _, part in found]) for layer in read},
        )

    def slopes(
        self,
        prompt: Tensor,
        alpha: Tensor,
        scaled: Mapping[int, Tensor],
        read: Sequence[int] = (),
        start: tuple[int, Tensor] | None = None,
    ) -> Iterator[tuple[Tensor, Slopes]]:
        """As `gradients`, a bounded number of rows at a time.

        Args:
            prompt: As for `gradients`.
            alpha: As for `gradients`.
            scaled: As for `gradients`.
            read: As for `gradients`.
            start: A layer, and what enters it, (R, P, d): the layers below it are not run.

        Yields:
            Numbers of some rows, and what was found for them.
        """
        layer, entering = start or (0, None)
        for part in self.chunks(len(prompt), prompt.device):
            values = {
                number: self.values(number, units if units.dim() == 1 else units[part], prompt[part], alpha[part])
                for number, units in scaled.items()
            }
            hidden = None if entering is None else entering[part].requires_grad_()
            with (
                constant_weights(self.model),
                recomputed(self.model) if self._recompute else nullcontext(),
                layers_between(self.model, layer, None, hidden) if hidden is not None else nullcontext(),
            ):
                score, found = self._differentiable(prompt[part], values, read)
                wanted = [value for _, value in values.values()] + [found[number] for number in read]
                wanted += [] if hidden is None else [hidden]
                slopes = [slope.float() for slope in torch.autograd.grad(score.sum(), wanted)] if wanted else []
            yield (
                part,
                Slopes(
                    score.detach(),
                    dict(zip(scaled, slopes, strict=False)),
                    dict(zip(read, slopes[len(scaled) :], strict=False)),
                    None if hidden is None else slopes[-1],
                ),
            )

    def recorded(self, layer: int, units: Tensor) -> Tensor:
        """Recorded values of `units` (c,), as (n, P, c × size)."""
        return self.activations[layer][..., self.columns(units)]

    def columns(self, units: Tensor) -> Tensor:
        """Columns of the site's input that belong to units (…, c), as (…, c × size)."""
        return (units[..., None] * self.size + torch.arange(self.size, device=units.device)).flatten(-2)

    def values(self, layer: int, units: Tensor, prompt: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Column index (R, c) of units, and the leaf (R, P, c) of alpha × recorded values that stands there."""
        index = self.columns(units).expand(len(prompt), -1)
        position = torch.arange(self.length, device=prompt.device)[:, None]
        recorded = self.activations[layer][prompt[:, None, None], position, index[:, None, :]]
        leaf = recorded * alpha[:, None, None]
        return index, leaf.requires_grad_()

    def chunks(self, count: int, device: torch.device, tokens: int = 1) -> Iterator[Tensor]:
        """Row numbers, at most the budget's worth at once (a longer row counts for as many as it is long)."""
        size = max(1, self.rows_budget * self.length // tokens) if tokens > 1 else self.rows_budget
        for start in range(0, count, size):
            yield torch.arange(start, min(start + size, count), device=device)

    def _differentiable(
        self, prompt: Tensor, values: Mapping[int, tuple[Tensor, Tensor]], read: Sequence[int]
    ) -> tuple[Tensor, dict[int, Tensor]]:
        found: dict[int, Tensor] = {}

        def visit(layer: int, inputs: Tensor) -> Tensor | None:
            if layer not in read:
                return None
            # Below the lowest intervention nothing is in the graph yet: it begins here.
            found[layer] = inputs if inputs.requires_grad else inputs.detach().requires_grad_()
            return found[layer]

        with (
            torch.enable_grad(),
            replace(self.model, values, self.kind),
            watch(self.model, self.kind, visit),
        ):
            return self.forward(prompt), found

    def forward(self, prompt: Tensor) -> Tensor:
        """F of each row: the prompts' last token and answer tokens, on top of their cached prefixes."""
        self.rows_run += len(prompt)
        logits = self._bare(**self._given(prompt)).logits.float()
        chosen = logits.gather(-1, self._targets[prompt][..., None])[..., 0] - logits.logsumexp(-1)
        present = self._present[prompt]
        mean: Tensor = (chosen * present).sum(1) / present.sum(1)
        return mean.exp()

    def trunk(self, prompt: Tensor) -> None:
        """Run the layers alone over the rows of these prompts, for what hooks and `layers_between` make of it."""
        self._bare.model(**self._given(prompt))

    def _given(self, prompt: Tensor) -> dict[str, Any]:
        """What the model is given for rows of these prompts (R,)."""
        width = self._keys[0][0].shape[2]
        steps = torch.arange(self.length, device=prompt.device)
        held = torch.arange(width, device=prompt.device) >= width - self._start[prompt][:, None]
        return {
            "input_ids": self._inputs[prompt],
            "attention_mask": torch.cat([held, held.new_ones(len(prompt), self.length)], 1).long(),
            "position_ids": self._start[prompt][:, None] + steps,
            "past_key_values": PrefixCache(layers=[PrefixLayer(k, v, prompt) for k, v in self._keys]),
            "use_cache": True,
        }

    def _prefix(self, exchanges: Exchanges, width: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of every prompt but its last token: (n, heads, width, d_head).

        Padded on the left, so that distances between tokens are true and sliding windows hold what they should.
        """
        ids = torch.zeros(len(exchanges.prompts), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(exchanges.prompts):
            start = width - len(prompt) + 1
            ids[row, start:] = torch.tensor(prompt[:-1])
            mask[row, start:] = 1
        places = (mask.cumsum(1) - 1).clamp_min(0)
        parts = []
        for part in self.chunks(len(ids), torch.device("cpu"), tokens=width):
            cache = self._bare.model(
                input_ids=ids[part].to(device),
                attention_mask=mask[part].to(device),
                position_ids=places[part].to(device),
                past_key_values=DynamicCache(),
                use_cache=True,
            ).past_key_values
            parts.append([(layer.keys, layer.values) for layer in cache.layers])
        return [
            (torch.cat([keys for keys, _ in layer]), torch.cat([values for _, values in layer]))
            for layer in zip(*parts, strict=True)
        ]

    def _stack(self, exchanges: Exchanges) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, targets (n, P) int64, padded with 0, and 1.0 where a target is real."""
        inputs = torch.zeros(len(exchanges.prompts), self.length, dtype=torch.long)
        targets = torch.zeros_like(inputs)
        present = torch.zeros(inputs.shape)
        for row, (prompt, answer) in enumerate(zip(exchanges.prompts, exchanges.answers, strict=True)):
            count = min(self.length, len(answer))
            inputs[row, :count] = torch.tensor([prompt[-1], *answer[: count - 1]])
            targets[row, :count] = torch.tensor(answer[:count])
            present[row, :count] = 1.0
        return inputs, targets, present
