"""Rewrites of a jailbreak template around its ``{query}`` (in the manner of GPTFuzzer, arXiv 2309.10253)."""

from __future__ import annotations

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


OPERATORS = (
    Operator("prepend_sentence", "template", "train", _CITE, _prepend_sentence),
    Operator("quote_query", "template", "train", _OURS, _quote_query),
    Operator("append_sentence", "template", "validation", _CITE, _append_sentence),
    Operator("duplicate_question", "template", "test", _OURS, _duplicate_question),
    Operator("split_by_sections", "template", "test", _OURS, _split_by_sections),
    Operator("change_opener", "template", "test", _CITE, _change_opener),
)
