"""Runs over processes: each works on one run at a time, on one thread, and keeps its subject loaded.

A process that is free is given a run on the subject that it holds, where there is one. Rows are written by whoever made
them, so a kill of everything loses what was under way and no more. Processes end with their parent, however that ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from jpu.errors import InfrastructureError, JpuError

if TYPE_CHECKING:
    from tasks.comparing.plan import Run, SubjectSpec

# Told a run or a subject, and the row's path or what went wrong.
Done = Callable[["Job", "str | JpuError", float], None]
# Seconds that an idle process has to end.
_PATIENCE = 10.0
_THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Job:
    """A subject to be made, or a run."""

    subject: SubjectSpec
    run: Run | None = None

    @property
    def name(self) -> str:
        """How it is called on a terminal."""
        return self.run.name if self.run else f"subject {self.subject.name}"


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    job: Job | None = None
    began: float = 0.0
    holds: str = ""


class Pool:
    """Processes for jobs; a context, at whose end all have ended.

    Args:
        workers: Number of them.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._running: list[_Worker] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._running:
            # One that has nothing to do ends by itself; in the middle of a run it would go on for minutes.
            worker.pipe.close()
            if worker.job is None:
                worker.process.join(_PATIENCE)
            worker.process.kill()
            worker.process.join()

    def run(self, jobs: Sequence[Job], done: Done) -> None:
        """Do all jobs.

        Args:
            jobs: In the order in which they are preferred.
            done: Called after each with its outcome and its seconds.

        Raises:
            InfrastructureError: A process died; the runs that were finished are kept.
        """
        waiting = list(jobs)
        while waiting or any(w.job for w in self._running):
            for worker in self._free(len(waiting)):
                if waiting:
                    self._give(worker, waiting)
            for ready in wait([w.pipe for w in self._running if w.job]):
                worker = next(w for w in self._running if w.pipe is ready)
                job = worker.job
                assert job is not None
                try:
                    outcome = worker.pipe.recv()
                except (EOFError, OSError):
                    raise _died(job) from None
                worker.job = None
                done(job, outcome, time.monotonic() - worker.began)

    def _free(self, wanted: int) -> list[_Worker]:
        """Those without a job, started as needed."""
        free = [w for w in self._running if w.job is None]
        while len(free) < wanted and len(self._running) < self.workers:
            free.append(self._start())
        return free

    def _give(self, worker: _Worker, waiting: list[Job]) -> None:
        at = next((i for i, job in enumerate(waiting) if job.subject.key == worker.holds), None)
        if at is None:
            # A subject that nobody holds yet, or else whichever is first.
            held = {w.holds for w in self._running}
            at = next((i for i, job in enumerate(waiting) if job.subject.key not in held), 0)
        worker.job = waiting.pop(at)
        worker.holds, worker.began = worker.job.subject.key, time.monotonic()
        try:
            worker.pipe.send(worker.job)
        except OSError:
            raise _died(worker.job) from None

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        # Read when the libraries are loaded, which is before any of our code in the process.
        with _environment(_THREADS):
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
        theirs.close()
        worker = _Worker(process, ours)
        self._running.append(worker)
        return worker


def _died(job: Job) -> InfrastructureError:
    return InfrastructureError(
        f"the process of {job.name} died",
        where="jpu compare",
        mend="Use fewer --workers if memory is short, and run it again: finished runs are kept.",
    )


def in_this_process(jobs: Sequence[Job], done: Done) -> None:
    """The same without any other process, for one worker."""
    bench = None
    for job in jobs:
        began = time.monotonic()
        outcome, bench = _do(job, bench)
        done(job, outcome, time.monotonic() - began)


def _work(pipe: Connection) -> None:
    """What a process does: jobs, until its parent is gone."""
    # Ctrl-C goes to every process at the terminal; it is the parent that decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with(multiprocessing.parent_process())
    from tasks.environment import quiet

    quiet()
    import torch

    torch.set_num_threads(1)
    bench = None
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        outcome, bench = _do(job, bench)
        pipe.send(outcome)


def _do(job: Job, bench: Any) -> tuple[str | JpuError, Any]:
    """A job's outcome: the path of its row (of its folder, for a subject), or its error."""
    from tasks.comparing.results import keep
    from tasks.comparing.run import Bench, execute
    from tasks.comparing.subjects import made_subject

    bench = bench or Bench()
    try:
        made = made_subject(job.subject)
        if job.run is None:
            return str(made.folder), bench
        return str(keep(job.run, execute(job.run, made, bench))), bench
    except JpuError as error:
        return error, bench
    except Exception as error:
        # The last lines are the place of a bug; a message might quote what was asked.
        place = "; ".join(f"{f.name} line {f.lineno}" for f in traceback.extract_tb(error.__traceback__)[-3:])
        return InfrastructureError(f"a bug: {type(error).__name__} in {place}", where=job.name), bench


def _end_with(parent: Any) -> None:
    """End this process as soon as its parent is gone, in the middle of a run if need be."""

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Any:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
