from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest

from jpu.retries import backoff, passes_by, retry_after

NOON = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0.0),
        ("", 0.0),
        ("7", 7.0),
        (" 0.25 ", 0.25),
        ("Sun, 01 Mar 2026 12:01:30 GMT", 90.0),
        ("Sun, 01 Mar 2026 14:00:05 +0200", 5.0),
        ("Sun, 01 Mar 2026 12:00:05 -0000", 5.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),
        ("-3", 0.0),
        ("soon", 0.0),
        ("1.2.3", 0.0),
        (".", 0.0),
        ("nan", 0.0),
        ("²", 0.0),
        ("9" * 400, float("inf")),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float) -> None:
    assert retry_after(header, NOON) == seconds


def test_the_wait_doubles_up_to_half_a_minute_and_is_drawn_below_that() -> None:
    bounds = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    waits = [backoff(tries, 0.5, random.Random(tries)) for tries in range(1, 9)]
    assert waits == [bound * random.Random(tries).random() for tries, bound in enumerate(bounds, 1)]


def test_what_may_pass_by() -> None:
    assert [s for s in range(300, 600) if passes_by(s) and s < 500] == [408, 409, 425, 429]
    assert all(passes_by(s) for s in range(500, 600))
