"""Completions that are no language: nothing, loops, broken bytes.

Does not find fluent nonsense: that takes a language model, not a rule.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from jpu.judges.base import Completion

_WORD = re.compile(r"\w+")
# A unit of up to 24 characters that follows itself at least five times.
_LOOP = re.compile(r"(.{1,24}?)\1{5,}", re.S)


def printable_share(text: str) -> float:
    """Share of characters that are neither control, unassigned, private nor replacement characters."""
    good = sum(
        char in "\n\r\t" or (char != "\ufffd" and unicodedata.category(char) not in {"Cc", "Cn", "Co", "Cs"})
        for char in text
    )
    return good / len(text) if text else 0.0


def loop_share(text: str, *, most_words: int = 8, times: int = 4) -> float:
    """Share of the text that lies in loops, of characters or of words, whichever is larger.

    Args:
        text: The text.
        most_words: Longest unit of a word loop.
        times: How often a unit of words has to stand side by side to be a loop.
    """
    if not text:
        return 0.0
    characters = sum(len(found.group(0)) for found in _LOOP.finditer(text)) / len(text)
    said = _WORD.findall(text.casefold())
    longest = 0
    for unit in range(1, min(most_words, len(said) // times) + 1):
        run = 0
        for at in range(unit, len(said)):
            run = run + 1 if said[at] == said[at - unit] else 0
            if run + unit >= unit * times:
                longest = max(longest, run + unit)
    return max(characters, longest / len(said) if said else 0.0)


class IncoherenceJudge:
    """Incoherent: empty, without a letter or digit, mostly one loop, or full of broken characters.

    Args:
        least_printable: Share of printable characters below which a text is broken.
        most_loop: Share of the text in loops above which it is a loop.
        shortest_loop: Characters from which a text can be a loop; "ha ha ha ha" is a short answer.
    """

    name = "incoherence"

    def __init__(self, *, least_printable: float = 0.9, most_loop: float = 0.5, shortest_loop: int = 24) -> None:
        self.least_printable = least_printable
        self.most_loop = most_loop
        self.shortest_loop = shortest_loop

    def judge(self, completions: Sequence[Completion]) -> list[bool]:
        """Whether each completion is incoherent."""
        return [self._broken(completion.text.strip()) for completion in completions]

    def _broken(self, text: str) -> bool:
        if not any(char.isalnum() for char in text):
            return True
        if printable_share(text) < self.least_printable:
            return True
        return len(text) >= self.shortest_loop and loop_share(text) > self.most_loop
