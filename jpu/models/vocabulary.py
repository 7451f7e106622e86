"""The tokens of which text may be made that nobody wrote: searched suffixes, noise."""

from __future__ import annotations

import torch
from torch import Tensor

from jpu.models.subject import Subject


def plain_tokens(subject: Subject) -> Tensor:
    """Tokens of printable ASCII, in order: neither special ones nor those that the chat format added.

    Returns:
        (allowed,) int64 on the CPU.
    """
    return torch.tensor(list(plain_texts(subject)), dtype=torch.long)


def plain_texts(subject: Subject) -> dict[int, str]:
    """The same tokens, each with its text as it stands in the middle of one."""
    tokenizer = subject.tokenizer
    barred = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], clean_up_tokenization_spaces=False)
    return {i: t for i, t in enumerate(texts) if t and t.isascii() and t.isprintable() and i not in barred}
