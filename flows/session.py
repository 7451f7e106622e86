"""One run of a flow from the command line: settings for the libraries, a Prefect server, the flow."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from flows.alone import alone
from flows.leaving import give_up, terminable, unhurried
from flows.own_servers import answers, prefect_server
from jpu.errors import JpuError
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
    with terminable(), prefect_server() as ready:
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
            unhurried()
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


def _known(error: Exception) -> Exception:
    """The JpuError inside an error of Prefect's, where there is one."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, JpuError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return error
