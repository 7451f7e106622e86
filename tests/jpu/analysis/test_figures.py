from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from jpu.analysis.causal import Effect
from jpu.analysis.families import ALL, MEASURES, Convergence
from jpu.analysis.figures import (
    CONDITIONS,
    Sheet,
    alone,
    causal_sheet,
    convergence_sheet,
    family_sheet,
    on_page,
    overlap_sheet,
)
from jpu.analysis.overlap import LayerOverlap, Overlap
from jpu.analysis.resampling import Interval
from jpu.evaluation.metrics import Estimate

SVG = "{http://www.w3.org/2000/svg}"


def layers() -> list[LayerOverlap]:
    def overlaps(layer: int) -> list[Overlap]:
        value = 0.25 * (layer + 1)
        return [
            Overlap(name, share, Interval(value, value - 0.1, value + 0.1), {})
            for name in CONDITIONS
            for share in (0.01, 0.05)
        ]

    return [LayerOverlap(n, overlaps(n), overlaps(n), {0.01: 0.1, 0.05: 0.1}) for n in range(3)]


def rows() -> list[Convergence]:
    return [
        Convergence(when, family, layer, 0.02, {m: Interval(0.1, 0.0, 0.2) for m in MEASURES})
        for when in ("before", "after")
        for family in ("role_play", ALL)
        for layer in range(3)
    ]


def effects() -> list[Effect]:
    one = Estimate(0.5, 0.4, 0.6, 9)
    return [
        Effect("neurons", selector, k, "zero", group, one, one, one, one)
        for k in (4, 8)
        for selector in ("none", "igi", "random")
        for group in ("jailbreak", "benign", "benign_wrapped")
    ]


SHEETS = [
    overlap_sheet("npo", layers(), "sensitive"),
    overlap_sheet("npo", layers(), "changed"),
    convergence_sheet(rows()),
    family_sheet(rows()),
    causal_sheet(effects()),
]


@pytest.mark.parametrize("sheet", SHEETS, ids=lambda sheet: sheet.name)
def test_a_sheet_is_a_file_of_its_own_and_a_part_of_a_page(sheet: Sheet) -> None:
    drawn = ElementTree.fromstring(alone(sheet))
    words = [e.text for e in drawn.iter(f"{SVG}text")]
    assert sheet.title in words
    assert {panel.caption for panel in sheet.panels} <= set(words) and {label for _, label in sheet.marks} <= set(words)
    # Nothing is fetched, nothing runs, and nothing is drawn outside.
    text = alone(sheet)
    assert not re.search(r"<script|href=|url\(|@import", text)
    width, height = float(drawn.get("width", 0)), float(drawn.get("height", 0))
    placed = [e for e in drawn.iter(f"{SVG}svg") if e.get("x") is not None and e.get("class") == "chart"]
    assert len(placed) == len(sheet.panels)
    for chart in placed:
        x, y, w, h = (float(chart.get(name, 0)) for name in ("x", "y", "width", "height"))
        assert x + w <= width and y + h <= height
    page = on_page(sheet)
    assert page.count("<figure>") == len(sheet.panels)
    ElementTree.fromstring(f"<div>{page}</div>".replace("\u00a0", " "))


def test_a_line_of_an_overlap_goes_through_its_values() -> None:
    sheet = overlap_sheet("npo", layers(), "sensitive")
    assert [panel.caption for panel in sheet.panels] == ["top 1 % of a layer's weights", "top 5 % of a layer's weights"]
    drawn = ElementTree.fromstring(sheet.panels[0].chart)
    (path,) = [e.get("d", "") for e in drawn.iter("path") if e.get("class") == "line one"]
    heights = [float(spot.split()[1]) for spot in re.split("[ML]", path)[1:]]
    # 0.25, 0.5 and 0.75: evenly spaced, upwards.
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.02) and heights[0] > heights[2]
    (chance,) = [e.get("d", "") for e in drawn.iter("path") if e.get("class") == "line chance"]
    assert len({spot.split()[1] for spot in re.split("[ML]", chance)[1:]}) == 1


def test_opposed_paths_are_drawn_below_the_line() -> None:
    """A cosine may be negative: −.5 lies between the line of 0, in the middle, and the lower end."""
    opposed = [
        Convergence(when, ALL, layer, 0.02, {m: Interval(-0.5, -0.6, -0.4) for m in MEASURES})
        for when in ("before", "after")
        for layer in range(2)
    ]
    for panel in convergence_sheet(opposed).panels:
        if panel.caption.endswith("cosine"):
            chart = str(panel.chart)
            (zero,) = map(float, re.findall(r'y1="([\d.]+)" y2="[\d.]+" class="rule"', chart))
            end = max(map(float, re.findall(r'y1="([\d.]+)" y2="[\d.]+" class="grid"', chart)))
            drawn = re.findall(r'<path d="M[\d.]+ ([\d.]+)L[\d.]+ ([\d.]+)" class="line', chart)
            assert len(drawn) == 2 and {float(y) for pair in drawn for y in pair} == {round((zero + end) / 2, 2)}
