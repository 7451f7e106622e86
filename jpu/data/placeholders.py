"""The place of the question in a template, as public lists write it, made into `{query}`."""

from __future__ import annotations

import re

from jpu.data.schemas import PLACEHOLDER

_WORDS = r"(?:prompt|query|question|goal|behaviou?r|request|instruction|task|text|replace)"
# Longest form first: [INSERT PROMPT HERE], <<YOUR QUESTION>>, {{ prompt }}, then {goal}, <query>.
_KNOWN = re.compile(
    rf"\[\s*(?:insert[\s_]+)?(?:your[\s_]+|the[\s_]+)?{_WORDS}(?:[\s_]+here)?\s*\]"
    rf"|\{{\{{\s*{_WORDS}\s*\}}\}}"
    rf"|\{{\s*{_WORDS}\s*\}}"
    rf"|<<\s*(?:your[\s_]+)?{_WORDS}\s*>>"
    rf"|<\s*{_WORDS}\s*>",
    re.IGNORECASE,
)


def normalise(text: str, placeholder: str | None = None) -> str:
    """Write the placeholder of a template as `{query}`.

    A template that already says `{query}` is left alone, whatever other brackets it holds.

    Args:
        text: The template.
        placeholder: The literal placeholder, where it is none of the well-known ones.
    """
    if placeholder:
        return text.replace(placeholder, PLACEHOLDER)
    if PLACEHOLDER in text and "{" + PLACEHOLDER + "}" not in text:
        return text
    return _KNOWN.sub(PLACEHOLDER, text)
