"""One run of a flow from the command line: settings for the libraries, a Prefect server, the flow."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from flows.alone import alone
from flows.leaving import give_up
from flows.own_servers import answers, prefect_server
from jpu.errors import InfrastructureError, JpuError
from tasks.locks import clear_stale_locks
from tasks.store import open_client, switched_off


def run(
    *, profile: str | None = None, seed: int | None = None, force: bool = False, stages: list[str] | None = None
) -> dict[str, Any]:
    """Run the flow `harden` (flows/harden.py) with a server; its result. Raises what the flow raises."""

    def flow() -> dict[str, Any]:
        from flows.harden import harden

        result: dict[str, Any] = harden(profile=profile, seed=seed, force=force, stages=stages)
        return result

    return served("harden", flow)


def served(name: str, flow: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Call a flow with a server; its result.

    On SIGTERM and SIGHUP everything that was started is ended before this process is.

    Args:
        name: The flow's name: what killed runs of it have left as running is marked.
        flow: Imports and calls it; Prefect is not imported before its server is known.

    Raises:
        JpuError: What the flow raises.
    """
    # On a server of the user's own, runs of other working trees are under way.
    ours = "PREFECT_API_URL" not in os.environ
    with _terminable(), prefect_server() as ready:
        # All this takes seconds, in which the server starts.
        from flows.broken import mark_broken

        _warm_up()
        ready()
        if ours:
            with alone():
                mark_broken(name)
        try:
            return flow()
        except JpuError:
            raise
        except Exception as error:
            raise _known(error) from error
        finally:
            _send_the_rest()


def _warm_up() -> None:
    """Import, open and make what the flow will need anyway."""
    import dvc.repo  # noqa: F401

    from flows.data import FOLDER, materialise

    if not switched_off():
        open_client()
    if not FOLDER.exists():
        with alone():
            clear_stale_locks()
            materialise(print)


def _send_the_rest() -> None:
    """Send what Prefect still holds (log lines, the states of tasks) while the server is there to take it."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        _, unsent = worker.drain_all(timeout=10)
        if unsent and not answers(f"{os.environ['PREFECT_API_URL']}/health"):
            give_up()


def _known(error: Exception) -> BaseException:
    """What is behind an error of Prefect's or of its client's, where that is known: a JpuError, a signal, no server."""
    from httpx import TransportError
    from prefect.exceptions import TerminationSignal

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, JpuError):
            return cause
        # Told to end, the run could not even tell its server so.
        if isinstance(cause, TerminationSignal):
            return SystemExit(128 + cause.signal)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, TransportError):
        return InfrastructureError(
            f"Prefect's server went away: {error}",
            where=os.environ["PREFECT_API_URL"],
            mend="Run it again: what is finished is kept. If it happens again, run `jpu doctor`.",
        )
    return error


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP raise SystemExit, so that servers and stages are ended on the way out."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    # An ignored SIGHUP is nohup's doing, and stays ignored.
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
