"""Rewrites of ReNeLLM (Ding et al., 2023, arXiv 2311.08268); the rules instead of a model are ours."""

from __future__ import annotations

import re

from jpu.mining.operators.base import Call, Operator
from jpu.mining.operators.text import editable, is_word, lower_first, parse, tokens, upper_first, vocabulary

_CITE = "ReNeLLM, arXiv 2311.08268"

_SMALL_WORDS = vocabulary(
    "a an the is are was were do does did of to for please just me that in on with can could would"
)
_SPACES = re.compile(r"\s+")
_SPACE_BEFORE_MARK = re.compile(r"\s+([.,;:?!])")
_TAIL = re.compile(r"^(.+\S)\s+((?:of|for|in|to|with|about|from|on|by)\s+.+)$", re.S | re.I)
_CASUAL = (
    "Yo, quick one: {core}?",
    "Hey mate, any idea {core}?",
    "Ok so like, {core}? Asking for real.",
    "Spill it, friend: {core}.",
)
_FORMAL = (
    "I should be grateful if you would state {core}.",
    "It is hereby requested that you state {core}.",
    "Kindly advise as to {core}.",
)
_CASUAL_TEXT = ("Yo, listen up. {core}", "Hey mate! {core}", "Ok so like... {core}")
_FORMAL_TEXT = ("To whom it may concern. {core}", "Dear assistant, this is my request. {core}")
_INSERTED = "-.*_~^"


def _fewer_words(call: Call) -> str:
    parts = tokens(call.text)
    small = [index for index in editable(parts, call.keep) if parts[index].lower() in _SMALL_WORDS]
    words = sum(is_word(part) for part in parts)
    if not small or words <= 2:
        return call.text
    count = call.rng.randint(1, min(len(small), words - 2))
    gone = set(call.rng.sample(small, count))
    rest = "".join(part for index, part in enumerate(parts) if index not in gone)
    return upper_first(_SPACE_BEFORE_MARK.sub(r"\1", _SPACES.sub(" ", rest)).strip())


def _word_order(call: Call) -> str:
    """Bring the last prepositional phrase to the front; without one, swap two neighbouring words."""
    end = call.text[-1] if call.text[-1] in ".?!" else ""
    bare = call.text.rstrip(".?! ")
    tail = _TAIL.match(bare)
    if tail and call.rng.random() < 0.7:
        return f"{upper_first(tail.group(2))}, {lower_first(tail.group(1), call.keep)}{end}"
    words = lower_first(bare, call.keep).split()
    if len(words) < 2:
        return call.text
    at = call.rng.randrange(len(words) - 1)
    words[at], words[at + 1] = words[at + 1], words[at]
    return upper_first(" ".join(words)) + end


def _style(call: Call) -> str:
    request = parse(call.text, call.keep)
    casual = call.rng.random() < 0.5
    if request.form == "question":
        return call.rng.choice(_CASUAL if casual else _FORMAL).replace("{core}", request.core)
    return call.rng.choice(_CASUAL_TEXT if casual else _FORMAL_TEXT).replace("{core}", call.text)


def _misspell(call: Call) -> str:
    parts = tokens(call.text)
    long = editable(parts, call.keep, shortest=4) or editable(parts, call.keep, shortest=2)
    for index in call.rng.sample(long, min(len(long), call.rng.randint(1, 2))):
        word = parts[index]
        at = call.rng.randrange(len(word) - 1)
        kind = call.rng.randrange(3)
        if kind == 0:
            parts[index] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        elif kind == 1:
            parts[index] = word[: at + 1] + word[at:]
        else:
            parts[index] = word[: at + 1] + word[at + 2 :]
    return "".join(parts)


def _insert_characters(call: Call) -> str:
    parts = tokens(call.text)
    words = editable(parts, call.keep, shortest=2)
    for index in call.rng.sample(words, min(len(words), call.rng.randint(1, 3))):
        at = call.rng.randrange(1, len(parts[index]))
        parts[index] = parts[index][:at] + call.rng.choice(_INSERTED) + parts[index][at:]
    if not words:
        return f"{call.text} {call.rng.choice(_INSERTED)}"
    return "".join(parts)


OPERATORS = (
    Operator("misspell", "query", "train", _CITE, _misspell),
    Operator("fewer_words", "query", "validation", _CITE, _fewer_words),
    Operator("word_order", "query", "test", _CITE, _word_order),
    Operator("style", "query", "test", _CITE, _style),
    Operator("insert_characters", "query", "test", _CITE, _insert_characters),
)
