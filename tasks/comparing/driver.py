"""The whole of `jpu compare`: subjects, then trials, then final runs; each only where it is not there yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from jpu.comparison.metrics import UTILITY, WORST
from jpu.comparison.rows import Row, read_row
from jpu.comparison.statistics import point
from jpu.errors import JpuError, SettingsError
from tasks.comparing.clock import Clock, Work
from tasks.comparing.plan import EXPERIMENTS, Plan, Planner, Run, SubjectSpec
from tasks.comparing.results import read_rows
from tasks.comparing.workers import Job, Pool, in_this_process

Say = Callable[[str], None]
Keyed = TypeVar("Keyed", Run, SubjectSpec)
# What is run first: a comparison that is stopped half-way has all its rivals, and not one subject with all ablations.
# Learning rates are tried with the settings that the trials before have chosen.
_PHASES = ("trial", "trial", "final", "ablation")


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line.

    Attributes:
        path: File of experiments.
        methods: Only these; all for none.
        subjects: Only these.
        workers: Processes; 0 for none but this one.
    """

    path: Path = EXPERIMENTS
    methods: Sequence[str] = ()
    subjects: Sequence[str] = ()
    workers: int = 1

    def wants(self, run: Run, plan: Plan) -> bool:
        """Whether a run is among what was asked for, or is a trial that settings of such a run are chosen from."""
        if run.kind == "trial":
            methods = self.methods or plan.experiments.methods
            tuned = {plan.experiments.methods[name].tuned_as or name for name in methods}
            asked = self.subjects or plan.subjects
            on = {plan.subjects[name].tuned_on for name in asked}
            on |= {name for name in asked if plan.experiments.subjects[name].learning_rate_multipliers}
            return run.method in tuned and run.subject.name in on
        return self.names(run.method, run.subject.name)

    def names(self, method: str, subject: str) -> bool:
        """Whether a method on a subject is among what was asked for."""
        return (not self.methods or method in self.methods) and (not self.subjects or subject in self.subjects)

    def check(self, plan: Plan) -> None:
        """Raises SettingsError for a name that the file does not have."""
        known = {"method": (self.methods, plan.experiments.methods), "subject": (self.subjects, plan.subjects)}
        for kind, (asked, there) in known.items():
            for name in asked:
                if name not in there:
                    raise SettingsError(
                        f"there is no {kind} {name!r}", where=str(self.path), mend=f"There are: {', '.join(there)}."
                    )


@dataclass
class Compared:
    """What there is in the end.

    Attributes:
        plan: All that is asked for.
        rows: Key → row.
        made: Keys of the rows that were made now.
        failed: Name of a run → its error.
    """

    plan: Plan
    rows: dict[str, Row]
    made: list[str] = field(default_factory=list)
    failed: dict[str, JpuError] = field(default_factory=dict)

    def asked(self, request: Request) -> list[Run]:
        """Runs that are asked for and known; one that two groups with the same subject ask for is there once."""
        return _once(run for run in self.plan.runs if request.wants(run, self.plan))

    def missing(self, request: Request) -> list[Run]:
        """Those of them that are not there."""
        return [run for run in self.asked(request) if run.key not in self.rows]


def look(request: Request) -> Compared:
    """What is there, and what is not; nothing is run. Raises SettingsError, DataError."""
    rows = read_rows()
    plan = Planner(request.path).plan(rows)
    request.check(plan)
    return Compared(plan, rows)


def compare(request: Request, say: Say, kept: Callable[[Run, Row], None] | None = None) -> Compared:
    """Run what is missing.

    Args:
        request: What was asked for.
        say: Called with a line for each thing that was done.
        kept: Called with every run that was made and its row.

    Returns:
        All rows; runs that failed are named, and the others were done all the same.

    Raises:
        SettingsError: The file of experiments cannot be used.
        InfrastructureError: A process died.
    """
    planner, rows = Planner(request.path), read_rows()
    done = Compared(planner.plan(rows), rows)
    request.check(done.plan)
    clock = Clock(rows.values(), {name: subject.group for name, subject in done.plan.subjects.items()})
    clock.expect(_ahead(done, request))
    if estimate := clock.estimate(max(1, request.workers)):
        say(estimate)
    with Pool(max(1, request.workers)) as pool:

        def work(jobs: Sequence[Job]) -> None:
            def finished(job: Job, outcome: str | JpuError, seconds: float) -> None:
                left = clock.tick(_work_of(job))
                if isinstance(outcome, JpuError):
                    done.failed[job.name] = outcome
                    say(f"{left} {job.name} failed: {outcome}")
                elif job.run is None:
                    say(f"{left} {job.name} made, {seconds:.0f} s")
                else:
                    row = read_row(Path(outcome))
                    done.rows[row.key] = row
                    done.made.append(row.key)
                    say(f"{left} {job.name}: {_figures(row)}, {seconds:.0f} s")
                    if kept is not None:
                        kept(job.run, row)

            if request.workers:
                pool.run(jobs, finished)
            else:
                in_this_process(jobs, finished)

        for phase in _PHASES:
            plan = done.plan
            kinds = plan.experiments.methods
            wanted = [run for run in _wanted(done, request) if phase == _phase(run.kind, kinds[run.method].kind)]
            spent = list(dict.fromkeys(run.subject.key for run in wanted))
            # A subject that cannot be made is tried once.
            work([job for job in _unmade(run.subject for run in wanted) if job.name not in done.failed])
            ready = sorted((run for run in wanted if run.subject.made), key=lambda run: spent.index(run.subject.key))
            work([Job(run.subject, run) for run in ready])
            # What was tried has chosen what is to be run.
            done.plan = planner.plan(done.rows)
            clock.expect(_ahead(done, request))
    return done


def _wanted(done: Compared, request: Request) -> list[Run]:
    """Runs that are asked for, known, not there, and not in vain."""
    return [run for run in done.missing(request) if not {run.name, Job(run.subject).name} & set(done.failed)]


def _unmade(subjects: Iterable[SubjectSpec]) -> list[Job]:
    """Those that are still to be made, each once by whatever names it has."""
    return [Job(subject) for subject in _once(subjects) if not subject.made]


def _once(items: Iterable[Keyed]) -> list[Keyed]:
    """The first of those that have one key."""
    first: dict[str, Keyed] = {}
    for item in items:
        first.setdefault(item.key, item)
    return list(first.values())


def _ahead(done: Compared, request: Request) -> list[Work]:
    """All that is to be done as far as is known: runs whose settings are not chosen yet, and subjects, too."""
    plan, wanted = done.plan, _wanted(done, request)
    later = [(method, plan.subjects[name]) for method, name in plan.waiting if request.names(method, name)]
    jobs = _unmade([*(run.subject for run in wanted), *(s for _, s in later)])
    jobs += [Job(run.subject, run) for run in wanted]
    unknown = [Work("final", m, on.group) for m, on in later for _ in plan.experiments.seeds_on(on.name)]
    return [*map(_work_of, jobs), *unknown]


def _work_of(job: Job) -> Work:
    return Work(job.run.kind if job.run else "subject", job.run.method if job.run else "", job.subject.group)


def _phase(run: str, method: str) -> str:
    return "trial" if run == "trial" else "ablation" if method == "ablation" else "final"


def _figures(row: Row) -> str:
    shown = []
    for metric in (WORST, UTILITY):
        value = point(metric, row)
        shown.append(f"{metric.words} {'–' if value is None else f'{value:.1%}'}")
    return ", ".join(shown)
