"""Soft prompts: vectors at the places of stand-in words, one set for each question, moved by gradients or at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from jpu.models import Subject, answer_logits, pad, token_batches
from jpu.paths.passes import constant_weights

_STAND_IN = " !"


class SoftPrompts:
    """Vectors after n questions, each row's its own, inside a ball around those of the stand-in words.

    Args:
        subject: The model; its weights stay as they are.
        questions: n questions.
        openings: Tokens that each answer is to begin with.
        vectors: Vectors, and stand-in words, after each question.
        radius: Of the ball around each vector, in mean lengths of a token's vector.
        stride: Of a step in every coordinate, in root mean square coordinates of a token's vector.

    Attributes:
        prompts: The questions with their stand-in words.
        tokens: Tokens of one pass of each row, the opening's among them.
        moved: (n, vectors, width) float32, how far each vector has been moved.
    """

    def __init__(
        self,
        subject: Subject,
        questions: Sequence[str],
        openings: Sequence[Sequence[int]],
        *,
        vectors: int,
        radius: float,
        stride: float,
    ) -> None:
        self._subject = subject
        self.prompts = [question + _STAND_IN * vectors for question in questions]
        self._heads = [subject.prompt_ids(prompt) for prompt in self.prompts]
        self._tails = [list(tokens) for tokens in openings]
        self.tokens = [len(h) + len(t) for h, t in zip(self._heads, self._tails, strict=True)]
        # A tokenizer may split stand-ins, or join them to each other or to the question: of the tokens that they added,
        # the last are moved, as many in every row.
        added = [len(h) - len(subject.prompt_ids(q)) for h, q in zip(self._heads, questions, strict=True)]
        moved = min([vectors, *added]) if added else 0
        # Counted from the end, where the chat format's opening of the assistant's turn stands behind them.
        self._end = len(subject.encode(subject.frame[1]))
        self._table: nn.Module = subject.base.get_input_embeddings()
        table: Any = self._table.weight.detach().float()
        self._radius = radius * float(table.norm(dim=1).mean())
        self._stride = stride * float(table.square().mean().sqrt())
        self.moved = torch.zeros(len(questions), moved, table.shape[1], device=subject.device)

    def step(self, rows: Sequence[int] | None = None) -> None:
        """One step of signed gradient descent on the openings' losses, back to the ball's edge where it leaves it.

        Args:
            rows: Questions whose vectors are moved; None for all.
        """
        chosen = list(range(len(self.prompts))) if rows is None else list(rows)
        moved = self.moved[chosen] - self._stride * self.gradient(chosen).sign()
        far = moved.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        self.moved[chosen] = moved * (self._radius / far).clamp(max=1.0)

    def scatter(self, generator: torch.Generator) -> None:
        """Move every vector to the edge of its ball, in a direction drawn at random."""
        drawn = torch.randn(self.moved.shape, generator=generator).to(self.moved)
        self.moved = self._radius * drawn / drawn.norm(dim=-1, keepdim=True)

    def gradient(self, rows: Sequence[int] | None = None) -> Tensor:
        """Of each row's mean loss of its opening, nats per token, by its vectors: (rows, vectors, width) float32."""
        chosen = list(range(len(self.prompts))) if rows is None else list(rows)
        slopes = torch.zeros_like(self.moved[chosen])
        for part in token_batches([self.tokens[i] for i in chosen]):
            batch = [chosen[i] for i in part]
            leaf = self.moved[batch].requires_grad_()
            with torch.enable_grad(), constant_weights(self._subject.model):
                losses = self._losses(batch, leaf, [self._tails[i] for i in batch])
                slopes[part] = torch.autograd.grad(losses.sum(), leaf)[0]
        return slopes

    def nll(self, rows: Sequence[int], answers: Sequence[str]) -> Tensor:
        """Mean loss of an answer to each of these rows with its vectors where they are; differentiable in the weights.

        Returns:
            (rows,) nats per answer token.
        """
        return self._losses(rows, self.moved[list(rows)], [self._subject.answer_ids(text) for text in answers])

    def _losses(self, rows: Sequence[int], moved: Tensor, tails: Sequence[Sequence[int]]) -> Tensor:
        """(rows,) mean loss of the tails, nats per token."""
        heads = [self._heads[i] for i in rows]
        ids, labels = self._subject.collate(heads, tails)
        inputs = self._inputs(ids, moved, [len(head) for head in heads])
        logits, targets, owner = answer_logits(self._subject.model, ids, labels, inputs=inputs)
        losses = nn.functional.cross_entropy(logits, targets, reduction="none")
        sizes = torch.tensor([len(tail) for tail in tails], device=losses.device)
        return torch.zeros(len(heads), device=losses.device).index_add(0, owner, losses) / sizes

    @torch.no_grad()
    def complete(self, max_new_tokens: int) -> list[str]:
        """Greedy completions of the prompts with their vectors moved, without special tokens."""
        texts = [""] * len(self.prompts)
        for batch in token_batches([len(head) + max_new_tokens for head in self._heads]):
            new = self._decode(batch, max_new_tokens)
            decoded = self._subject.tokenizer.batch_decode(new, skip_special_tokens=True)
            for i, text in zip(batch, decoded, strict=True):
                texts[i] = text.strip()
        return texts

    def _decode(self, batch: Sequence[int], max_new_tokens: int) -> list[list[int]]:
        """New tokens of some rows: the first pass from vectors, the others from what was said and the cache."""
        ids, mask = pad([self._heads[i] for i in batch], self._subject.pad_id, left=True)
        mask = mask.to(self._subject.device)
        inputs = self._inputs(ids.to(mask), self.moved[list(batch)], [ids.shape[1]] * len(batch))
        given: dict[str, Any] = {"inputs_embeds": inputs}
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache: Any = None
        ends = self._ends()
        done = torch.zeros(len(batch), dtype=torch.bool, device=mask.device)
        new: list[Tensor] = []
        for _ in range(max_new_tokens):
            out = self._subject.model(
                **given,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = out.past_key_values
            token = torch.where(done, ends[0], out.logits[:, -1].argmax(-1))
            new.append(token)
            done |= torch.isin(token, ends)
            if bool(done.all()):
                break
            given, positions = {"input_ids": token[:, None]}, positions[:, -1:] + 1
            mask = torch.cat([mask, torch.ones_like(token[:, None])], 1)
        stops = set(ends.tolist())
        rows: list[list[int]] = torch.stack(new, 1).tolist() if new else [[] for _ in batch]
        return [row[: next((i for i, token in enumerate(row) if token in stops), len(row))] for row in rows]

    def _inputs(self, ids: Tensor, moved: Tensor, lengths: Sequence[int]) -> Tensor:
        """Vectors of tokens (rows, length), those in front of a prompt's end moved; lengths are the prompts' ends."""
        vectors: Tensor = self._table(ids)
        if not moved.shape[1]:
            return vectors
        last = torch.tensor(lengths, device=ids.device)[:, None] - self._end
        places = last - moved.shape[1] + torch.arange(moved.shape[1], device=ids.device)
        rows = torch.arange(len(ids), device=ids.device)[:, None]
        added = torch.zeros_like(vectors).index_put((rows, places), moved.to(vectors.dtype))
        return vectors + added

    def _ends(self) -> Tensor:
        """Tokens that end the assistant's turn."""
        tokenizer = self._subject.tokenizer
        # A chat format may put blanks around the end of a turn, and a blank ends nothing.
        ends = [i for i in self._subject.answer_ids("") if tokenizer.decode([i]).strip()]
        ends += [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        return torch.tensor(ends, device=self._subject.device)
