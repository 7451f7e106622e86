"""How likely a model finds given answers: with a graph for training, or without one and with the prompts run once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jpu.models.batching import pad
from jpu.models.cache import keeps_all
from jpu.models.prefill import prefill, run

# Logits of one part: 256 MiB in float32.
_LOGITS = 2**26
# Logits that are held at once while prompts are scored: 32 MiB in float32, about what a processor's caches hold.
_SCORED_LOGITS = 2**23


def answer_nll(model: Any, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of every answer token; the vocabulary is only visited at answer positions.

    Args:
        model: Causal language model whose ``model`` is the trunk and ``lm_head`` the head (PEFT or not).
        ids: (rows, length) tokens, padded on the right.
        labels: (rows, length), -100 off the answers.

    Returns:
        ``(losses, owner)``, both (answer tokens,): nats in float32, and the row of each.
    """

    def losses(logits: Tensor, targets: Tensor, _: slice) -> Tensor:
        return nn.functional.cross_entropy(logits, targets, reduction="none")

    return over_answers(model, ids, labels, losses)


def over_answers(
    model: Any, ids: Tensor, labels: Tensor, measure: Callable[[Tensor, Tensor, slice], Tensor]
) -> tuple[Tensor, Tensor]:
    """What `measure` makes of every answer token's logits, which are never all in memory where they are many.

    A vocabulary of 128,256 in float32 is half a megabyte a token, and a loss holds it several times over. So answers of
    more tokens than `_LOGITS` allows are measured in parts; where there is a graph, a part's logits are made again when
    it is differentiated.

    Args:
        model: As for `answer_nll`.
        ids: As for `answer_nll`.
        labels: As for `answer_nll`.
        measure: Gets the logits (t, vocabulary) in float32, the tokens that they should predict (t,), and which of the
            answer tokens these are; gives (t, …). It may be called twice for a part.

    Returns:
        ``(measured, owner)``: (answer tokens, …), and the row of each.
    """
    states, targets, owner = answer_states(model, ids, labels)
    head = _bare(model).lm_head

    def of_part(states: Tensor, targets: Tensor, part: slice) -> Tensor:
        return measure(head(states).float(), targets, part)

    parts = list(logit_parts(head, len(states)))
    again = len(parts) > 1 and torch.is_grad_enabled()
    measured = [
        checkpoint(of_part, states[part], targets[part], part, use_reentrant=False, preserve_rng_state=False)
        if again
        else of_part(states[part], targets[part], part)
        for part in parts
    ]
    return torch.cat(measured), owner


def answer_logits(
    model: Any, ids: Tensor, labels: Tensor, *, inputs: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits that predict every answer token, all at once.

    Args:
        model: As for `answer_nll`.
        ids: As for `answer_nll`.
        labels: As for `answer_nll`.
        inputs: (rows, length, width) vectors in the place of those of the tokens.

    Returns:
        ``(logits, targets, owner)`` of shapes (t, vocabulary) in float32, (t,) and (t,) for t answer tokens.
    """
    states, targets, owner = answer_states(model, ids, labels, inputs=inputs)
    return _bare(model).lm_head(states).float(), targets, owner


def answer_states(
    model: Any, ids: Tensor, labels: Tensor, *, inputs: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Last hidden states of the positions that predict answer tokens; arguments as of `answer_logits`.

    Returns:
        ``(states, targets, owner)`` of shapes (t, width), (t,) and (t,).
    """
    given = {"input_ids": ids} if inputs is None else {"inputs_embeds": inputs}
    hidden = _bare(model).model(**given, use_cache=False).last_hidden_state
    keep = labels[:, 1:] != -100
    return hidden[:, :-1][keep], labels[:, 1:][keep], keep.nonzero()[:, 0]


def logit_parts(head: Any, count: int) -> Iterator[slice]:
    """Cut so many tokens into parts whose logits may be in memory together; at least one part, if an empty one."""
    size = _tokens(head, _LOGITS)
    return (slice(start, start + size) for start in range(0, max(1, count), size))


def _tokens(head: Any, logits: int) -> int:
    """Tokens that have so many logits; all where the head does not say how wide it is."""
    return max(1, logits // int(getattr(head, "out_features", 1)))


def _bare(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@torch.no_grad()
def score_answers(
    model: Any,
    heads: Sequence[Sequence[int]],
    wanted: Sequence[Sequence[int]],
    tails: Sequence[Sequence[int]],
    out: Tensor,
    pad_id: int,
    batch_tokens: int,
) -> None:
    """Mean negative log-likelihood of answers: the prompts are run once, then one pass for each turn of answers.

    Args:
        model: Bare causal language model (an adapter's layers may be inside).
        heads: Tokens of each prompt of the batch.
        wanted: For each prompt, the indices of its answers.
        tails: Tokens of all answers.
        out: Filled at these indices, nats per token.
        pad_id: Token to pad with.
        batch_tokens: Bound on the tokens of one pass over prompts.
    """
    device = next(model.parameters()).device
    order = list(range(len(heads)))
    if keeps_all(model):
        room = max(len(tails[i]) for w in wanted for i in w)
        start, order = prefill(model, heads, pad_id, room, batch_tokens)
    else:
        start = run(model, heads, pad_id)
    wanted = [wanted[place] for place in order]
    mask, cache = start.mask, start.cache
    lengths = mask.sum(1)
    # The answers' first tokens are all predicted by the prompts' last ones.
    logits = start.logits.float()
    total = logits.logsumexp(-1)
    for turn in range(max(len(w) for w in wanted)):
        # A row without an answer in this turn goes along with a token that is not counted.
        answers = [tails[w[turn]] if turn < len(w) else [pad_id] for w in wanted]
        answer, real = (part.to(device) for part in pad(answers, pad_id))
        sums = total - logits.gather(1, answer[:, :1])[:, 0]
        if answer.shape[1] > 1:
            steps = torch.arange(answer.shape[1] - 1, device=device)
            hidden = model.model(
                input_ids=answer[:, :-1],
                attention_mask=torch.cat([mask, real[:, :-1]], 1),
                position_ids=lengths[:, None] + steps,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            cache.crop(1 - answer.shape[1])
            keep = real[:, 1:].bool()
            losses = _token_losses(model.lm_head, hidden[keep], answer[:, 1:][keep])
            sums = sums.index_add(0, keep.nonzero()[:, 0], losses)
        means = (sums / real.sum(1)).cpu()
        for place, w in enumerate(wanted):
            if turn < len(w):
                out[w[turn]] = means[place]


def _token_losses(head: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of (t,) tokens after (t, width) hidden states; the logits of a part of them at a time."""
    size = _tokens(head, _SCORED_LOGITS)
    parts = []
    for states, wanted in zip(torch.split(hidden, size), torch.split(targets, size), strict=True):
        logits = head(states).float()
        parts.append(logits.logsumexp(-1) - logits.gather(1, wanted[:, None])[:, 0])
    return torch.cat(parts)
