"""Where a stage's work is done, as section `engine` of params.yaml has it: here, or on copies of the model.

Decides nothing about results: DVC does not watch the section, and whatever it says, the figures are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from jpu.models import Subject
from jpu.spread import Spread
from tasks.environment import versions
from tasks.fanout import Loader, RayPool
from tasks.sections import EngineSettings, SubjectSettings

Held = TypeVar("Held")


@contextmanager
def copies(engine: EngineSettings, load: Loader[Held]) -> Iterator[Spread[Held] | None]:
    """Copies of a model that share work, for as long as the context lasts; None where the work is done here.

    Args:
        engine: Where (`tasks.settings.chosen_engine`).
        load: Loads a copy.

    Raises:
        SettingsError: Ray is not installed, or the engine asks for more than the cluster has.
        InfrastructureError: The cluster cannot be reached, or has other files.
    """
    if engine.kind == "local":
        yield None
        return
    with RayPool(load, engine.workers, threads=engine.threads, address=engine.address) as pool:
        yield pool.map


@dataclass(frozen=True)
class SubjectCopy:
    """Loads a subject as a stage does.

    Attributes:
        model: Folder of the model, or its name on the hub.
        adapter: Folder of the adapter on it.
        device: Where it runs.
        dtype: Of its weights.
    """

    model: str
    adapter: Path | None = None
    device: str = "auto"
    dtype: str = "auto"

    @classmethod
    def of(cls, model: Path | str, adapter: Path | None, place: SubjectSettings) -> SubjectCopy:
        """A copy of what lies in these folders; paths are made absolute, for a process that works elsewhere."""
        known = str(Path(model).absolute()) if Path(model).exists() else str(model)
        return cls(known, adapter.absolute() if adapter else None, place.device, place.dtype)

    def __call__(self) -> Subject:
        """Load it. Raises ModelError."""
        return Subject.load(self.model, self.adapter, device=self.device, dtype=self.dtype)

    def digest(self) -> str:
        """As `Loader.digest`."""
        return digest(Path(self.model), self.adapter)


def digest(*folders: Path | None) -> str:
    """SHA-256 over model folders, the code of the method, and the libraries that decide what a model says."""
    code = Path(__file__).resolve().parent.parent / "jpu"
    found = hashlib.sha256(repr(sorted(versions().items())).encode())
    for folder in (code, *folders):
        files = sorted(folder.rglob("*")) if folder is not None else []
        for file in (f for f in files if f.is_file() and f.suffix != ".pyc"):
            with file.open("rb") as stream:
                found.update(f"\0{file.name}\0".encode() + hashlib.file_digest(stream, "sha256").digest())
    return found.hexdigest()
