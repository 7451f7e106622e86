"""`jpu ui`: MLflow's and Prefect's pages, started, checked and ended together."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

from rich.console import Console

from flows.own_servers import HOME, RUNNING, announce, free_port, mlflow_server, prefect_ui, running, wait_for
from flows.process import Guarded
from jpu.errors import InfrastructureError, SettingsError
from tasks.store import tracking_uri


def serve(mlflow_port: int, prefect_port: int, console: Console) -> None:
    """Serve both until Ctrl-C or SIGTERM, or until one of them ends.

    An MLflow or Prefect server of the user's own (MLFLOW_TRACKING_URI, PREFECT_API_URL) is left alone: its address
    is printed.

    Raises:
        SettingsError: A port is taken, or another `jpu ui` runs here.
        InfrastructureError: A server does not start, or ends by itself.
    """
    if already := running():
        raise SettingsError(
            "another `jpu ui` has servers here",
            where=", ".join(already.values()),
            mend="Use those, or end that one first.",
        )
    with ExitStack() as stack:
        stack.enter_context(_terminable())
        processes: dict[str, Guarded] = {}
        addresses: dict[str, str] = {}
        if tracking_uri().startswith(("http:", "https:")):
            console.print(f"MLflow   {tracking_uri()} (MLFLOW_TRACKING_URI)")
        else:
            addresses["mlflow"], processes["mlflow"] = stack.enter_context(mlflow_server(free_port(mlflow_port)))
        if configured := os.environ.get("PREFECT_API_URL"):
            console.print(f"Prefect  {configured} (PREFECT_API_URL)")
        else:
            page, processes["prefect"] = stack.enter_context(prefect_ui(free_port(prefect_port)))
            addresses["prefect"] = f"{page}/api"
        for name, address in addresses.items():
            wait_for(f"{address}/health", processes[name], HOME / f"{name}-server.log")
            title = {"mlflow": "MLflow", "prefect": "Prefect"}[name]
            console.print(f"{title:<8} {address.removesuffix('/api')}")
        announce(addresses)
        stack.callback(RUNNING.unlink, missing_ok=True)
        if processes:
            console.print("Ctrl-C ends both.")
            _watch(processes)


def _watch(processes: dict[str, Guarded]) -> None:
    """Wait for the person to end it. Raises InfrastructureError when a server ends by itself."""
    try:
        while True:
            for name, process in processes.items():
                if process.poll() is not None:
                    raise InfrastructureError(
                        f"the server of {name} ended", where=str(HOME / f"{name}-server.log"), mend="See that file."
                    )
            time.sleep(0.5)
    except KeyboardInterrupt:
        return


@contextmanager
def _terminable() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # A shell's `&` hands on an ignored SIGINT, and then nothing but SIGKILL would end the servers' window.
    handlers = {signal.SIGTERM: stop, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
