"""Words, names and sentences of an English prompt, as much grammar as the operators need."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

NO_WORDS: frozenset[str] = frozenset()


def vocabulary(words: str) -> frozenset[str]:
    """A set of words from a text with spaces between them."""
    return frozenset(words.split())


_TOKEN = re.compile(r"\{query\}|\w+(?:['’]\w+)*|\s+|[^\w\s]")
_APOSTROPHE = re.compile(r"['’]")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_I = frozenset({"I", "I'm", "I'd", "I'll", "I've"})
_END = " \t\r\n.?!"

_IMPERATIVES = vocabulary(
    "add answer argue ask build compose convince craft create define demonstrate describe design "
    "detail develop devise discuss draft encourage explain find generate give guide help identify "
    "instruct list make name outline persuade plan prepare present produce promote propose provide recite "
    "recommend repeat reveal say script share show state suggest summarise summarize teach tell "
    "translate use walk write"
)
_ASK_ME = re.compile(r"^(?:please\s+)?(?:tell|give|show|send|teach)\s+(?:me|us)\s+(.+)$", re.I | re.S)
_CAN_YOU = re.compile(r"^(?:please\s+)?(?:can|could|would|will)\s+you\s+(?:please\s+)?(.+)$", re.I | re.S)
_HOW_DO_I = re.compile(
    r"^how\s+(?:do|does|can|could|would|should|might)\s+(?:i|you|we|one|someone|somebody|a person)\s+(.+)$",
    re.I | re.S,
)
_WHAT_IS = re.compile(r"^(what|who|where|which)(?:'s|\s+(is|are|was|were))\s+(.+)$", re.I | re.S)
_WISH = re.compile(
    r"^(?:please\s+)?(?:i\s+(?:need|want|would like|wish)\s+to\s+know|(?:give|provide|say|state)(?:\s+(?:me|us))?)\s+",
    re.I,
)
_QUESTION_WORD = re.compile(r"^(?:what|who|whose|where|when|why|which|how)\b", re.I)


def tokens(text: str) -> list[str]:
    """Words, runs of white space, single marks and the placeholder; joined they give the text back."""
    return _TOKEN.findall(text)


def is_word(token: str) -> bool:
    """Whether a token is a word (not white space, a mark or the placeholder)."""
    return bool(token) and (token[0].isalnum() or token[0] == "_")


def is_kept(token: str, keep: frozenset[str]) -> bool:
    """Whether a token is a word to keep, also in the possessive (``Zorvik's``)."""
    return token in keep or any(part in keep for part in _APOSTROPHE.split(token))


def names(text: str) -> frozenset[str]:
    """Capitalised words inside a sentence: what looks like a proper name in English."""
    found: set[str] = set()
    for sentence in sentences(text):
        words = [token for token in tokens(sentence) if is_word(token)]
        for word in words[1:]:
            head = _APOSTROPHE.split(word)[0]
            if word not in _I and head.isalpha() and len(head) > 1 and head[0].isupper() and head[1:].islower():
                found.add(head)
    return frozenset(found)


def holds_words(text: str, words: frozenset[str], *, of: str) -> bool:
    """Whether those of `words` that occur in the text `of` occur as words in `text` too."""
    have = {part for token in tokens(text) for part in (token, *_APOSTROPHE.split(token))}
    had = {part for token in tokens(of) for part in (token, *_APOSTROPHE.split(token))}
    return all(word in have for word in words if word in had)


def sentences(text: str) -> list[str]:
    """Split after a full stop, question mark or exclamation mark followed by white space."""
    return [part for part in _SENTENCE.split(text) if part]


def lower_first(text: str, keep: frozenset[str]) -> str:
    """Begin with a small letter, unless the first word is a name, an acronym or ``I``."""
    first = next(iter(tokens(text)), "")
    if not first or is_kept(first, keep) or first in _I or (len(first) > 1 and first.isupper()):
        return text
    return text[0].lower() + text[1:]


def upper_first(text: str) -> str:
    """Begin with a capital letter."""
    return text[:1].upper() + text[1:]


def editable(parts: Sequence[str], keep: frozenset[str], *, shortest: int = 1) -> list[int]:
    """Indices of the words of at least `shortest` characters that may be changed."""
    return [
        index for index, part in enumerate(parts) if is_word(part) and len(part) >= shortest and not is_kept(part, keep)
    ]


def told(text: str) -> str:
    """A wish or an order for something ("I need to know …", "Please give …") as "Tell me …"; others as they are."""
    return _WISH.sub("Tell me ", text.strip(), count=1)


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt taken apart.

    Attributes:
        form: ``question`` and ``command`` are one sentence; everything else is ``other``.
        core: What fits after "tell me" (question) or "could you" (command); the whole text for ``other``.
        topic: The core without its question word; equal to the core where there is no shorter form.
    """

    form: Literal["question", "command", "other"]
    core: str
    topic: str


def parse(text: str, keep: frozenset[str] = NO_WORDS) -> Request:
    """Take a prompt apart by its opening words; what is not understood is ``other``."""
    bare = text.strip().rstrip(_END)
    if len(sentences(text.strip())) != 1 or not bare:
        return Request("other", text, text)
    asked = _CAN_YOU.match(bare)
    if asked:
        bare = asked.group(1)
    ask_me = _ASK_ME.match(bare)
    if ask_me:
        bare = ask_me.group(1)
    elif bare.lower().startswith("please "):
        bare = bare[len("please ") :]
    bare = lower_first(bare, keep)
    how = _HOW_DO_I.match(bare)
    if how:
        return Request("question", f"how to {how.group(1)}", f"how to {how.group(1)}")
    what = _WHAT_IS.match(bare)
    if what:
        word, verb, rest = what.group(1).lower(), what.group(2) or "is", what.group(3)
        short = len(rest.split()) <= 6 and not rest.split()[-1].lower().endswith(("by", "for", "from", "in"))
        return Request("question", f"{word} {rest} {verb}" if short else f"{word} {verb} {rest}", rest)
    if ask_me or _QUESTION_WORD.match(bare):
        return Request("question", bare, bare)
    first = bare.split()[0].lower()
    if asked or first in _IMPERATIVES:
        return Request("command", bare, bare)
    return Request("other", text, text)
