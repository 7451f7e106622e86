from __future__ import annotations

import pytest

from jpu.card.numbers import Number, Style, exact, lower, plain, show


@pytest.mark.parametrize(
    ("value", "style", "text"),
    [
        (0.036458333333333336, "share", "3.6 %"),
        (0.0, "share", "0.0 %"),
        (1.0, "share", "100.0 %"),
        (0.0004, "share", "<0.1 %"),
        (0.0005, "share", "0.1 %"),
        (0.9996, "share", ">99.9 %"),
        (0.5, "bare", "50.0"),
        (None, "share", "–"),
        (1163264, "count", "1\u202f163\u202f264"),
        (0, "count", "0"),
        (1.0218625527590544, "number", "1.022"),
        (0.009556898961580934, "number", "0.0096"),
        (-0.23435720801353455, "number", "−0.234"),
        (0.00001, "number", "<0.0001"),
        (-0.00001, "number", "−<0.0001"),
        (0.0, "number", "0"),
        (12345.6, "number", "12\u202f346"),
        (12.34, "number", "12.3"),
        (3.25, "seconds", "3.2"),
        (0.036, "points", "+3.6 pp"),
        (-0.906, "points", "−90.6 pp"),
        (0.0, "points", "0.0 pp"),
        (-0.0001, "points", "0.0 pp"),
        (-0.126, "bare_points", "−12.6"),
        (-0.0123, "signed", "−0.0123"),
        (0.0, "signed", "0"),
    ],
)
def test_a_number_is_shown_so(value: float | None, style: Style, text: str) -> None:
    assert show(value, style).replace("\u00a0", " ") == text


def test_an_interval_names_its_unit_once() -> None:
    ends = [show(0.1, lower(style)) + " to " + show(0.2, style) for style in ("share", "points", "signed")]
    assert ends == ["10.0 to 20.0\u00a0%", "+10.0 to +20.0\u00a0pp", "+0.1 to +0.2"]


def test_exact_is_exact() -> None:
    assert all(float(exact(value)) == value for value in (0.1 + 0.2, 1 / 3, 1e-17, 0.036458333333333336))


def test_a_sentence_as_text() -> None:
    assert plain(("It is ", Number("k", 0.5), ".")) == "It is 50.0\u00a0%."
