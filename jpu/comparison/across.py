"""The same question asked of several groups of subjects: at which size does a part help, and where does it stop?"""

from __future__ import annotations

from jpu.card.charts import Dot, dots, legend
from jpu.card.markup import Child, Markup, tag
from jpu.card.page.parts import note, section
from jpu.comparison.answers import AXES, TOGETHER, shared
from jpu.comparison.records import AnswerRecord, Summary
from jpu.comparison.tables import ACROSS

ANCHOR = "across"
# The mark of each axis of the frontier.
_FIGURES = dict(zip(AXES, ("one", "two"), strict=True))
# An axis no narrower than this, so that chance does not look like an effect.
_NARROWEST = 0.2


def across_section(summary: Summary) -> Markup:
    """A plot for each question, a row of it for each group; empty where no question is answered twice.

    All plots have one axis: what looks wider is wider.
    """
    asked = list(shared(summary))
    if not asked:
        return Markup("")
    marked = [dot for _, found in asked for _, answer in found for dot in _marks(answer)]
    widest = max([_NARROWEST, *(abs(end) for dot in marked for end in (dot.low, dot.high))])
    figures: list[Child] = []
    for words, found in asked:
        rows = [(f"{group} ({answer.runs})", _marks(answer)) for group, answer in found]
        methods = f"{found[0][1].method} − {found[0][1].against}"
        plot = dots(f"{words} {methods}", rows, across="difference, points", bounds=(-widest, widest), style="points")
        caption = tag("figcaption", tag("b", words), tag("span", methods, class_="sub"))
        figures.append(tag("figure", caption, plot))
    names = {m.key: m.words for group in summary.groups for m in group.metrics}
    return section(
        ANCHOR,
        ACROSS,
        note(
            "The first method − the second with its interval; left of 0 the first is better. Beside a group's name "
            f"stands how many runs of it both have; {TOGETHER}: the mean over the runs of all groups, each alike."
        ),
        legend(*((mark, names[key]) for key, mark in _FIGURES.items() if key in names)),
        tag("div", *figures, class_="multiples across"),
    )


def _marks(answer: AnswerRecord) -> list[Dot]:
    known = [(mark, answer.differences[key]) for key, mark in _FIGURES.items() if key in answer.differences]
    return [Dot(mark, d.value, d.low, d.high) for mark, d in known]
