"""One run: a subject, a defence around it, its training, and what is left to be seen of it. Writes nothing but caches.

The first mining and the path that it leads to are shared by all methods whose settings do not say otherwise; what they
took is charged to each method that uses them.
"""

from __future__ import annotations

import copy
import platform
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jpu.attacks import Budget
from jpu.comparison.after_attacks import AfterProtocol
from jpu.comparison.examination import Examined, examine
from jpu.comparison.rows import Cost, Row
from jpu.data.schemas import read_records
from jpu.errors import BudgetError
from jpu.evaluation.evaluate import Evaluation, Protocol
from jpu.files import atomic_folder, read_json, write_json, write_jsonl
from jpu.mining.entry import Entry
from jpu.models import Subject
from jpu.paths.path import Path as JailbreakPath
from jpu.unlearning.adapter import attach
from jpu.unlearning.defences.registry import get_defence
from jpu.unlearning.retain import ReferenceDistribution, answered_by_reference
from tasks.attribution import searched
from tasks.comparing.memory import PeakMemory
from tasks.comparing.sections import EvaluationSection
from tasks.comparing.subjects import Made
from tasks.environment import versions
from tasks.hardening import Stretches, build, trained_part
from tasks.mining import Miner

if TYPE_CHECKING:
    from tasks.comparing.plan import Run

Told = Callable[[str], None]
# Retain sets of one subject: those of the method, and of one variant of it.
_KEPT = 4
_LIBRARIES = ("torch", "transformers", "tokenizers", "peft")


class OutOfTime(Exception):
    """The training has used its CPU seconds up."""


class Retained:
    """What M_0 says on retain sets: the same for every method of a subject, and as long to find out as a training.

    Attributes:
        lent: CPU seconds that trainings did not spend because it was there.
    """

    def __init__(self) -> None:
        self.lent = 0.0
        self._known: dict[object, tuple[ReferenceDistribution, float]] = {}

    def __call__(self, key: object, make: Callable[[], ReferenceDistribution]) -> ReferenceDistribution:
        """What is known under a key, or else made now and kept; the oldest goes where there are too many."""
        if key not in self._known:
            began = time.process_time()
            found = make()
            self._known[key] = found, time.process_time() - began
            while len(self._known) > _KEPT:
                del self._known[next(iter(self._known))]
            return found
        found, took = self._known[key]
        self.lent += took
        return found


@dataclass
class Bench:
    """What a process keeps from run to run.

    Attributes:
        subject: The subject that it has loaded last.
        loaded: That one's key.
        retained: What it says on retain sets.
    """

    subject: Subject | None = None
    loaded: str = ""
    retained: Retained = field(default_factory=Retained)

    def load(self, run: Run, made: Made) -> Subject:
        """A copy of the run's bare subject, to be trained."""
        if self.loaded != run.subject.key or self.subject is None:
            section = run.subject.subject
            self.subject = Subject.load(made.model, device=section.device, dtype=section.dtype)
            self.loaded, self.retained = run.subject.key, Retained()
        return Subject(copy.deepcopy(self.subject.model), self.subject.tokenizer, run.subject.name)


@dataclass
class Start:
    """The jailbreaks that a training begins with, and the path that they go through.

    Attributes:
        batch: Entries above τ.
        path: The path; empty where the method has no use for it.
        seconds: CPU seconds that both took.
    """

    batch: list[Entry]
    path: JailbreakPath
    seconds: float


@dataclass
class Spent:
    """What the training took, and how far it came."""

    seconds: float = 0.0
    wall: float = 0.0
    peak_mib: float = 0.0
    figures: dict[str, float | None] = field(default_factory=dict)


def execute(run: Run, made: Made, bench: Bench, told: Told | None = None) -> Row:
    """Train and measure.

    Args:
        run: What to do.
        made: Its subject.
        bench: What this process has loaded.
        told: Called with what is being done.

    Raises:
        JpuError: Of the method, the model or the data.
    """
    tell = told or (lambda _: None)
    subject = bench.load(run, made)
    spent = Spent() if run.original else train(run, made, subject, bench.retained, tell)
    began = time.process_time()
    examined = measure(run, made, subject, tell)
    return Row(
        key=run.key,
        kind=run.kind,
        subject=run.subject.name,
        method=run.method,
        seed=run.seed,
        trial=run.trial,
        settings=run.settings,
        entities=examined.entities,
        outcomes=examined.outcomes,
        figures=examined.figures | spent.figures,
        weights=made.weights,
        libraries={name: number for name, number in versions().items() if name in _LIBRARIES},
        cost=Cost(
            train_seconds=round(spent.seconds, 2),
            train_wall=round(spent.wall, 2),
            evaluate_seconds=round(time.process_time() - began, 2),
            peak_mib=round(spent.peak_mib, 1),
            machine=machine(),
        ),
    )


def train(run: Run, made: Made, subject: Subject, retained: Retained, told: Told) -> Spent:
    """Put the run's defence on a bare subject and train it; the subject holds the adapter afterwards.

    A method that cannot keep the utility budget leaves the subject as it was, and one that runs out of time stays where
    it is then.
    """
    spent = Spent(figures={"steps": 0.0, "rollbacks": 0.0, "out_of_time": 0.0, "kl_held_out": 0.0})
    section = run.unlearning
    part = trained_part(section, len(subject.layers))
    wants_path = part.path or "anchors" in get_defence(section.defence.name).needs
    with PeakMemory() as memory:
        told("mining")
        start = first_start(run, made, subject, wants_path)
        subject.model = attach(subject.model, start.path, part, seed=run.seed)
        told("training")
        began, clock, found = time.process_time(), time.monotonic(), retained.lent
        _train(run, made, subject, start, retained, spent)
    # What others have left for it is charged for all the same.
    lent = start.seconds + retained.lent - found
    spent.seconds = lent + time.process_time() - began
    spent.wall = lent + time.monotonic() - clock
    spent.peak_mib = memory.mib
    trained = sum(p.numel() for p in subject.model.parameters() if p.requires_grad)
    spent.figures["trained_parameters"] = float(trained)
    subject.model.requires_grad_(False)
    subject.model.eval()
    return spent


def _train(run: Run, made: Made, subject: Subject, start: Start, retained: Retained, spent: Spent) -> None:
    seed = f"{run.seed}-1"
    miner = _miner(run, made, subject)
    stretches = Stretches(miner, start.batch, 1, seed, frozen=run.unlearning.frozen)
    began, found = time.process_time(), retained.lent
    training = build(subject, made.data, miner, run.unlearning, seed, start.path, run.paths, retained)
    end = began + run.seconds - start.seconds - (retained.lent - found)
    figures = spent.figures

    def within(step: int, steps: int, losses: dict[str, float]) -> None:
        if time.process_time() > end and step < steps:
            raise OutOfTime

    try:
        done = training.run(stretches.refresh, progress=within)
    except BudgetError:
        figures["rollbacks"] = run.unlearning.rollbacks + 1.0
    except OutOfTime:
        figures["out_of_time"] = 1.0
    else:
        figures["steps"] = done.history[-1]["step"]
        figures["rollbacks"] = sum(c["rolled_back"] for c in done.checks)
        figures["kl_held_out"] = done.kl


def first_start(run: Run, made: Made, subject: Subject, wants_path: bool) -> Start:
    """The first mining and its path, found under their settings or made now and kept."""
    folder = run.start(wants_path)
    if not (folder / "start.json").is_file():
        found = _start(run, made, subject, wants_path)
        with atomic_folder(folder) as new:
            write_jsonl(new / "batch.jsonl", found.batch)
            found.path.save(new / "path")
            write_json(new / "start.json", {"seconds": found.seconds})
        return found
    seconds = float(read_json(folder / "start.json")["seconds"])
    return Start(read_records(folder / "batch.jsonl", Entry), JailbreakPath.load(folder / "path"), seconds)


def _start(run: Run, made: Made, subject: Subject, wants_path: bool) -> Start:
    began = time.process_time()
    miner = _miner(run, made, subject)
    batch = list(miner.mine(1, random.Random(f"mine-{run.seed}-1")).above(miner.calibration.tau))
    path = JailbreakPath()
    if wants_path and batch:
        rng = random.Random(f"identify-{run.seed}-1")
        path = searched(subject, made.data.split("train"), batch, run.paths, run.seed, rng).path
    return Start(batch, path, time.process_time() - began)


def _miner(run: Run, made: Made, subject: Subject) -> Miner:
    """A miner with an empty buffer, as the first round has it."""
    empty = made.folder / "no-buffer.jsonl"
    if not empty.is_file():
        write_jsonl(empty, [])
    return Miner.open(subject, made.data.split("train"), empty, run.mining, run.subject.data.limits.prompt)


def measure(run: Run, made: Made, subject: Subject, told: Told) -> Examined:
    """Attack, probe and judge, on the validation split for a trial and on the test split for a final run."""
    measured = run.measured
    final = isinstance(measured, EvaluationSection)
    evaluation = Evaluation(
        answered_by_reference(subject, made.data.behaviors),
        made.data.templates,
        made.data.refusals,
        Protocol(
            split="test" if final else "validation",
            suite={name: Budget(b.queries, b.behaviors) for name, b in run.attacks.items()},
            probe_wordings=measured.probe_wordings,
            retain_pairs=measured.retain_pairs,
            max_new_tokens=run.tokens,
            longest=run.subject.data.limits.prompt,
            # Intervals are made of the counts, over all runs; these are not looked at.
            resamples=1,
            seed=run.subject.seed,
        ),
        required=True,
    )
    train = [b for b in made.data.behaviors if b.split == "train"]
    after = AfterProtocol(**measured.after.model_dump()) if isinstance(measured, EvaluationSection) else None
    seen: set[str] = set()

    def report(what: str, done: int, total: int) -> None:
        if what not in seen:
            seen.add(what)
            told(what)

    return examine(subject, evaluation, train, after, report=report)


def machine() -> str:
    """What computes here, without the machine's name: the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        named = next(line for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
    return " ".join(named.partition(":")[2].split())
