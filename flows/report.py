"""What a finished run shows: the before/after table, in the terminal and as Prefect artifacts.

The figures are those of artifacts/evaluation/metrics.json: `{"before": {name: {"value", "low", "high", "n"}},
"after": {...}}`. Knows their names only to choose words and the side on which each is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows.runner import Outcome

if TYPE_CHECKING:
    from rich.table import Table

# Name in metrics.json → words, and whether a low figure is the better one.
# Short enough for one line of a terminal of 80 columns.
FIGURES: dict[str, tuple[str, bool]] = {
    "asr_direct": ("direct attack", True),
    "asr_static": ("static attack", True),
    "asr_adaptive": ("adaptive attack", True),
    "asr_prefill": ("prefill attack", True),
    "asr_worst": ("worst attack", True),
    "asr_static_any": ("static attack, any prompt", True),
    "asr_adaptive_any": ("adaptive attack, any prompt", True),
    "direct_refusal": ("direct requests refused", False),
    "over_refusal": ("over-refusal", True),
    "over_refusal_in_template": ("over-refusal, templates", True),
    "benign_recall": ("benign recall, bare", False),
    "benign_in_template_recall": ("benign recall, templates", False),
    "near_miss_recall": ("near-miss recall, bare", False),
    "near_miss_in_template_recall": ("near-miss recall, templates", False),
    "incoherent": ("incoherent answers", True),
    "incoherent_attacked": ("incoherent under attack", True),
    "kl": ("KL from the original", True),
    "perplexity": ("perplexity", True),
}
_NOT_RATES = {"kl", "perplexity"}


@dataclass(frozen=True)
class Row:
    """One line of the table, in words."""

    name: str
    better: str
    before: str
    after: str
    n: str


def rows(figures: Mapping[str, Any]) -> list[Row]:
    """The table's rows: the known figures in their order, then whatever else is there, by name."""
    before, after = (_side(figures, side) for side in ("before", "after"))
    names = [name for name in FIGURES if name in before or name in after]
    names += sorted({*before, *after} - set(FIGURES))
    return [
        Row(
            name=FIGURES.get(name, (name.replace("_", " "), True))[0],
            better={True: "↓", False: "↑"}[FIGURES[name][1]] if name in FIGURES else "",
            before=_words(name, before.get(name)),
            after=_words(name, after.get(name)),
            n=str((after.get(name) or before.get(name) or {}).get("n", "")),
        )
        for name in names
    ]


def table(figures: Mapping[str, Any]) -> Table:
    """The table for a terminal."""
    from rich import box
    from rich.table import Table

    caption = "95 % intervals, clustered by entity; ↑ higher is better, ↓ lower is"
    shown = Table(title="before and after hardening", caption=caption, box=box.SIMPLE, padding=(0, 1, 0, 0))
    shown.show_edge = shown.pad_edge = False
    shown.add_column("", no_wrap=True)
    for side in ("before", "after", "n"):
        shown.add_column(side, justify="right", no_wrap=True)
    for row in rows(figures):
        shown.add_row(f"{row.better or ' '} {row.name}", row.before, row.after, row.n)
    return shown


def markdown(figures: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    """The same table, and what each stage did, as Markdown."""
    lines = ["| | better | before | after | n |", "| --- | --- | ---: | ---: | ---: |"]
    lines += [f"| {r.name} | {r.better} | {r.before} | {r.after} | {r.n} |" for r in rows(figures)]
    lines += ["", "| stage | what | why | seconds |", "| --- | --- | --- | ---: |"]
    lines += [f"| {o.stage} | {o.what} | {o.why} | {o.seconds:.1f} |" for o in outcomes]
    return "\n".join(lines)


def publish(figures: Mapping[str, Any], outcomes: Sequence[Outcome]) -> None:
    """Leave the figures as Prefect artifacts of the current flow run: one for reading, one for sorting."""
    from prefect.artifacts import create_markdown_artifact, create_table_artifact

    create_markdown_artifact(markdown(figures, outcomes), key="hardening", description="Before and after")
    create_table_artifact(
        [vars(row) for row in rows(figures)], key="hardening-figures", description="Before and after, as rows"
    )


def _side(figures: Mapping[str, Any], side: str) -> dict[str, Mapping[str, Any]]:
    found = figures.get(side, {})
    return {name: value for name, value in found.items() if isinstance(value, Mapping) and "value" in value}


def _words(name: str, figure: Mapping[str, Any] | None) -> str:
    """`2.1 % (0.4-5.0)`: rates in per cent, the rest as numbers; the interval where there is one."""
    if figure is None or figure["value"] is None:
        return "-"
    scale, unit, digits = (1.0, "", 3) if name in _NOT_RATES else (100.0, " %", 1)
    value, low, high = (
        None if number is None else f"{scale * float(number):.{digits}f}"
        for number in (figure["value"], figure.get("low"), figure.get("high"))
    )
    return f"{value}{unit}" + (f" ({low}-{high})" if low is not None and high is not None else "")
