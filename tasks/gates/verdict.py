"""What a gate found, what it is given beside the figures, and the verdict of all of them."""

from __future__ import annotations

from jpu.card.figure import Figure
from tasks.decision import Arrivals, Reason, Record

_KINDS = frozenset({"trigger", "attack", "family", "tolerance", "limit"})


class Evidence(Record):
    """What else is known of the challenger.

    Attributes:
        reasons: Why it was made (`tasks.decision`).
        arrivals: What came in before.
        checks: Every data check by Great Expectations (suite and name), and whether it held.
        links: How many links of its lineage were found to hold (`jpu verify`).
        broken: The first that does not, "" where all do.
        changed: Stages that `dvc status` finds out of date; None where nobody asked.
        reproduced: Stages that were run once more, and whether they wrote the same bytes.
    """

    reasons: tuple[Reason, ...] = ()
    arrivals: Arrivals = Arrivals()
    checks: tuple[tuple[str, bool], ...] = ()
    links: int = 0
    broken: str = ""
    changed: tuple[str, ...] | None = None
    reproduced: tuple[tuple[str, bool], ...] = ()


class Gate(Record):
    """One gate.

    Attributes:
        name: What is held against what: `trigger asr_static`, `family static/override`, `tolerance kl`, `data checks`.
        passed: Whether the challenger may pass.
        sentence: What was found.
        champion: The champion's figure now.
        challenger: The challenger's, measured alike.
        bound: The highest (or lowest) value that passes, or the bound of the trigger.
        difference: Challenger minus champion by behavior, where it was looked at.
    """

    name: str
    passed: bool
    sentence: str
    champion: Figure | None = None
    challenger: Figure | None = None
    bound: float | None = None
    difference: Figure | None = None

    @property
    def kind(self) -> str:
        """`trigger`, `attack`, `family`, `tolerance` or `limit`; the name of one that is about no figure."""
        kind, _, _ = self.name.partition(" ")
        return kind if kind in _KINDS else self.name

    @property
    def figure(self) -> str:
        """Key of the figure that it is about, "" where it is about none."""
        return self.name.partition(" ")[2] if self.kind in _KINDS else ""


class Verdict(Record):
    """All gates; the challenger is promoted where every one is passed."""

    gates: tuple[Gate, ...]

    @property
    def promote(self) -> bool:
        """Whether there are gates, and all are passed."""
        return bool(self.gates) and not self.failed

    @property
    def failed(self) -> tuple[Gate, ...]:
        """Those that are not passed."""
        return tuple(gate for gate in self.gates if not gate.passed)
