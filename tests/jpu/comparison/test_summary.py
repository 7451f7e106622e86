"""Rows made by hand as tables, plots and a page: every number is where it belongs."""

from __future__ import annotations

import csv
import io
import re
from xml.etree import ElementTree

import pytest

from jpu.card.figure import Figure
from jpu.card.numbers import exact
from jpu.comparison.answers import Question, by_group, verdict
from jpu.comparison.forest import forest_plots
from jpu.comparison.metrics import RECALLS
from jpu.comparison.page import render
from jpu.comparison.pareto import chart, points
from jpu.comparison.plot_file import plot_file
from jpu.comparison.records import Kind, Summary, TrialRecord
from jpu.comparison.rows import Cost, Outcome, Row
from jpu.comparison.statistics import Bootstrap
from jpu.comparison.summary import pooled_answers, summarise_group
from jpu.comparison.tables import as_csv, markdown, remarks

METHODS: dict[str, tuple[str, Kind]] = {
    "original": ("the subject as it is", "original"),
    "jpu": ("all of it", "ours"),
    "npo": ("negative preference <optimisation>", "baseline"),
    "random": ("a random path", "control"),
}
# Method → worst attack, recalls, steps to relearn; each in two runs.
SHARES = {
    "original": ((1.0, 1.0), (1.0, 1.0), (0.0, 0.0)),
    "jpu": ((0.1, 0.2), (1.0, 1.0), (10.0, None)),
    "npo": ((0.3, 0.4), (0.9, 0.9), (4.0, 6.0)),
    "random": ((0.3, 0.2), (0.8, 0.8), (4.0, 4.0)),
}

QUESTIONS = (
    Question("Is it better than NPO?", "jpu", "npo"),
    Question("And NPO?", "npo", "jpu"),
    Question("Is a random path any good?", "random", "npo"),
    Question("Of whom there is no run?", "jpu", "dpo"),
)


def row(method: str, run: int, weights: str = "w") -> Row:
    attack, recall, steps = (values[run] for values in SHARES[method])
    assert attack is not None and recall is not None
    shares = {"asr_static": attack, "asr_prefill": attack / 2, "over_refusal": 0.0} | dict.fromkeys(RECALLS, recall)
    return Row(
        key=f"{method}-{run}",
        kind="final",
        subject=f"s{run}",
        method=method,
        seed=0,
        trial=0,
        settings={},
        entities={"all": ("e1", "e2")},
        outcomes={n: Outcome(of="all", k=(round(20 * v), round(20 * v)), n=(20, 20)) for n, v in shares.items()},
        figures={
            "kl": 0.01 * (run + 1),
            "trained_parameters": 1000.0,
            "relearning_benign": steps,
            "curve_benign_0": attack,
            "curve_benign_32": 0.4,
        },
        weights=weights,
        cost=Cost(train_seconds=2.5, peak_mib=512.0, machine="a processor"),
    )


@pytest.fixture(scope="module")
def summary() -> Summary:
    rows = {method: {f"s{run}": row(method, run) for run in (0, 1)} for method in METHODS}
    rows["npo"]["s1"] = row("npo", 1, weights="other")
    trial = TrialRecord(
        subject="t",
        method="npo",
        trial=1,
        changes={"unlearning.learning_rate": 0.001},
        worst=0.25,
        utility=0.125,
        chosen=True,
    )
    return Summary(
        reference="jpu",
        confidence=0.95,
        resamples=300,
        groups=(summarise_group("sandbox", rows, METHODS, "jpu", Bootstrap(300), QUESTIONS),),
        trials=(trial,),
        wanted=9,
        missing=1,
        machines=("a processor",),
    )


def test_means_and_differences_are_those_of_the_rows(summary: Summary) -> None:
    (group,) = summary.groups
    by_name = {m.name: m for m in group.methods}
    assert list(by_name) == list(METHODS) and group.runs == ("s0", "s1")
    assert by_name["jpu"].figures["asr_worst"].value == pytest.approx(0.15)
    assert by_name["jpu"].by_run["asr_worst"] == (0.1, 0.2)
    # Recalls of .9 and nothing refused: 1 − (4 × .9 + 1) / 5.
    assert by_name["npo"].figures["utility_loss"].value == pytest.approx(0.08)
    difference = by_name["npo"].differences["asr_worst"]
    assert difference.value == pytest.approx(0.2) and (difference.above, difference.below, difference.n) == (2, 0, 2)
    # Certain in itself; the smallest of three tests, so three times that.
    assert difference.p == pytest.approx(2 / 301) and difference.adjusted == pytest.approx(6 / 301)
    assert by_name["jpu"].differences == {}
    assert "trained_parameters" not in by_name["npo"].differences


def test_what_was_not_reached_counts_as_the_most_that_was_tried(summary: Summary) -> None:
    ours = next(m for m in summary.groups[0].methods if m.name == "jpu")
    assert ours.figures["relearning_benign"].value == 21.0 and ours.limited["relearning_benign"] == 1
    assert "≥21.0" in markdown(summary)


def test_the_frontier_is_read_off_the_means_and_mixed_weights_are_named(summary: Summary) -> None:
    (group,) = summary.groups
    assert group.frontier == ("jpu",)
    assert group.mixed == {"npo": ("s1",)}
    assert "different weights: npo (s1)." in markdown(summary) and "different weights: npo (s1)." in render(summary)


def test_the_spread_leaves_the_undefended_subject_out(summary: Summary) -> None:
    found = summary.groups[0].spread["asr_worst"]
    assert (found.low, found.high) == pytest.approx((0.15, 0.35))
    assert "train_seconds" not in summary.groups[0].spread


def test_the_curves_stay_where_a_run_fell(summary: Summary) -> None:
    original = next(m for m in summary.groups[0].methods if m.name == "original")
    assert original.curves == {"benign": ((0, 1.0), (32, 0.4))}


def test_relearning_is_drawn_for_the_reference_and_the_two_that_last_longest(summary: Summary) -> None:
    (group,) = summary.groups
    npo = next(m for m in group.methods if m.name == "npo")
    kinds: dict[str, tuple[Kind, float]] = {
        "brief": ("baseline", 2.0),
        "lasting": ("baseline", 14.0),
        "another": ("ours", 20.0),
        "a-control": ("control", 30.0),
    }
    more = tuple(
        npo.model_copy(
            update={"name": name, "kind": kind, "figures": npo.figures | {"relearning_restricted": Figure(value=steps)}}
        )
        for name, (kind, steps) in kinds.items()
    )
    wider = group.model_copy(update={"methods": (*group.methods, *more)})
    section = render(summary.model_copy(update={"groups": (wider,)})).split("Relearning</h3>")[1].split("<figure")[0]
    assert re.findall(r"</svg>\s*([a-z-]+)", section) == ["jpu", "another", "lasting"]


def test_the_page_holds_every_mean_with_its_exact_value(summary: Summary) -> None:
    page = render(summary)
    for group in summary.groups:
        for method in group.methods:
            for key, found in method.figures.items():
                value = found.value
                assert value is not None
                assert f'value="{exact(value)}" data-key="{group.name}.{method.name}.{key}.value"' in page
            for key, difference in method.differences.items():
                if key not in ("train_seconds", "peak_mib"):
                    assert (
                        f'value="{exact(difference.value)}" data-key="{group.name}.{method.name}.{key}.difference"'
                        in page
                    )
    assert "8 of 9 runs. 1 are missing" in page
    assert "<optimisation>" not in page and "&lt;optimisation&gt;" in page
    assert not re.search(r"<script|https?://(?!arxiv)", page.replace("http://www.w3.org/2000/svg", ""))


def test_questions_are_answered_by_what_is_more_than_chance(summary: Summary) -> None:
    (group,) = summary.groups
    ours, theirs, chance = group.answers
    words = {m.key: m.words for m in group.metrics}
    # Two runs are few; what is said of more is what is looked at here.
    assert "in 2 runs alone: better on worst attack" in verdict(ours, words)
    ours, theirs, chance = (answer.model_copy(update={"runs": 3}) for answer in group.answers)
    assert group.answers[0].runs == 2 and set(ours.differences) == {"asr_worst", "asr_prefill", "utility_loss"}
    difference = ours.differences["asr_worst"]
    assert difference.value == pytest.approx(-0.2)
    # Three figures of this question, each certain in itself: the least p is taken three times.
    assert difference.p == pytest.approx(2 / 301) and difference.adjusted == pytest.approx(6 / 301)
    assert ours.better == ("asr_worst", "asr_prefill", "utility_loss") and ours.worse == ()
    assert verdict(ours, words) == "yes: better on worst attack, prefill, utility loss"
    assert (theirs.better, theirs.worse) == ((), ours.better)
    assert verdict(theirs, words) == "no: worse on worst attack, prefill, utility loss"
    # 30 against 30 % and 20 against 40: higher in none, and chance; a utility loss of 16 against 8 % is none.
    assert verdict(chance, words) == "no: worse on utility loss"
    both = ours.model_copy(update={"worse": ("asr_prefill",), "better": ("asr_worst",)})
    assert verdict(both, words) == "in part: better on worst attack; worse on prefill"
    assert verdict(ours.model_copy(update={"better": ()}), words) == "not shown"
    assert verdict(both.model_copy(update={"runs": 1}), words) == (
        "in 1 run alone: better on worst attack; worse on prefill"
    )
    for shown in (markdown(summary), render(summary)):
        assert "Is it better than NPO?" in shown and "Of whom" not in shown


def test_the_csv_has_a_line_for_each_figure(summary: Summary) -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(summary))))
    assert len(lines) == sum(len(m.figures) for m in summary.groups[0].methods)
    found = next(line for line in lines if line["method"] == "npo" and line["metric"] == "asr_worst")
    assert float(found["value"]) == pytest.approx(0.35) and float(found["difference"]) == pytest.approx(0.2)
    assert (found["above"], found["below"], found["runs"], found["limited"]) == ("2", "0", "2", "")
    ours = next(line for line in lines if line["method"] == "jpu" and line["metric"] == "relearning_benign")
    assert ours["limited"] == "1" and ours["difference"] == ""


def test_the_tables_name_what_was_tried(summary: Summary) -> None:
    text = markdown(summary)
    assert "| t | npo | 1 | unlearning.learning\\_rate 0.001 | 25.0\u00a0% | 12.5\u00a0% | chosen |" in text
    rows = [line for line in text.splitlines() if line.startswith("| npo |")]
    assert len(rows) == 5 and all(line.count("|") > 3 for line in rows)


def test_the_plot_has_a_mark_for_each_method_where_it_belongs(summary: Summary) -> None:
    (group,) = summary.groups
    svg = ElementTree.fromstring(plot_file(group))
    names = [t.text for t in svg.iter("{http://www.w3.org/2000/svg}title")]
    assert len(names) == 1 + len(group.methods)
    marks = points(group)
    assert [(p.number, p.method.name) for p in marks] == [(1, "original"), (2, "jpu"), (3, "npo"), (4, "random")]
    rect = svg.find(".//{http://www.w3.org/2000/svg}rect[@class='dot control']")
    circle = svg.find(".//{http://www.w3.org/2000/svg}circle[@class='dot baseline']")
    assert rect is not None and circle is not None
    # A random path costs more utility and lets less through than NPO: to the right, and lower on the page.
    assert float(rect.attrib["x"]) + 4.5 > float(circle.attrib["cx"])
    assert float(rect.attrib["y"]) + 4.5 > float(circle.attrib["cy"])


def test_the_file_of_the_plot_says_what_its_numbers_stand_for(summary: Summary) -> None:
    (group,) = summary.groups
    svg = ElementTree.fromstring(plot_file(group))
    wide, high = (float(size) for size in svg.attrib["viewBox"].split()[2:])
    texts = svg.findall(".//{http://www.w3.org/2000/svg}text")
    named = [text for text in texts if text.attrib.get("class") == "named"]
    kinds = [text.text for text in texts if text.attrib.get("class") == "heading"]
    assert kinds == ["ours", "baselines", "controls", "the subject as it is"]
    by_height = {float(text.attrib["y"]): text.text for text in texts if text.attrib.get("text-anchor") == "end"}
    found = {by_height[float(text.attrib["y"])]: text.text for text in named}
    assert found == {str(p.number): METHODS[p.method.name][0] for p in points(group)}
    # Letters are some six wide.
    assert all(float(t.attrib["x"]) + 6 * len(t.text or "") < wide and float(t.attrib["y"]) < high for t in named)
    assert plot_file(group.model_copy(update={"methods": ()})) == ""


def test_numbers_of_methods_in_one_place_do_not_lie_on_each_other() -> None:
    methods: dict[str, tuple[str, Kind]] = {name: (name, "baseline") for name in ("jpu", "a", "b", "c", "d")}
    found = summarise_group("g", {m: {"s0": row("jpu", 0)} for m in methods}, methods, "jpu", Bootstrap(50))
    svg = ElementTree.fromstring(plot_file(found))
    labels = svg.findall(".//{http://www.w3.org/2000/svg}text[@class='label']")
    places = [(float(label.attrib["x"]), float(label.attrib["y"])) for label in labels]
    assert sorted(str(label.text) for label in labels) == ["1", "2", "3", "4", "5"]
    pairs = [(one, other) for i, one in enumerate(places) for other in places[:i]]
    assert all(abs(a - c) >= 6.5 or abs(b - d) >= 9 for (a, b), (c, d) in pairs)
    for line in svg.findall(".//{http://www.w3.org/2000/svg}line[@class='whisker ours']"):
        x1, x2, y1, y2 = (float(line.attrib[key]) for key in ("x1", "x2", "y1", "y2"))
        assert not [1 for x, y in places if x < x2 and x1 < x + 6.5 and y - 9 < y2 and y1 < y]


def test_an_ablation_off_the_frontier_has_a_number_only_where_there_is_room() -> None:
    crowd: dict[str, tuple[str, Kind]] = {f"a{i}": ("one of many", "ablation") for i in range(12)}
    methods: dict[str, tuple[str, Kind]] = {"jpu": METHODS["jpu"], **crowd, "apart": ("far from all", "ablation")}
    rows = {m: {"s0": row("jpu" if m == "jpu" else "npo" if m == "apart" else "random", 0)} for m in methods}
    found = summarise_group("g", rows, methods, "jpu", Bootstrap(50))
    assert found.frontier == ("jpu",)
    labels = [t.text for t in ElementTree.fromstring(chart(found)).iter("text") if t.attrib["class"] == "label"]
    numbers = {p.method.name: str(p.number) for p in points(found)}
    assert numbers["jpu"] in labels and numbers["apart"] in labels
    assert 0 < len(labels) - 2 < len(crowd)


def test_a_question_that_two_groups_answer_is_shown_once_for_each(summary: Summary) -> None:
    assert "group by group" not in markdown(summary) + render(summary)
    rows = {method: {f"s{run}": row(method, run) for run in (0, 1)} for method in ("jpu", "npo")}
    other = summarise_group("large", rows, METHODS, "jpu", Bootstrap(300), QUESTIONS)
    first = {method: {f"f{run}": row(method, run) for run in (0, 1)} for method in METHODS}
    whole = pooled_answers([first, rows], QUESTIONS, Bootstrap(300))
    both = summary.model_copy(update={"groups": (*summary.groups, other), "pooled": whole})
    words = [(words, [group for group, _ in found]) for words, found in by_group(both)]
    assert words == [(q.words, ["sandbox", "large", "pooled"]) for q in QUESTIONS[:2]]
    assert whole[0].runs == 4 and whole[0].differences["asr_worst"].value == pytest.approx(-0.2)
    table = markdown(both).split("group by group")[1].split("##")[0]
    lines = [line for line in table.splitlines() if "better than NPO" in line]
    assert [line.split(" | ")[1] for line in lines] == ["sandbox", "large", "pooled"]
    assert all("−20.0 pp" in line and "−8.0 pp" in line for line in lines)
    drawn = ElementTree.fromstring(str(forest_plots(both)))
    plots = [plot for plot in drawn.iter("svg") if plot.attrib.get("class") == "chart"]
    assert len(plots) == 2
    said = [[part.text for part in caption.iter("span")][-1] for caption in drawn.iter("figcaption")]
    assert said == [f"pooled: {verdict(answer, {m.key: m.words for m in other.metrics})}" for answer in whole[:2]]
    assert said[0].startswith("pooled: yes: better on worst attack") and said[1].startswith("pooled: no")
    # Three lines with two marks each, and NPO against JPU is JPU against NPO in a mirror.
    marks = [[_x(mark) for mark in plot.iter() if "mark" in mark.attrib.get("class", "")] for plot in plots]
    zero = next(float(line.attrib["x1"]) for line in plots[0].iter("line") if line.attrib["class"] == "rule")
    assert len(marks[0]) == 6
    assert [x - zero for x in marks[0]] == pytest.approx([zero - x for x in marks[1]], abs=0.1)


def _x(mark: ElementTree.Element) -> float:
    if "transform" in mark.attrib:
        return float(mark.attrib["transform"].split("(")[1].split()[0])
    return float(mark.attrib["x"]) + float(mark.attrib["width"]) / 2


def test_nothing_measured_is_an_empty_report() -> None:
    empty = Summary(
        reference="jpu", confidence=0.95, resamples=100, groups=(), trials=(), wanted=3, missing=3, machines=()
    )
    assert "0 of 3 runs" in markdown(empty) and "0 of 3 runs" in render(empty)
    assert as_csv(empty).count("\n") == 1


def test_of_few_runs_it_is_said_that_they_are_few() -> None:
    for count, few in ((1, True), (2, True), (3, False)):
        rows = {method: {f"s{i}": row(method, i % 2) for i in range(count)} for method in METHODS}
        said = remarks(summarise_group("g", rows, METHODS, "jpu", Bootstrap(50)))
        assert any("Fewer than 3 runs" in line for line in said) is few


def test_who_lacks_runs_is_drawn_faintly_and_on_no_frontier() -> None:
    rows = {method: {f"s{run}": row(method, run) for run in (0, 1)} for method in METHODS}
    assert "jpu" in summarise_group("g", rows, METHODS, "jpu", Bootstrap(50)).frontier
    del rows["jpu"]["s0"]
    found = summarise_group("g", rows, METHODS, "jpu", Bootstrap(50))
    ours = next(m for m in found.methods if m.name == "jpu")
    assert found.runs == ("s0", "s1") and not ours.complete and "jpu" not in found.frontier
    assert re.findall(r'<g class="(\w+)">', str(chart(found))) == ["short"]
    assert "Not all of them: jpu." in "\n".join(remarks(found))


def ended(method: str, run: int, steps: float, *, out_of_time: float = 0.0) -> Row:
    figures = row(method, run).figures | {"steps": steps, "out_of_time": out_of_time}
    return row(method, run).model_copy(update={"figures": figures, "settings": {"unlearning": {"steps": 160}}})


def test_trainings_that_ended_early_are_named() -> None:
    rows = {
        "jpu": {"s0": ended("jpu", 0, 160), "s1": ended("jpu", 1, 160)},
        "npo": {"s0": ended("npo", 0, 40), "s1": ended("npo", 1, 100)},
        "random": {"s0": ended("random", 0, 0, out_of_time=1.0), "s1": ended("random", 1, 0)},
    }
    group = summarise_group("g", rows, METHODS, "jpu", Bootstrap(50, 0.95, 1))
    (said,) = [line for line in remarks(group) if "ended" in line]
    assert said == (
        "Trainings that ended before their last step: by the KL budget npo (2 of 2 runs, after 40 to 100 of 160 "
        "steps), random (1 of 2 runs, after 0 of 160 steps); by the CPU seconds random (1 of 2 runs)."
    )
    only = summarise_group("g", {"jpu": rows["jpu"]}, METHODS, "jpu", Bootstrap(50, 0.95, 1))
    assert not [line for line in remarks(only) if "ended" in line]
