"""When to ask a server again, and after how long: exponential backoff with full jitter, and Retry-After.

The jitter is drawn from a source that is given, one a request, so that requests which failed together do not come back
together, and a run stays a function of its seed.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Of the statuses below 500: request timeout, conflict of a lock, too early, too many requests.
_PASSING = frozenset({408, 409, 425, 429})
_LONGEST_BACKOFF = 30.0


def passes_by(status: int) -> bool:
    """Whether an HTTP status may be another one the next time."""
    return status in _PASSING or status >= 500


def backoff(tries: int, first: float, rng: random.Random) -> float:
    """Seconds to wait after so many failed tries: at most ``first``, and twice as many after each more.

    Args:
        tries: Failed tries, at least 1.
        first: Longest wait after the first, in seconds.
        rng: Source of the jitter.
    """
    return min(_LONGEST_BACKOFF, first * 2.0 ** (tries - 1)) * rng.random()


def retry_after(header: str | None, now: datetime | None = None) -> float:
    """Seconds that a Retry-After header asks for, as a number or a date (RFC 9110, 10.2.3); 0 where it is neither.

    Args:
        header: Its value; None where there is none.
        now: The time, for dates; that of the machine by default.
    """
    text = (header or "").strip()
    if text.replace(".", "", 1).isascii() and text.replace(".", "", 1).isdigit():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    moment = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())
