"""How likely a model finds given answers: with a graph for training, or without one and with the prompts run once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from jpu.models.batching import pad


def answer_nll(model: Any, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of every answer token; the vocabulary is only visited at answer positions.

    Args:
        model: Causal language model whose ``model`` is the trunk and ``lm_head`` the head (PEFT or not).
        ids: (rows, length) tokens, padded on the right.
        labels: (rows, length), -100 off the answers.

    Returns:
        ``(losses, owner)``, both (answer tokens,): nats in float32, and the row of each.
    """
    logits, targets, owner = answer_logits(model, ids, labels)
    return nn.functional.cross_entropy(logits, targets, reduction="none"), owner


def answer_logits(
    model: Any, ids: Tensor, labels: Tensor, *, inputs: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits that predict every answer token.

    Args:
        model: As for `answer_nll`.
        ids: As for `answer_nll`.
        labels: As for `answer_nll`.
        inputs: (rows, length, width) vectors in the place of those of the tokens.

    Returns:
        ``(logits, targets, owner)`` of shapes (t, vocabulary) in float32, (t,) and (t,) for t answer tokens.
    """
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    given = {"input_ids": ids} if inputs is None else {"inputs_embeds": inputs}
    hidden = bare.model(**given, use_cache=False).last_hidden_state
    keep = labels[:, 1:] != -100
    logits = bare.lm_head(hidden[:, :-1][keep]).float()
    owner = keep.nonzero()[:, 0]
    return logits, labels[:, 1:][keep], owner


@torch.no_grad()
def score_answers(
    model: Any,
    heads: Sequence[Sequence[int]],
    wanted: Sequence[Sequence[int]],
    tails: Sequence[Sequence[int]],
    out: Tensor,
    pad_id: int,
) -> None:
    """Mean negative log-likelihood of answers: the prompts are run once, then one pass for each turn of answers.

    Args:
        model: Bare causal language model (an adapter's layers may be inside).
        heads: Tokens of each prompt of the batch.
        wanted: For each prompt, the indices of its answers.
        tails: Tokens of all answers.
        out: Filled at these indices, nats per token.
        pad_id: Token to pad with.
    """
    device = next(model.parameters()).device
    ids, mask = pad(heads, pad_id, left=True)
    ids, mask = ids.to(device), mask.to(device)
    trunk, head = model.model, model.lm_head
    start = trunk(input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0), use_cache=True)
    cache, last = start.past_key_values, start.last_hidden_state[:, -1:]
    lengths = mask.sum(1)
    for turn in range(max(len(w) for w in wanted)):
        rows = [tails[w[turn]] if turn < len(w) else [pad_id] for w in wanted]
        answer, real = pad(rows, pad_id)
        answer, real = answer.to(device), real.to(device)
        hidden = last
        if answer.shape[1] > 1:
            steps = torch.arange(answer.shape[1] - 1, device=device)
            more = trunk(
                input_ids=answer[:, :-1],
                attention_mask=torch.cat([mask, real[:, :-1]], 1),
                position_ids=lengths[:, None] + steps,
                past_key_values=cache,
                use_cache=True,
            )
            hidden = torch.cat([last, more.last_hidden_state], 1)
            cache.crop(1 - answer.shape[1])
        keep = real.bool()
        losses = nn.functional.cross_entropy(head(hidden[keep]).float(), answer[keep], reduction="none")
        sums = torch.zeros(len(rows), device=device).index_add_(0, keep.nonzero()[:, 0], losses)
        means = (sums / real.sum(1)).cpu()
        for row, w in enumerate(wanted):
            if turn < len(w):
                out[w[turn]] = means[row]
