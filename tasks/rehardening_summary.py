"""One re-hardening as people read it: Markdown for MLflow and for a Prefect artifact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Literal

from jpu.card.figure import Figure
from jpu.card.markdown import shown, table, text
from jpu.card.numbers import MISSING, show
from jpu.evaluation.names import place
from tasks.decision import Arrivals, Decision, Reason, style_of
from tasks.gates import Verdict
from tasks.measurement import Measurement, plain_name, words
from tasks.rehardening import Rehardening, plain_key, plain_link
from tasks.sections import Tolerances

# Gates of which there are many, told one by one only where they fail.
_MANY = {"attack": "on attacks", "family": "on families", "tolerance": "on tolerances", "limit": "on limits"}


def summary(
    run: Rehardening,
    *,
    promoted: Measurement | None = None,
    now: Measurement | None = None,
    challenger: Measurement | None = None,
) -> str:
    """The run as Markdown; equal runs give equal text.

    Args:
        run: The run.
        promoted: The champion's figures at promotion.
        now: Its figures on the data as they are now.
        challenger: The challenger's.
    """
    parts = [
        f"# Re-hardening, {text(run.profile)}: {run.ending}",
        f"**{text(run.headline)}.**",
        text(run.error),
        *_section("Why", _reasons(run.decision)),
        *_section("What came in", _arrivals(run.arrivals)),
        *_section("Gates", _gates(run.verdict)),
        *_section("Figures", _figures(promoted, now, challenger)),
        *_section("What to do next", "\n".join(f"- {line}" for line in _next(run))),
        *_section("Links", _links(run.links)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(title: str, body: str) -> list[str]:
    return [f"## {title}", body] if body else []


def _reasons(decision: Decision) -> str:
    lines = []
    if decision.reasons:
        rows = [
            (
                reason.trigger.replace("_", " "),
                text(_named(reason)),
                shown(reason.measured, _style(reason)),
                show(reason.bound, _style(reason)),
            )
            for reason in decision.reasons
        ]
        lines.append(table(("trigger", "figure", "champion now", "bound"), rows))
    else:
        lines.append("Every attack is within its bound, nothing has drifted, and nothing new has come in.")
    if decision.missing:
        names = ", ".join(
            text(words(name) if name.startswith("asr_") or "/" in name else plain_key(name))
            for name in decision.missing
        )
        lines.append(f"Not measured, so that nothing is said about it: {names}.")
    return "\n\n".join(lines)


def _style(reason: Reason) -> Literal["share", "number", "count"]:
    return "count" if reason.trigger == "new_behaviors" else "share" if style_of(reason.name) == "share" else "number"


def _arrivals(arrivals: Arrivals) -> str:
    lines = []
    if arrivals.families:
        names = [
            text(plain_name(name)) + (" (not measured: too few wordings)" if name in arrivals.unmeasured else "")
            for name in arrivals.families
        ]
        lines.append(f"- new families: {', '.join(names)}")
    if arrivals.behaviors:
        lines.append(f"- new behaviors: {arrivals.behaviors}")
    if arrivals.refused:
        found = ", ".join(f"{text(plain_name(reason))} {count}" for reason, count in sorted(arrivals.refused.items()))
        lines.append(f"- in quarantine, by reason: {found}")
    return "\n".join(lines)


def _gates(verdict: Verdict | None) -> str:
    """Those that failed, those about the reasons for the run, and how many others were passed."""
    if verdict is None:
        return ""
    rows = [
        (
            ("passed" if gate.passed else "**failed**"),
            text(gate.sentence),
            MISSING if gate.bound is None else text(show(gate.bound, style_of(gate.figure))),
            _difference(gate.difference),
        )
        for gate in sorted(verdict.gates, key=lambda gate: gate.passed)
        if not gate.passed or gate.kind not in _MANY
    ]
    others = Counter(_MANY[gate.kind] for gate in verdict.gates if gate.passed and gate.kind in _MANY)
    told = ", ".join(f"{count} {name}" for name, count in others.items())
    parts = [table(("gate", "found", "bound", "difference by behavior"), rows), told and f"Passed as well: {told}."]
    return "\n\n".join(part for part in parts if part)


def _difference(figure: Figure | None) -> str:
    if figure is None:
        return MISSING
    return f"{show(figure.value, 'points')} ({show(figure.low, 'points')} to {show(figure.high, 'points')})"


def _figures(promoted: Measurement | None, now: Measurement | None, challenger: Measurement | None) -> str:
    """Attacks, their families, and what has to keep working, in the order of a card."""
    sides = [("at promotion", promoted), ("champion now", now), ("challenger", challenger)]
    there = [(title, side) for title, side in sides if side is not None]
    metrics = dict.fromkeys(key for _, side in there for key in side.metrics if _shown(key))
    families = dict.fromkeys(key for _, side in there for key in side.families)
    keys = [*sorted(metrics, key=place), *families]
    if not keys:
        return ""
    rows = [(text(words(key)), *(shown(side.figure(key), style_of(key)) for _, side in there)) for key in keys]
    return table(("figure", *(title for title, _ in there)), rows)


def _shown(key: str) -> bool:
    return not key.startswith("relearned_") and not key.endswith("_any")


def _next(run: Rehardening) -> Iterator[str]:
    if run.ending == "promoted":
        yield f"Nothing. `jpu lineage {run.challenger}` shows where it comes from, `jpu diff` what it changes."
        yield f"`jpu rollback {run.champion}` brings the former champion back."
    elif run.ending == "failed":
        yield "The champion is as it was. Mend what the error names; what was made is in DVC's cache."
    elif run.verdict is not None:
        yield from _after_refusal(run.verdict)
    if run.arrivals.unmeasured:
        yield "Send more wordings of the families that are not measured: from three on, one is held out."
    if run.arrivals.refused:
        yield "Look into the quarantine: a `.reason.json` beside each file says what to mend."
    if run.decision.missing:
        yield "Find out why figures are missing: an attack that could not be run, or data that have nothing for it."


def _after_refusal(verdict: Verdict) -> Iterator[str]:
    kinds = {gate.kind for gate in verdict.failed}
    if "comparable" in kinds:
        yield "Measure both alike: the same `evaluation` settings, data and code."
    if "reproduced" in kinds:
        yield "Run the stage twice and compare: a GPU's kernels, another number of threads, or code that draws lots."
    if kinds & {"data checks", "lineage", "up to date"}:
        yield "`jpu verify challenger` and `dvc status` in the run's checkout name what does not hold."
    utility = {gate.figure in Tolerances.model_fields for gate in verdict.failed if gate.figure}
    if True in utility:
        yield "Utility: a lower `unlearning.kl_budget` or a higher `unlearning.weights.retain`, or more benign data."
    if False in utility:
        yield "Attacks: more `unlearning.steps` or a larger `mining.fresh`, or more wordings of the family."
    if utility:
        yield "The same data and settings make the same challenger again: `reharden.settings` changes the next one."
    yield "`jpu promote challenger` promotes it in spite of the gates, on your own word."


def _links(links: Mapping[str, str]) -> str:
    found = [(name, plain_link(address)) for name, address in links.items()]
    return "\n".join(f"- [{text(name)}](<{address}>)" for name, address in found if address and ">" not in address)


def _named(reason: Reason) -> str:
    """What a reason is about."""
    if reason.trigger == "new_family" and reason.measured is None:
        return f"family {plain_name(reason.name)}"
    return words(reason.name) if reason.trigger != "forced" else reason.name
