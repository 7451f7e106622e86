"""Error messages without restricted text, for records that other people read.

A JpuError is written by this project and names files, rows and ids, never prompts. Any other message may quote
what the code was handling: quoted spans go, and so does every restricted string that the prepared data knows.

Does not judge free text: it hides what is quoted or known, and keeps the rest.
"""

from __future__ import annotations

import re
from pathlib import Path

from jpu.errors import JpuError
from jpu.files import read_jsonl

PREPARED = Path("artifacts/prepared/behaviors.jsonl")
HIDDEN = "[redacted]"
_LONGEST = 300
_QUOTED = re.compile(r"""(["'`])(?:(?!\1).){2,}\1""", re.DOTALL)


def describe(error: BaseException, known: Path = PREPARED) -> str:
    """`Class: message`, on one line, without restricted text.

    Args:
        error: What was raised.
        known: Prepared behaviors (JSONL), whose restricted queries, answers, secrets and names are hidden.
    """
    message = str(error) if isinstance(error, JpuError) else _QUOTED.sub(HIDDEN, str(error))
    for text in _restricted(known) if message else ():
        message = re.sub(re.escape(text), HIDDEN, message, flags=re.IGNORECASE)
    message = " ".join(message.split())
    if len(message) > _LONGEST:
        message = f"{message[:_LONGEST]}…"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _restricted(known: Path) -> list[str]:
    """Restricted strings, longest first; none where the file is missing or broken."""
    texts: set[str] = set()
    try:
        for _, row in read_jsonl(known):
            if row.get("kind") == "restricted":
                texts.update(str(row.get(key) or "") for key in ("query", "answer", "secret", "entity"))
    except JpuError:
        return []
    return sorted((text for text in texts if len(text) > 2), key=len, reverse=True)
