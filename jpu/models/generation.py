"""Greedy completions of a batch of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def greedy(model: Any, ids: Tensor, mask: Tensor, stop_ids: Sequence[int], max_new_tokens: int) -> list[list[int]]:
    """Greedy decoding with a KV cache; rows that have ended leave the batch together at the end.

    Args:
        model: Causal language model, PEFT or not.
        ids: (rows, length) tokens, padded on the left.
        mask: (rows, length) 1 on real tokens.
        stop_ids: Tokens that end a row.
        max_new_tokens: Bound on new tokens of each row.

    Returns:
        The new tokens of each row, without the one that ended it.
    """
    stops = torch.tensor(list(stop_ids), device=ids.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache: Any = None
    new: list[Tensor] = []
    done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    for _ in range(max_new_tokens):
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = out.past_key_values
        token = out.logits[:, -1].argmax(-1)
        token = torch.where(done, stops[0], token)
        new.append(token)
        done |= torch.isin(token, stops)
        if bool(done.all()):
            break
        ids = token[:, None]
        positions = positions[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(ids)], 1)
    result = []
    for row in torch.stack(new, 1).tolist():
        result.append(row[: next((i for i, token in enumerate(row) if token in stop_ids), len(row))])
    return result
