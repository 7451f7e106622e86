"""How likely a suffix makes the opening, and which tokens would make it likelier; the tokens before it are run once.

Rows of several behaviors share a pass. What stands before the suffixes is padded on the left and kept as keys and
values; what comes after is padded on the right, where causal attention does not see it.

Does not serve models whose cache is not plain keys and values (sliding windows, state spaces).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from jpu.models import BATCH_TOKENS, pad


@dataclass(frozen=True)
class Layout:
    """The tokens around the suffix of one behavior.

    Attributes:
        before: The chat format's head and the question.
        after: The rest of the chat format, up to the assistant's first word.
        target: What the model is to begin with.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    target: tuple[int, ...]


class SuffixLoss:
    """Mean cross-entropy of the target's tokens after a suffix (Zou et al., 2023, eq. 4, per token) [faithful].

    Args:
        model: Bare causal language model whose ``model`` is the trunk and ``lm_head`` the head.
        layouts: The tokens around the suffix of each behavior.
        pad_id: Token to pad with.
        batch_tokens: Bound on rows × length of one forward pass, the kept tokens counted in.
    """

    def __init__(self, model: Any, layouts: Sequence[Layout], pad_id: int, *, batch_tokens: int = BATCH_TOKENS) -> None:
        self._trunk, self._head = model.model, model.lm_head
        self._table: Tensor = model.get_input_embeddings().weight
        self._batch_tokens = batch_tokens
        device = self._table.device
        before, mask = pad([x.before for x in layouts], pad_id, left=True)
        rest, _ = pad([[*x.after, *x.target] for x in layouts], pad_id)
        self._mask, self._rest = mask.to(device), rest.to(device)
        self._lengths = self._mask.sum(1)
        self._after = torch.tensor([len(x.after) for x in layouts], device=device)
        self._targets = torch.tensor([len(x.target) for x in layouts], device=device)
        with torch.no_grad():
            out = self._trunk(
                input_ids=before.to(device),
                attention_mask=self._mask,
                position_ids=(self._mask.cumsum(1) - 1).clamp(min=0),
                use_cache=True,
            )
        self._cache = [(layer.keys, layer.values) for layer in out.past_key_values.layers]

    @torch.no_grad()
    def losses(self, behaviors: Sequence[int], suffixes: Tensor) -> Tensor:
        """Loss of each suffix behind its behavior's question.

        Args:
            behaviors: For each row, the index of its behavior among the layouts.
            suffixes: (rows, length) tokens.

        Returns:
            (rows,) float32 on the CPU, nats per target token.
        """
        owners = torch.tensor(list(behaviors), dtype=torch.long, device=self._table.device)
        rows = suffixes.to(self._table.device)
        found = torch.empty(len(owners))
        for part in self._batches(rows):
            found[part] = self._run(owners[part], self._table[rows[part]]).cpu()
        return found

    def slopes(self, behaviors: Sequence[int], suffixes: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of each row's loss by the one-hot choice of every token of its suffix.

        A one-hot row times the embeddings is one embedding, so the gradient by it is the gradient by that embedding
        times the embeddings; no one-hot matrix is needed.

        Args:
            behaviors: For each row, the index of its behavior among the layouts.
            suffixes: (rows, length) tokens.

        Returns:
            Losses (rows,) and slopes (rows, length, vocabulary), float32 on the CPU.
        """
        owners = torch.tensor(list(behaviors), dtype=torch.long, device=self._table.device)
        rows, table = suffixes.to(self._table.device), self._table.detach()
        losses, slopes = torch.empty(len(owners)), torch.empty(*rows.shape, len(table))
        for part in self._batches(rows):
            with torch.enable_grad():
                leaf = table[rows[part]].requires_grad_()
                found = self._run(owners[part], leaf)
                (slope,) = torch.autograd.grad(found.sum(), leaf)
            losses[part], slopes[part] = found.detach().cpu(), (slope @ table.T).float().cpu()
        return losses, slopes

    def _batches(self, rows: Tensor) -> Iterator[slice]:
        size = max(1, self._batch_tokens // (self._mask.shape[1] + rows.shape[1] + self._rest.shape[1]))
        return (slice(start, start + size) for start in range(0, len(rows), size))

    def _run(self, owners: Tensor, embedded: Tensor) -> Tensor:
        """Losses (rows,) of (rows, length, width) embedded suffixes."""
        rest, places = self._rest[owners], embedded.shape[1]
        # The last target token is predicted and never read.
        inputs = torch.cat([embedded, self._table.detach()[rest[:, :-1]]], 1)
        steps = torch.arange(inputs.shape[1], device=inputs.device)
        cache = DynamicCache([(keys[owners], values[owners]) for keys, values in self._cache])
        hidden = self._trunk(
            inputs_embeds=inputs,
            attention_mask=torch.cat([self._mask[owners], torch.ones_like(inputs[..., 0], dtype=torch.long)], 1),
            position_ids=self._lengths[owners, None] + steps,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        # Position t of what follows the kept tokens predicts token t + 1, so the rest begins at the suffix's last one.
        here = torch.arange(rest.shape[1], device=rest.device)
        after, targets = self._after[owners, None], self._targets[owners, None]
        keep = (here >= after) & (here < after + targets)
        logits = self._head(hidden[:, places - 1 :][keep]).float()
        each = nn.functional.cross_entropy(logits, rest[keep], reduction="none")
        sums = torch.zeros(len(owners), device=each.device).index_add(0, keep.nonzero()[:, 0], each)
        return sums / targets[:, 0]
