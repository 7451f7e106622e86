"""How far the hardened model has moved where it should not have: exact KL to M_0, and perplexity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from jpu.models import Subject, answer_states, logit_parts, token_batches
from jpu.unlearning.retain import RetainPair


@dataclass(frozen=True)
class Divergence:
    """Per retain pair, in nats per answer token.

    Attributes:
        kl: KL(M_0‖M_θ) over the whole vocabulary.
        nll: NLL of M_0's answer under M_θ.
        nll_before: The same under M_0.
        tokens: Answer tokens.
    """

    kl: list[float]
    nll: list[float]
    nll_before: list[float]
    tokens: list[int]


@torch.no_grad()
def divergence(subject: Subject, pairs: Sequence[RetainPair], *, batch_tokens: int = 4096) -> Divergence:
    """Run M_0 and M_θ side by side over the pairs; nothing of either is kept longer than a batch."""
    rows = [(subject.prompt_ids(p.prompt), subject.answer_ids(p.answer)) for p in pairs]
    kl, nll, before = ([0.0] * len(rows) for _ in range(3))
    for batch in token_batches([len(h) + len(t) for h, t in rows], batch_tokens):
        ids, labels = subject.collate([rows[i][0] for i in batch], [rows[i][1] for i in batch])
        now, targets, owner = answer_states(subject.model, ids, labels)
        with subject.reference():
            then, _, _ = answer_states(subject.model, ids, labels)
        parts = []
        for part in logit_parts(subject.base.lm_head, len(targets)):
            wanted = targets[part, None]
            current = subject.base.lm_head(now[part]).float().log_softmax(-1)
            with subject.reference():
                reference = subject.base.lm_head(then[part]).float().log_softmax(-1)
            kls = (reference.exp() * (reference - current)).sum(-1)
            parts.append(torch.stack([kls, *(-lines.gather(-1, wanted)[:, 0] for lines in (current, reference))]))
        values = torch.cat(parts, 1)
        for row, index in enumerate(batch):
            means = values[:, owner == row].mean(1).tolist()
            # A rounding error may leave a KL a hair under zero.
            kl[index], nll[index], before[index] = max(0.0, means[0]), means[1], means[2]
    return Divergence(kl, nll, before, [len(t) for _, t in rows])
