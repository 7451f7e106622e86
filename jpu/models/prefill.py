"""Run prompts once, before answers to them are generated or scored: what they begin with alike is computed once.

Equal prompts are one row. What all of them begin with (the chat format, a system prompt) is run as a single row, then
what groups of them begin with (the opening of a template), then the rest of each, in passes of like length. On a CPU a
pass costs what its tokens cost, so it is tokens that are saved.

Only for models all of whose layers keep every position as it is (`jpu.models.cache.keeps_all`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jpu.models.batching import cheapest_batches, common_prefix, pad, prefix_groups
from jpu.models.cache import Prefilled, merged, selected

# Tokens of one pass on the CPU: what more of them leave between the layers falls out of its caches.
_PASS_TOKENS = 1024
# Tokens that cost as much as one more pass. On a CPU: to read the weights of SmolLM2 costs as much as 16 tokens, the
# calls of a small model cost more. An accelerator has hundreds of tokens for the price of its calls.
_A_PASS = {"cpu": 64}
_A_CALL = 1024


def run(model: Any, rows: Sequence[Sequence[int]], pad_id: int, after: tuple[Tensor, Any] | None = None) -> Prefilled:
    """One pass over rows, padded on the left, after what a mask and a cache hold of them already.

    Args:
        model: Causal language model, PEFT or not.
        rows: Tokens of each row, none empty.
        pad_id: Token to pad with.
        after: Mask (rows, slots) and cache of what stands before the rows; the cache is filled further.
    """
    device = next(model.parameters()).device
    ids, mask = (part.to(device) for part in pad(rows, pad_id, left=True))
    if after is not None:
        mask = torch.cat([after[0], mask], 1)
    out = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :],
        past_key_values=None if after is None else after[1],
        use_cache=True,
        logits_to_keep=1,
    )
    return Prefilled(out.logits[:, -1], mask, out.past_key_values)


def prefill(
    model: Any, rows: Sequence[Sequence[int]], pad_id: int, room: int, batch_tokens: int
) -> tuple[Prefilled, list[int]]:
    """Run prompts: equal ones once, shared beginnings once, then the rests.

    Args:
        model: Causal language model whose layers all keep every position.
        rows: Tokens of each prompt, none empty.
        pad_id: Token to pad with.
        room: Slots to keep free behind the prompts.
        batch_tokens: Bound on the tokens of one pass; lower on a CPU.

    Returns:
        What they left, and the order in which the rows stand in it.
    """
    places: dict[tuple[int, ...], list[int]] = {}
    for i, row in enumerate(rows):
        places.setdefault(tuple(row), []).append(i)
    unique = list(places)
    device = next(model.parameters()).device
    a_pass = _A_PASS.get(device.type, _A_CALL)
    first = common_prefix(unique)
    if first * (len(unique) - 1) < a_pass:
        first = 0
    top = run(model, [unique[0][:first]], pad_id) if first else None
    rests = [row[first:] for row in unique]
    shared = [group for group in prefix_groups(rests) if group.length]
    if sum((len(group.rows) - 1) * group.length for group in shared) < a_pass:
        shared = []
    owner = {i: number for number, group in enumerate(shared) for i in group.rows}
    openings = [rests[group.rows[0]][: group.length] for group in shared]
    opened = run(model, openings, pad_id, _behind(top, [0] * len(openings))) if shared else None
    most = min(batch_tokens, _PASS_TOKENS) if device.type == "cpu" else batch_tokens
    parts, order = [], []
    for members, before in (([i for i in range(len(unique)) if i not in owner], top), (list(owner), opened)):
        tails = [rests[i][len(openings[owner[i]]) if i in owner else 0 :] for i in members]
        for batch in cheapest_batches([len(tail) for tail in tails], most, a_pass):
            chosen = [members[i] for i in batch]
            part = run(model, [tails[i] for i in batch], pad_id, _behind(before, [owner.get(i, 0) for i in chosen]))
            parts.append((part, [at for at, i in enumerate(chosen) for _ in places[unique[i]]]))
            order += [place for i in chosen for place in places[unique[i]]]
    return merged(parts, room), order


def _behind(start: Prefilled | None, rows: Sequence[int]) -> tuple[Tensor, Any] | None:
    """Mask and cache of what stands before rows, where something does."""
    return None if start is None else selected(start, rows)
