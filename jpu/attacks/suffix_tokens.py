"""A suffix as tokens: what stands around it, what it is made of, and whether its text gives the same tokens again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from jpu.adversary.suffix_loss import Layout
from jpu.attacks.base import Arena
from jpu.attacks.prefill import opening
from jpu.data.schemas import Behavior
from jpu.errors import ModelError
from jpu.models import Subject, plain_tokens

# Rounds of drawing random suffixes; of those of the sandbox subject four in five come back.
_ROUNDS = 200


class SuffixTokens:
    """Suffixes behind the questions of an arena.

    A suffix counts only where it stands: the whole prompt, written out and read by the tokenizer again, has to give
    the tokens that were scored. Otherwise the model would be sent something else than what was optimised.

    Args:
        subject: The model's tokenizer and chat format.
        arena: Behaviors, and the longest prompt.
    """

    def __init__(self, subject: Subject, arena: Arena) -> None:
        self._subject, self._arena = subject, arena
        head, tail = subject.frame
        self._head, self._tail = head, tail
        self.layouts = [layout(subject, behavior) for behavior in arena.behaviors]
        self.allowed = plain_tokens(subject)

    def texts(self, suffixes: Tensor) -> list[str]:
        """(rows, length) suffixes written out."""
        texts: list[str] = self._subject.tokenizer.batch_decode(suffixes, clean_up_tokenization_spaces=False)
        return texts

    def prompts(self, behaviors: Sequence[int], suffixes: Tensor) -> list[str]:
        """The user turns of (rows, length) suffixes behind the questions of these behaviors of the arena."""
        queries = [self._arena.behaviors[b].query for b in behaviors]
        return [query + text for query, text in zip(queries, self.texts(suffixes), strict=True)]

    def come_back(self, behaviors: Sequence[int], suffixes: Tensor) -> Tensor:
        """Whether each suffix, written out behind its question, is read as the same tokens again, and is not too long.

        Args:
            behaviors: For each row, the index of its behavior in the arena.
            suffixes: (rows, length) tokens.

        Returns:
            (rows,) bool.
        """
        if not len(suffixes):
            return torch.zeros(0, dtype=torch.bool)
        prompts = self.prompts(behaviors, suffixes)
        whole = [self._head + prompt + self._tail for prompt in prompts]
        read = self._subject.tokenizer(whole, add_special_tokens=False)["input_ids"]
        rows = zip(behaviors, suffixes.tolist(), prompts, read, strict=True)
        return torch.tensor(
            [
                self._arena.fits(prompt) and list(ids) == [*self.layouts[b].before, *suffix, *self.layouts[b].after]
                for b, suffix, prompt, ids in rows
            ]
        )

    def draw(self, behaviors: Sequence[int], length: int, generator: torch.Generator) -> Tensor:
        """Random suffixes of allowed tokens that come back, one for each of these behaviors, repeated or not.

        Returns:
            (behaviors, length) tokens.

        Raises:
            ModelError: Hardly any random suffix comes back, or none fits.
        """
        drawn = torch.empty(len(behaviors), length, dtype=torch.long)
        missing = torch.arange(len(behaviors))
        for _ in range(_ROUNDS):
            if not len(missing):
                return drawn
            chosen = torch.randint(len(self.allowed), (len(missing), length), generator=generator)
            drawn[missing] = self.allowed[chosen]
            back = self.come_back([behaviors[i] for i in missing], drawn[missing])
            missing = missing[~back]
        raise ModelError(
            f"no random suffix of {length} tokens is read back as it was written",
            where=self._subject.name,
            mend="Attack this model with shorter suffixes, raise the longest prompt, or leave the token attacks out.",
        )


def layout(subject: Subject, behavior: Behavior) -> Layout:
    """The tokens around a suffix that follows the question at once; the suffix brings its own space."""
    head, tail = subject.frame
    return Layout(
        before=tuple(subject.encode(head + behavior.query)),
        after=tuple(subject.encode(tail)),
        target=tuple(subject.encode(opening(behavior))),
    )
