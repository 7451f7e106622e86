"""What a mutation operator is, and the guarantees that hold for every one of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jpu.data.schemas import PLACEHOLDER, Split
from jpu.mining.operators.text import NO_WORDS, holds_words, names

Level = Literal["query", "template"]


@dataclass(frozen=True, slots=True)
class Call:
    """What one application of an operator may look at.

    Attributes:
        text: The query, or the template text with its ``{query}``.
        rng: The only source of chance.
        keep: Words that must stay as they are: those asked for and the names found in the text.
        partner: A second query for operators that cross two, or None.
    """

    text: str
    rng: random.Random
    keep: frozenset[str]
    partner: str | None


@dataclass(frozen=True, slots=True)
class Operator:
    """A seeded text rewrite that keeps what is asked.

    Attributes:
        name: Unique name; goes into an entry's mutation history.
        level: Whether it rewrites queries or templates.
        split: The one split in which it may be used; evaluation uses operators that mining never saw.
        cite: The work that the idea is from.
        rewrite: The rewriting itself.
    """

    name: str
    level: Level
    split: Split
    cite: str
    rewrite: Callable[[Call], str]

    def apply(
        self,
        text: str,
        rng: random.Random,
        *,
        partner: str | None = None,
        keep: frozenset[str] = NO_WORDS,
    ) -> str:
        """Rewrite a text; the same text, options and state of `rng` give the same result.

        Capitalised words inside a sentence are taken for names and kept even when not in `keep`.
        A rewrite that would come out empty, lose a kept word or lose the placeholder gives the text back.

        Args:
            text: A query, or for template operators a text with ``{query}``.
            rng: Source of chance.
            partner: A second query, for operators that cross two.
            keep: Words that must survive letter by letter, such as an entity's name.

        Returns:
            The rewritten text, never empty.

        Raises:
            ValueError: The text is empty, or a template has no ``{query}``.
        """
        text = text.strip()
        if not text:
            raise ValueError(f"operator {self.name}: nothing to mutate in an empty text")
        if self.level == "template" and PLACEHOLDER not in text:
            raise ValueError(f"operator {self.name}: the template has no {PLACEHOLDER}")
        words = frozenset(part for word in keep for part in word.split())
        # A template's own names ("play the part of Vex") are part of the disguise, and may change with it.
        kept = words if self.level == "template" else words | names(text)
        call = Call(text, rng, kept if partner is None else kept | names(partner), partner)
        result = self.rewrite(call).strip()
        whole = bool(result) and holds_words(result, kept, of=text)
        if self.level == "template":
            whole = whole and PLACEHOLDER in result
        return result if whole else text
