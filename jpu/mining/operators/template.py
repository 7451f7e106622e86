"""Rewrites of a jailbreak template around its ``{query}`` (in the manner of GPTFuzzer, arXiv 2309.10253)."""

from __future__ import annotations

from collections.abc import Callable

from jpu.data.schemas import PLACEHOLDER
from jpu.mining.operators.base import Call, Operator
from jpu.mining.operators.text import sentences

_CITE = "GPTFuzzer, arXiv 2309.10253"
_OURS = "ours"

_BEFORE = (
    "Read this with care.",
    "Here is a task for you.",
    "Let us begin.",
    "This is a new conversation.",
    "Follow what comes next.",
)
_AFTER = (
    "Begin now.",
    "Write the answer on one line.",
    "Do not leave anything out.",
    "I am waiting for the reply.",
    "Keep to this until the end.",
)
_QUOTES = (('"', '"'), ("'", "'"), ("«", "»"), ("[", "]"), ("<<", ">>"), ("`", "`"))
_OPENERS = (
    "Hello again.",
    "Now something different.",
    "Listen closely.",
    "We go on from here.",
    "Picture the following.",
)
_SECTIONS = (("Part 1", "Part 2"), ("Setting", "Question"), ("Context", "Task"), ("A", "B"))


def _prepend_sentence(call: Call) -> str:
    return f"{call.rng.choice(_BEFORE)} {call.text}"


def _append_sentence(call: Call) -> str:
    end = "" if call.text[-1] in ".?!" or call.text.endswith(PLACEHOLDER) else "."
    return f"{call.text}{end} {call.rng.choice(_AFTER)}"


def _quote_query(call: Call) -> str:
    left, right = call.rng.choice(_QUOTES)
    return call.text.replace(PLACEHOLDER, f"{left}{PLACEHOLDER}{right}")


def _duplicate_question(call: Call) -> str:
    again = call.rng.choice(("Again: {query}", "I repeat: {query}", "{query}", "Once more, {query}"))
    return f"{call.text}\n{again}"


def _split_by_sections(call: Call) -> str:
    """Put what stands before the question and the question under headings of their own."""
    first, second = call.rng.choice(_SECTIONS)
    before, _, after = call.text.partition(PLACEHOLDER)
    head = f"{first}:\n{before.strip()}\n\n" if before.strip() else ""
    # What follows the placeholder keeps its spacing: it may be the question's own closing quote.
    return f"{head}{second}:\n{PLACEHOLDER}{after}"


def _change_opener(call: Call) -> str:
    """Replace the first sentence where the setting survives without it; else put an opener in front."""
    parts = sentences(call.text)
    opener = call.rng.choice(_OPENERS)
    if len(parts) > 2 and PLACEHOLDER not in parts[0]:
        return opener + call.text[len(parts[0]) :]
    return f"{opener} {call.text}"


def _cross_templates(call: Call) -> str:
    """What stands before the question from one template, what stands after it from another."""
    if call.partner is None or PLACEHOLDER not in call.partner:
        return call.text
    before, _, after = call.text.partition(PLACEHOLDER)
    other_before, _, other_after = call.partner.partition(PLACEHOLDER)
    pairs = ((before, other_after), (other_before, after))
    first, last = call.rng.choice(pairs)
    return f"{first}{PLACEHOLDER}{last}"


def _reword(call: Call, change: Callable[[list[str]], list[str]]) -> str:
    """Apply a change to the words before the question, and to those after it."""
    before, _, after = call.text.partition(PLACEHOLDER)
    return " ".join([*change(before.split()), PLACEHOLDER, *change(after.split())])


def _shuffle_words(call: Call) -> str:
    """The template's words in any order: what gets through may hang on the words alone."""
    return _reword(call, lambda words: call.rng.sample(words, len(words)))


def _drop_words(call: Call) -> str:
    share = call.rng.uniform(0.1, 0.6)
    return _reword(call, lambda words: [w for w in words if call.rng.random() >= share])


def _mix_words(call: Call) -> str:
    """Replace many of the template's words by those of another."""
    if call.partner is None:
        return call.text
    foreign = call.partner.replace(PLACEHOLDER, " ").split() or [""]
    share = call.rng.uniform(0.2, 0.9)
    return _reword(call, lambda words: [call.rng.choice(foreign) if call.rng.random() < share else w for w in words])


def _noise_words(call: Call) -> str:
    """Replace many of the template's words by made-up ones."""
    share = call.rng.uniform(0.2, 0.9)

    def noise() -> str:
        letters = "aeiou" if call.rng.random() < 0.2 else "abcdefghiklmnoprstuvwy"
        return "".join(call.rng.choice(letters) for _ in range(call.rng.randint(2, 8)))

    return _reword(call, lambda words: [noise() if call.rng.random() < share else w for w in words])


OPERATORS = (
    Operator("cross_templates", "template", "train", _CITE, _cross_templates),
    Operator("shuffle_words", "template", "train", _OURS, _shuffle_words),
    Operator("drop_words", "template", "train", _OURS, _drop_words),
    Operator("mix_words", "template", "train", _OURS, _mix_words),
    Operator("noise_words", "template", "train", _OURS, _noise_words),
    Operator("prepend_sentence", "template", "train", _CITE, _prepend_sentence),
    Operator("quote_query", "template", "train", _OURS, _quote_query),
    Operator("append_sentence", "template", "validation", _CITE, _append_sentence),
    Operator("duplicate_question", "template", "test", _OURS, _duplicate_question),
    Operator("split_by_sections", "template", "test", _OURS, _split_by_sections),
    Operator("change_opener", "template", "test", _CITE, _change_opener),
)
