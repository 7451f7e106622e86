"""Whether a challenger takes the champion's place: one gate for each thing that it has to show.

What is missing fails. What triggered the run has to be better by more than chance: the two intervals have no point in
common, or the interval of the difference, behavior by behavior, lies below zero; everything else must not be worse by
more than a bound. A challenger that is better in every figure passes every gate that a worse one passes.

Measures nothing and moves nothing: `tasks.champion` promotes.
"""

from __future__ import annotations

from tasks.gates.comparable import comparable
from tasks.gates.evidence import evidence_gates
from tasks.gates.improvement import improvement_gates
from tasks.gates.regression import attack_gates, utility_gates, worst_gate
from tasks.gates.verdict import Evidence, Gate, Verdict
from tasks.measurement import Measurement
from tasks.sections import GateSettings

__all__ = ["Evidence", "Gate", "Verdict", "judge"]


def judge(champion: Measurement, challenger: Measurement, evidence: Evidence, settings: GateSettings) -> Verdict:
    """Hold a challenger against the champion.

    Args:
        champion: The champion's figures on the data as they are now.
        challenger: The challenger's, under the same protocol.
        evidence: What else is known.
        settings: Section `gates`.

    Returns:
        Every gate. Where the two were not measured alike their figures are not held against each other: only what
        does not need them stands beside that gate.
    """
    alike = comparable(champion, challenger)
    gates = [alike, *evidence_gates(evidence, settings)]
    if alike.passed:
        both = (champion, challenger)
        gates += improvement_gates(*both, evidence, settings)
        gates += [worst_gate(*both, evidence, settings), *attack_gates(*both, settings)]
        gates += utility_gates(*both, settings)
    return Verdict(gates=tuple(gates))
