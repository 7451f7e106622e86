"""Forest plots: the same question in several groups of subjects. At which size does a part help, where does it stop?"""

from __future__ import annotations

from jpu.card.charts import Dot, dots, legend
from jpu.card.markup import Child, Markup, tag
from jpu.card.page.parts import note, section
from jpu.comparison.answers import AXES, POOLED, by_group, verdict
from jpu.comparison.records import AnswerRecord, Summary
from jpu.comparison.tables import FOREST

ANCHOR = "forest"
# The mark of each axis of the frontier.
_MARKS = dict(zip(AXES, ("one", "two"), strict=True))
# An axis no narrower than this, so that chance does not look like an effect.
_NARROWEST = 0.2


def forest_plots(summary: Summary) -> Markup:
    """A plot for each question, a row of it for each group; empty where no question is answered twice.

    All plots have one axis: what looks wider is wider. What all runs answer stands above each in words, for they may
    answer by a figure that is not drawn.
    """
    names = {m.key: m.words for group in summary.groups for m in group.metrics}
    asked = []
    for words, found in by_group(summary):
        _, first = found[0]
        rows = [(f"{group} ({answer.runs})", _dots(answer)) for group, answer in found]
        last, answer = found[-1]
        asked.append((words, f"{first.method} − {first.against}", f"{last}: {verdict(answer, names)}", rows))
    if not asked:
        return Markup("")
    drawn = [dot for *_, rows in asked for _, marks in rows for dot in marks]
    widest = max([_NARROWEST, *(abs(end) for dot in drawn for end in (dot.low, dot.high))])
    figures: list[Child] = []
    for words, methods, said, rows in asked:
        plot = dots(f"{words} {methods}", rows, across="difference, points", bounds=(-widest, widest), style="points")
        below = [tag("span", line, class_="sub") for line in (methods, said)]
        caption = tag("figcaption", tag("b", words), *below)
        figures.append(tag("figure", caption, plot))
    return section(
        ANCHOR,
        FOREST,
        note(
            "The first method − the second with its interval; left of 0 the first is better. Beside a group's name "
            f"stands how many runs of it both have; {POOLED}: the mean over the runs of all groups, each alike"
            + (f", without {', '.join(summary.apart)}, whose subjects are in others." if summary.apart else ".")
        ),
        legend(*((mark, names[key]) for key, mark in _MARKS.items() if key in names)),
        tag("div", *figures, class_="multiples forest"),
    )


def _dots(answer: AnswerRecord) -> list[Dot]:
    known = [(mark, answer.differences[key]) for key, mark in _MARKS.items() if key in answer.differences]
    # Shares have an interval, also of one run.
    return [Dot(mark, d.value, d.low, d.high) for mark, d in known if d.low is not None and d.high is not None]
