"""Directions of the residual stream: estimated as a difference of means, drawn at random, and taken out by hooks.

Arditi et al., 2024, arXiv 2406.11717, sections 2.3 and 2.4.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jpu.models import Subject, pad, token_batches
from jpu.rows import rows_of

# Tokens at the end of a prompt whose streams are compared: the chat format's opening of the assistant's turn.
_TOKENS = 2


@dataclass(frozen=True)
class Direction:
    """A direction of the residual stream.

    Attributes:
        vector: (width,) float32, of length 1.
        label: Where it is from, for the record of an attempt.
    """

    vector: Tensor
    label: str


def random_direction(subject: Subject, rng: random.Random) -> Direction:
    """A direction drawn at random."""
    width = subject.base.get_input_embeddings().weight.shape[1]
    drawn = torch.randn(width, generator=torch.Generator().manual_seed(rng.getrandbits(63)))
    return Direction((drawn / drawn.norm()).to(subject.device), "ablate-random")


def refusal_directions(
    subject: Subject, restricted: Sequence[str], benign: Sequence[str], refusals: Sequence[str]
) -> list[Direction]:
    """Mean stream of refused restricted questions less that of answered benign ones, for each layer and token.

    A question counts as refused where the likeliest first token is that of a refusal. Where no restricted question is
    refused, or no benign one answered, all of them are taken.

    Args:
        subject: The model as it is attacked.
        restricted: Questions that are to be refused.
        benign: Questions that are to be answered.
        refusals: The model's own refusals.

    Returns:
        Directions of the streams that enter the layers, lowest layer first, at the last prompt tokens. Left out are
        those that do not exist: tokens that are the same in all prompts enter the first layer alike.
    """
    first = {subject.encode(text)[0] for text in refusals}
    refused, declined = _streams(subject, restricted, first)
    answered, also = _streams(subject, benign, first)
    refused = refused[declined] if bool(declined.any()) else refused
    answered = answered[~also] if bool((~also).any()) else answered
    difference = refused.mean(0) - answered.mean(0)
    found = []
    for layer, at_tokens in enumerate(difference):
        for back, vector in enumerate(at_tokens.flip(0)):
            length = float(vector.norm())
            if length > 1e-6 * float(refused[:, layer].norm(dim=-1).mean()):
                found.append(Direction(vector / length, f"ablate-layer-{layer}-token-{-1 - back}"))
    return found


@contextmanager
def ablated(subject: Subject, vector: Tensor) -> Iterator[None]:
    """Nothing is written along a direction inside: x ← x - (x·r) r for the embedding, attention and MLP outputs.

    Args:
        subject: The model.
        vector: r, (width,) of length 1.
    """

    def hook(_: nn.Module, __: Any, out: Any) -> Any:
        # An attention layer gives its weights beside its output.
        return (_without(out[0], vector), *out[1:]) if isinstance(out, tuple) else _without(out, vector)

    writers = [subject.base.get_input_embeddings()]
    for layer in subject.layers:
        writers += [layer.self_attn, layer.mlp]
    with ExitStack() as stack:
        for writer in writers:
            stack.callback(writer.register_forward_hook(hook).remove)
        yield


def _without(values: Tensor, vector: Tensor) -> Tensor:
    r = vector.to(values)
    return values - (values @ r)[..., None] * r


@torch.no_grad()
def _streams(subject: Subject, prompts: Sequence[str], first: set[int]) -> tuple[Tensor, Tensor]:
    """Streams that enter the layers, (prompts, layers, tokens, width) float32, and which prompts begin a refusal."""
    prompt_rows, rows = [subject.prompt_ids(prompt) for prompt in prompts], rows_of(subject.base)
    streams: list[Tensor] = [torch.empty(0)] * len(prompt_rows)
    declined = torch.zeros(len(prompt_rows), dtype=torch.bool)
    for batch in token_batches([len(row) for row in prompt_rows]):
        ids, mask = pad([prompt_rows[i] for i in batch], subject.pad_id, left=True)
        ids, mask = ids.to(subject.device), mask.to(subject.device)
        with ExitStack() as stack:
            entering: list[Tensor] = []

            # Not output_hidden_states: it leaves hooks of transformers' own behind.
            def hook(_: nn.Module, inputs: tuple[Tensor, ...], entering: list[Tensor] = entering) -> None:
                entering.append(rows.all(inputs[0][:, -_TOKENS:].float()))

            for layer in subject.layers:
                stack.callback(layer.register_forward_pre_hook(hook).remove)
            out = subject.base.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                use_cache=False,
            )
        said = subject.base.lm_head(out.last_hidden_state[:, -1]).argmax(-1).tolist()
        stacked = torch.stack(entering, 1)
        for row, i in enumerate(batch):
            streams[i], declined[i] = stacked[row], said[row] in first
    return torch.stack(streams), declined.to(subject.device)
