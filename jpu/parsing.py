"""Bytes to text to JSON, strictly, with errors that name the place.

Pure: opens nothing. `jpu.files` reads with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from jpu.errors import DataError

_MEND_JSON = "Mend or remove it, or fetch the file again."


def decode(data: bytes, *, where: str, offset: int = 0) -> str:
    """Decode UTF-8, dropping a byte order mark.

    Args:
        data: The bytes.
        where: File (and line) for the message.
        offset: Position of `data` in its file, for the message.

    Raises:
        DataError: Not UTF-8; the message has the offset of the first bad byte.
    """
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        bad = data[error.start]
        raise DataError(
            f"not UTF-8: byte 0x{bad:02x} at offset {offset + error.start}",
            where=where,
            mend="Save the file as UTF-8 and run again.",
        ) from None


def parse_json(text: str, *, where: str) -> Any:
    """Parse JSON strictly: no repeated keys, no NaN or Infinity, no half surrogates.

    Raises:
        DataError: Not such JSON; the message has the column, or says that the text breaks off.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        end = len(text.rstrip())
        if error.pos >= end or error.msg.startswith("Unterminated string"):
            what = f"the JSON breaks off after {end} characters (truncated?)"
        else:
            line = f"line {error.lineno}, " if error.lineno > 1 else ""
            what = f"not JSON: {error.msg} at {line}column {error.colno}"
        raise DataError(what, where=where, mend=_MEND_JSON) from None
    except (ValueError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DataError(f"JSON that cannot be used: {what}", where=where, mend=_MEND_JSON) from None
    if "\\ud" in text.lower():
        # A lone \udXXX escape parses, and can then be neither encoded nor tokenised.
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise DataError(
                "half of a surrogate pair in a string",
                where=where,
                mend="Write the character itself, in UTF-8.",
            ) from None
    return value


def parse_jsonl(data: bytes, *, where: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) from the bytes of a JSONL file."""
    offset = 0
    for number, line in enumerate(data.split(b"\n"), start=1):
        place = f"{where} line {number}"
        text = decode(line, where=place, offset=offset)
        offset += len(line) + 1
        if not text.strip():
            continue
        value = parse_json(text, where=place)
        if not isinstance(value, dict):
            raise DataError(
                f"a JSON object was expected, not {type(value).__name__}",
                where=place,
                mend='Write one object a line, such as {"id": "…", …}.',
            )
        yield number, value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {repeated!r} is there twice")
    return fields


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
