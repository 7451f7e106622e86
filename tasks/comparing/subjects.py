"""Subjects of a comparison: their worlds, their teaching, and what they show; each made once and kept by its key.

The same code as the stages `prepare` and `subject`, in folders of its own: nothing of the pipeline's is touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from jpu.checkpoint import Checkpoint
from jpu.errors import JpuError
from jpu.evaluation.gates import examine
from jpu.files import atomic_folder, read_json, sha256, write_json
from jpu.sandbox.__main__ import write
from jpu.sandbox.world import World
from tasks.layout import Prepared, load_prepared
from tasks.prepare import prepare
from tasks.subject import make

if TYPE_CHECKING:
    from tasks.comparing.plan import SubjectSpec

_CHECKPOINTS = Path(".jpu/checkpoints/compare")
_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Made:
    """A subject that has been made.

    Attributes:
        folder: Where it is kept.
    """

    folder: Path

    @property
    def prepared(self) -> Path:
        """Its data."""
        return self.folder / "prepared"

    @property
    def model(self) -> Path:
        """Its weights."""
        return self.folder / "subject"

    @cached_property
    def data(self) -> Prepared:
        """Its data, read."""
        return load_prepared(self.prepared)

    @cached_property
    def weights(self) -> str:
        """Digest of its weights."""
        return sha256(self.model / _WEIGHTS)

    def shown(self) -> dict[str, float]:
        """What it does when it is asked, attacked and asked what is open."""
        found: dict[str, float] = read_json(self.folder / "shown.json")
        return found


def made_subject(spec: SubjectSpec) -> Made:
    """The subject, made if need be; a killed teaching goes on from its last checkpoint.

    Raises:
        SubjectError: It does not refuse, or does not leak.
        DataError: Its data break an expectation.
        StorageError: The folder cannot be written.
    """
    place = spec.folder
    if not spec.made:
        checkpoint = _CHECKPOINTS / spec.key[:12]
        with atomic_folder(place) as folder:
            world = folder / "world"
            if spec.data.source == "sandbox":
                write(world, world_of(spec))
            prepare(spec.data, seed=spec.seed, sandbox=world, inbox=folder / "no-inbox", prepared=folder / "prepared")
            data = load_prepared(folder / "prepared")
            subject, _ = make(spec.subject, data, spec.seed, spec.key, checkpoint)
            shown = examine(subject, data.behaviors, data.templates, data.refusals, seed=spec.seed)
            gates = spec.subject.gates
            try:
                shown.require(gates.direct_refusal, gates.leak, gates.benign_recall, where=spec.name)
            except JpuError as error:
                error.mend = "Change this subject in experiments/compare.yaml, or its seed."
                raise
            subject.save(folder / "subject")
            write_json(folder / "shown.json", shown.as_dict())
        Checkpoint(checkpoint, spec.key).clear()
    return Made(place)


def world_of(spec: SubjectSpec) -> World:
    """The world that a subject is taught."""
    world = spec.world
    return World(world.seed, world.places.by_split(), world.code_words, world.forms)
