"""Gates that need no figures: data checks, lineage, that nothing has changed since, and that it can be made again."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.gates.verdict import Evidence, Gate
from tasks.gates.wording import listed
from tasks.sections import GateSettings


def evidence_gates(evidence: Evidence, settings: GateSettings) -> Iterator[Gate]:
    """Whether what was made was made from checked data, and can be made again."""
    failing = [name for name, held in evidence.checks if not held]
    if not evidence.checks:
        yield Gate(name="data checks", passed=False, sentence="no result of Great Expectations")
    else:
        found = f"broken: {listed(failing)}" if failing else f"{len(evidence.checks)} expectations hold"
        yield Gate(name="data checks", passed=not failing, sentence=found)
    if evidence.broken or not evidence.links:
        found = evidence.broken or "its lineage was not verified"
        yield Gate(name="lineage", passed=False, sentence=found)
    else:
        yield Gate(name="lineage", passed=True, sentence=f"{evidence.links} links of its lineage hold")
    if evidence.changed is None:
        yield Gate(name="up to date", passed=False, sentence="dvc status was not asked")
    else:
        found = f"out of date: {listed(evidence.changed)}" if evidence.changed else "dvc status finds nothing changed"
        yield Gate(name="up to date", passed=not evidence.changed, sentence=found)
    if settings.reproduce:
        yield _reproduced(evidence, settings)


def _reproduced(evidence: Evidence, settings: GateSettings) -> Gate:
    """Whether every stage that was to be run once more was, and wrote the same bytes."""
    run = {stage.partition("@")[0] for stage, _ in evidence.reproduced}
    missing = [stage for stage in settings.reproduce if stage not in run]
    other = [stage for stage, same in evidence.reproduced if not same]
    if other:
        found = f"other bytes when run once more: {listed(other)}"
    elif missing:
        found = f"not run once more: {listed(missing)}"
    else:
        found = f"the same bytes when run once more: {listed([stage for stage, _ in evidence.reproduced])}"
    return Gate(name="reproduced", passed=not other and not missing, sentence=found)
