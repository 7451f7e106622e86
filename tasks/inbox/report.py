"""What became of each file of the inbox, without the texts of its records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jpu.data.schemas import Behavior, Template, fingerprint

Kind = Literal["templates", "behaviors", "benign"]
Outcome = Literal["taken", "known", "partly", "quarantined", "waits"]

_SHOWN = 1000


@dataclass(frozen=True)
class Problem:
    """Why a record, or a file, was refused.

    Attributes:
        place: File, and line where it is about one.
        field: The field, "" where it is about none.
        reason: Name of the expectation that it breaks, or `format`.
        what: What is wrong.
        mend: What to do.
        text: The record's text; only for who asks to see it.
    """

    place: str
    field: str
    reason: str
    what: str
    mend: str
    text: str = field(default="", repr=False)

    def as_dict(self) -> dict[str, str]:
        """Everything but the text, of which only a digest is named."""
        named = {"place": self.place, "field": self.field, "reason": self.reason, "what": self.what, "mend": self.mend}
        return {**named, "digest": fingerprint(self.text) if self.text else ""}


@dataclass(frozen=True)
class FileReport:
    """What became of a file.

    Attributes:
        name: Its name in the inbox.
        kind: The folder that it lies in.
        outcome: `taken`; `known`, nothing in it is new; `partly`, some of its records were refused; `quarantined`, all
            were, or the file cannot be read; `waits`, it is left alone for now.
        sha256: Digest of its contents, "" where they were not read.
        tag: Which version of the file it was.
        why: Why it waits.
        accepted: The records that are new in the data.
        problems: Why others are not.
    """

    name: str
    kind: Kind
    outcome: Outcome
    sha256: str = ""
    tag: str = ""
    why: str = ""
    accepted: Sequence[Template | Behavior] = ()
    problems: Sequence[Problem] = ()

    def as_dict(self) -> dict[str, Any]:
        """The report for a record or a `.reason.json`."""
        return {
            "file": self.name,
            "outcome": self.outcome,
            "sha256": self.sha256,
            "why": self.why,
            "accepted": len(self.accepted),
            "refused": len(self.problems),
            "problems": [problem.as_dict() for problem in self.problems[:_SHOWN]],
        }


@dataclass(frozen=True)
class Taking:
    """One taking-in.

    Attributes:
        source: The inbox, as it may be shown.
        files: What became of each file.
        before: Hash that data.dvc pinned before.
        after: Hash that it pins now; the same where nothing came in.
        new_families: Template families that the data did not have.
        unmeasured: Those of them with too few wordings for one to be held out.
    """

    source: str
    files: Sequence[FileReport]
    before: str
    after: str
    new_families: Sequence[str] = ()
    unmeasured: Sequence[str] = ()

    @property
    def accepted(self) -> list[Template | Behavior]:
        """Every record that is new in the data."""
        return [record for file in self.files for record in file.accepted]

    def refused(self) -> dict[str, int]:
        """Refused records (or files) by reason."""
        return dict(sorted(Counter(p.reason for file in self.files for p in file.problems).items()))

    def as_dict(self) -> dict[str, Any]:
        """The result for MLflow and Prefect: names and numbers, no texts."""
        templates = [record for record in self.accepted if isinstance(record, Template)]
        behaviors = [record for record in self.accepted if isinstance(record, Behavior)]
        return {
            "source": self.source,
            "data": {"before": self.before, "after": self.after},
            "files": dict(sorted(Counter(file.outcome for file in self.files).items())),
            "accepted": {
                "templates": dict(sorted(Counter(t.split for t in templates).items())),
                "behaviors": dict(sorted(Counter(f"{b.kind}/{b.split}" for b in behaviors).items())),
            },
            "refused": self.refused(),
            "new_families": list(self.new_families),
            "unmeasured_families": list(self.unmeasured),
            "new_behaviors": [behavior.id for behavior in behaviors],
        }
