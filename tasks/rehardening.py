"""One re-hardening: what came in, what was decided and why, how it ended; and what a webhook is told of it.

Names and numbers only: no prompt, no completion, no query. A family is named by whoever sent it in, so a name that is
no plain word stands as its digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from jpu.card.figure import Figure
from tasks.decision import Arrivals, Decision, Record
from tasks.gates import Verdict
from tasks.measurement import plain_name

Ending = Literal["nothing to do", "promoted", "kept", "failed"]


class Rehardening(Record):
    """One run, as far as it came.

    Attributes:
        profile: The profile.
        ending: How it ended.
        champion: The version that was served when it began, `jpu-sandbox/3`.
        challenger: The version that was made, "" for none.
        decision: Whether to harden, and why.
        arrivals: What came in.
        verdict: The gates; None where it did not come to them.
        error: What ended a failed run, as `tasks.redaction` tells it.
        links: What to look at: words → address.
    """

    profile: str
    ending: Ending
    champion: str
    challenger: str = ""
    decision: Decision = Decision()
    arrivals: Arrivals = Arrivals()
    verdict: Verdict | None = None
    error: str = ""
    links: Mapping[str, str] = {}

    @property
    def headline(self) -> str:
        """How it ended, in a sentence without its full stop."""
        if self.ending == "nothing to do":
            return f"{self.champion}: no reason to harden again"
        if self.ending == "promoted":
            return f"{self.challenger} takes the place of {self.champion}"
        if self.ending == "failed":
            return f"{self.champion} stays: the run failed"
        count = len(self.verdict.failed) if self.verdict else 0
        found = f"{count} {'gate' if count == 1 else 'gates'} not passed" if count else "no challenger was judged"
        return f"{self.champion} stays: {found}" + (f" by {self.challenger}" if self.challenger and count else "")


def message(run: Rehardening, *, at: str) -> dict[str, Any]:
    """The run as a webhook tells it; `text` is the line that chat services show.

    Args:
        run: The run.
        at: When, in UTC.
    """
    reasons = [
        {
            "trigger": r.trigger,
            "name": plain_key(r.name) if r.trigger != "forced" else r.name,
            "bound": r.bound,
            **_numbers(r.measured),
        }
        for r in run.decision.reasons
    ]
    failed = run.verdict.failed if run.verdict else ()
    return {
        "text": f"jpu {run.profile}: {run.headline}.",
        "at": at,
        "event": f"rehardening {run.ending}",
        "profile": run.profile,
        "champion": run.champion,
        "challenger": run.challenger,
        "reasons": reasons,
        "missing": [plain_key(name) for name in run.decision.missing],
        "gates": {
            "passed": len(run.verdict.gates) - len(failed) if run.verdict else 0,
            "failed": [
                {"kind": gate.kind, "name": plain_key(gate.figure) or gate.kind, "sentence": gate.sentence}
                for gate in failed
            ],
        },
        "refused_in_inbox": dict(run.arrivals.refused),
        "error": run.error,
        "links": {name: address for name, found in run.links.items() if (address := plain_link(found))},
    }


def plain_key(key: str) -> str:
    """A figure's key as it may be shown: of `attack/family`, and of a family alone, the family as `plain_name`."""
    attack, slash, family = key.partition("/")
    return f"{attack}/{plain_name(family)}" if slash else plain_name(key) if key else ""


def plain_link(address: str) -> str:
    """An address without the credentials and the query that it may carry; "" for what is none."""
    try:
        parts = urlsplit(address)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return ""
    return urlunsplit((parts.scheme, host, parts.path, "", parts.fragment)) if parts.scheme in ("http", "https") else ""


def _numbers(figure: Figure | None) -> dict[str, Any]:
    if figure is None:
        return {"value": None, "low": None, "high": None, "n": None}
    return {"value": figure.value, "low": figure.low, "high": figure.high, "n": figure.n}
