"""Completions of prompts, greedy or sampled: what prompts share is computed once, and rows that have ended leave.

Prefilling is bound by arithmetic: equal prompts are run once, and so is what prompts begin with (`jpu.models.prefill`).
Decoding is bound by reading the weights, once a step whatever stands in the batch: so many rows are decoded at a time,
from passes over fewer; and by the keys and values, of which a step writes only its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from jpu.models.batching import prefix_batches
from jpu.models.cache import Prefilled, keeps_all
from jpu.models.prefill import prefill, run

# Rows × (prompt + new tokens) decoded together: more rows than a pass of prompts holds share what a step costs.
GENERATION_TOKENS = 16384
# Rows that have ended leave when no more than this share of the batch goes on: to leave costs a copy of the others.
_LEAVE = 0.8


@torch.no_grad()
def completions(
    model: Any,
    rows: Sequence[Sequence[int]],
    stop_ids: Sequence[int],
    max_new_tokens: int,
    *,
    pad_id: int,
    temperature: float = 0.0,
    uniforms: Tensor | None = None,
    batch_tokens: int = GENERATION_TOKENS,
) -> Iterator[dict[int, list[int]]]:
    """Complete prompts, batch after batch.

    Args:
        model: Causal language model, PEFT or not.
        rows: Tokens of each prompt, none empty.
        stop_ids: Tokens that end a row.
        max_new_tokens: Bound on new tokens of each row.
        pad_id: Token to pad with.
        temperature: 0 for greedy decoding.
        uniforms: (rows, max_new_tokens) numbers of [0, 1), the chance of each step, where the temperature is not 0:
            given from outside, so that a row's sample does not depend on what else is in the batch.
        batch_tokens: Bound on rows × (prompt + new tokens) of a batch.

    Yields:
        For each batch, row → its new tokens, without the one that ended it.
    """
    device = next(model.parameters()).device
    shares = keeps_all(model)
    equal: dict[tuple[int, ...], list[int]] = {}
    for i, row in enumerate(rows):
        equal.setdefault(tuple(row), []).append(i)
    # Equal prompts have equal greedy completions; samples of one prompt differ.
    asked = [[i] for i in range(len(rows))] if uniforms is not None else list(equal.values())
    for batch in prefix_batches([rows[same[0]] for same in asked], max_new_tokens, batch_tokens):
        order = list(range(len(batch)))
        prompts = [rows[asked[i][0]] for i in batch]
        if shares:
            start, order = prefill(model, prompts, pad_id, max(max_new_tokens - 1, 0), batch_tokens)
        else:
            start = run(model, prompts, pad_id)
        some = [asked[batch[place]] for place in order]
        chances = None if uniforms is None else uniforms[[same[0] for same in some]].to(device)
        new = _decode(model, start, stop_ids, max_new_tokens, temperature, chances, drop=shares)
        yield {i: tokens for same, tokens in zip(some, new, strict=True) for i in same}


def _decode(
    model: Any,
    start: Prefilled,
    stop_ids: Sequence[int],
    max_new_tokens: int,
    temperature: float,
    uniforms: Tensor | None,
    *,
    drop: bool,
) -> list[list[int]]:
    """Choose and run token after token, until every row has ended; without the tokens that end them."""
    logits, mask, cache = start.logits, start.mask, start.cache
    stops = torch.tensor(list(stop_ids), device=mask.device)
    new = torch.full((len(mask), max_new_tokens), int(stops[0]), device=mask.device)
    rows = torch.arange(len(mask), device=mask.device)
    ended = torch.zeros_like(rows, dtype=torch.bool)
    for step in range(max_new_tokens):
        token = choose(logits, temperature, None if uniforms is None else uniforms[rows, step])
        new[rows, step] = token
        ended |= torch.isin(token, stops)
        left = len(rows) - int(ended.sum())
        if left == 0 or step + 1 == max_new_tokens:
            break
        if drop and left <= _LEAVE * len(rows):
            kept = (~ended).nonzero()[:, 0]
            cache.batch_select_indices(kept)
            rows, token, mask, ended = rows[kept], token[kept], mask[kept], ended[kept]
        positions = mask.sum(1, keepdim=True)
        mask = torch.cat([mask, torch.ones_like(positions)], 1)
        out = model(
            input_ids=token[:, None],
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits, cache = out.logits[:, -1], out.past_key_values
    ends = set(stop_ids)
    return [row[: next((i for i, t in enumerate(row) if t in ends), len(row))] for row in new.tolist()]


def choose(logits: Tensor, temperature: float, uniforms: Tensor | None) -> Tensor:
    """The next token of each row: the likeliest, or by inverse transform sampling from given uniform numbers.

    Args:
        logits: (rows, vocabulary).
        temperature: 0 for the likeliest.
        uniforms: (rows,) numbers of [0, 1), where the temperature is not 0.

    Returns:
        (rows,) tokens.
    """
    if temperature <= 0.0 or uniforms is None:
        return logits.argmax(-1)
    total = (logits.float() / temperature).softmax(-1).cumsum(-1)
    # Scaled to what the sum came to, or a rounding error could leave a number past the last token.
    wanted = uniforms.to(total.device)[:, None] * total[:, -1:]
    return torch.searchsorted(total, wanted, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
