from __future__ import annotations

import re
from xml.etree import ElementTree

from jpu.card import Figure
from jpu.card.charts import HEIGHT, WIDTH, Dot, Line, dots, lines, strip


def points(path: str) -> list[tuple[float, float]]:
    found = [spot.split() for spot in re.split(r"[ML]", path.rstrip("Z")) if spot]
    return [(float(x), float(y)) for x, y in found]


def test_an_interval_lies_where_its_figures_are() -> None:
    drawn = ElementTree.fromstring(
        strip("t", Figure(value=0.5, low=0.25, high=0.75), Figure(value=0.036458333333333336))
    )
    whisker = next(e for e in drawn.iter("line") if e.get("class") == "whisker before")
    assert (whisker.get("x1"), whisker.get("x2")) == ("25%", "75%")
    assert [e.get("x") for e in drawn.iter("svg") if e.get("class") == "spot"] == ["50%", "3.646%"]
    assert not [e for e in drawn.iter("line") if e.get("class") == "whisker after"]


def test_an_interval_stays_on_its_strip() -> None:
    drawn = ElementTree.fromstring(strip("t", None, Figure(value=1.2, low=-0.2, high=1.5)))
    whisker = next(e for e in drawn.iter("line") if e.get("class") == "whisker after")
    assert (whisker.get("x1"), whisker.get("x2")) == ("0%", "100%")


def test_what_was_not_measured_has_no_marks() -> None:
    assert strip("t", None, None) == ""
    assert lines("t", [Line("a", "after", ())], across="x") == ""


def test_a_line_runs_through_its_points() -> None:
    line = Line("a", "after", ((0.0, 0.0), (5.0, 0.5), (10.0, 1.0)), band=((0.0, 0.0, 0.25), (10.0, 0.75, 1.0)))
    drawn = ElementTree.fromstring(lines("t", [line], across="x", bounds=(0.0, 1.0), rule=0.5))
    paths = {e.get("class"): e.get("d", "") for e in drawn.iter("path")}
    left, middle, right = points(paths["line after"])
    assert middle == ((left[0] + right[0]) / 2, (left[1] + right[1]) / 2)
    assert (left[0] > 0, right[0] < WIDTH, left[1] < HEIGHT, right[1] > 0) == (True,) * 4
    high = left[1] - 0.25 * (left[1] - right[1])
    assert points(paths["band after"])[0] == (left[0], high)
    rule = next(e for e in drawn.iter("line") if e.get("class") == "rule")
    assert float(rule.get("y1", "nan")) == middle[1]
    ticks = [e.text for e in drawn.iter("text")]
    assert ticks == ["0\u00a0%", "25\u00a0%", "50\u00a0%", "75\u00a0%", "100\u00a0%", "0", "10", "x"]


def test_one_point_and_a_flat_line_can_be_drawn() -> None:
    for flat in (((3.0, 2.0),), ((1.0, 2.0), (2.0, 2.0)), ((1.0, 0.0), (2.0, 0.0)), ((1.0, -4e-12), (2.0, 0.0032))):
        drawn = ElementTree.fromstring(lines("t", [Line("a", "after", flat)], across="x", style="number"))
        (path,) = (e.get("d", "") for e in drawn.iter("path") if e.get("class") == "line after")
        assert len(points(path)) == len(flat)
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points(path))


def test_long_curves_have_a_mark_at_their_end_only() -> None:
    curve = tuple((float(x), float(x)) for x in range(200))
    drawn = ElementTree.fromstring(lines("t", [Line("a", "after", curve)], across="x", style="number"))
    assert len([e for e in drawn.iter("path") if e.get("class") == "mark after"]) == 1


def test_a_row_of_dots_has_its_marks_where_their_figures_are() -> None:
    rows = [("a", [Dot("one", 0.5, 0.25, 0.75), Dot("two", 0.0, -0.5, 0.2)]), ("b", [])]
    drawn = ElementTree.fromstring(dots("t", rows, across="x", bounds=(0.0, 1.0)))
    spans = {e.get("class"): (float(e.get("x1", 0)), float(e.get("x2", 0))) for e in drawn.iter("line")}
    zero = spans["rule"][0]
    left, right = spans["line one"]
    half = WIDTH - 12 - zero
    assert (left, right) == (zero + half / 4, zero + 3 * half / 4)
    # What lies outside the axis ends at it.
    assert spans["line two"][0] == zero
    assert [e.text for e in drawn.iter("text") if e.text in "ab"] == ["a", "b"]


def test_the_ticks_of_differences_are_points_with_their_sign() -> None:
    drawn = dots("t", [("a", [])], across="x", bounds=(-0.2, 0.2), style="points")
    assert [e.text for e in ElementTree.fromstring(drawn).iter("text")][:5] == ["−20", "−10", "0", "+10", "+20"]
