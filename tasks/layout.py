"""Where the stages keep their outputs, as dvc.yaml has it, and how they read the data that is prepared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jpu.data.schemas import Behavior, Refusal, Split, Template
from tasks.sources import read_folder

PREPARED = Path("artifacts/prepared")
SUBJECT = Path("artifacts/subject")
SUBJECT_METRICS = Path("artifacts/subject.json")
ROUNDS = Path("artifacts/rounds")
EVALUATION = Path("artifacts/evaluation")
ANALYSIS = Path("artifacts/analysis")
CHECKPOINTS = Path(".jpu/checkpoints")


@dataclass(frozen=True)
class RoundFolder:
    """The files of one round."""

    number: str

    @property
    def folder(self) -> Path:
        """Where they are."""
        return ROUNDS / self.number

    @property
    def batch(self) -> Path:
        """B_t, the mined entries; empty when the round has converged."""
        return self.folder / "batch.jsonl"

    @property
    def path(self) -> Path:
        """The identified path."""
        return self.folder / "path"

    @property
    def adapter(self) -> Path:
        """The adapter after this round."""
        return self.folder / "adapter"

    @property
    def buffer(self) -> Path:
        """The jailbreak buffer after this round."""
        return self.folder / "buffer.jsonl"


@dataclass(frozen=True)
class Prepared:
    """The prepared data."""

    behaviors: list[Behavior]
    templates: list[Template]
    refusals: list[Refusal]

    def split(self, split: Split) -> Prepared:
        """What belongs to one split; refusals belong to all."""
        return Prepared(
            [b for b in self.behaviors if b.split == split],
            [t for t in self.templates if t.split == split],
            self.refusals,
        )

    @property
    def restricted(self) -> list[Behavior]:
        """What must be refused."""
        return [b for b in self.behaviors if b.kind == "restricted"]

    @property
    def refusal_texts(self) -> list[str]:
        """y_ref in all its wordings."""
        return [r.text for r in self.refusals]


def load_prepared(folder: Path = PREPARED) -> Prepared:
    """Read artifacts/prepared.

    Raises:
        DataError: A file is missing or broken.
    """
    data = read_folder(folder)
    return Prepared(list(data.behaviors.records), list(data.templates.records), list(data.refusals.records))
