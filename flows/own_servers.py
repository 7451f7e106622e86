"""The servers that this repository starts by itself: Prefect's and MLflow's, on 127.0.0.1 only.

A server runs under flows/guard.py and so ends with the process that started it, whatever ends that. A run needs a
Prefect server: the one in PREFECT_API_URL, else the one that `jpu ui` has running here, else one of its own, whose
database lives in .jpu/prefect. MLflow needs none; its server is for looking.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flows.process import Guarded
from jpu.errors import InfrastructureError, SettingsError
from jpu.files import write_json
from tasks.environment import alive, identity, quiet
from tasks.store import open_client, tracking_uri

HOME = Path(".jpu")
# Set beside PREFECT_API_URL where the server that it names is one of ours, for this process and its children.
OWN = "JPU_OWN_PREFECT"
RUNNING = HOME / "services.json"
# How Prefect's clients, in flows and commands, live through a server or a database of its that is away for minutes; and
# how often a flow run is heard of (automations.yaml marks those that are not).
CLIENTS = {
    "PREFECT_CLIENT_MAX_RETRIES": "7",
    "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}
# The first start makes Prefect's database, some 20 s on an idle machine, and more on a busy one.
PATIENCE = 240.0


def prefect_environment() -> None:
    """Settings for Prefect in this process and its children; must come before Prefect is imported.

    What the user has set stays. Prefect's own console log is silenced: a run prints its own lines, and Prefect's
    go to its server.
    """
    quiet()
    if "PREFECT_API_URL" not in os.environ:
        home = os.environ.setdefault("PREFECT_HOME", str((HOME / "prefect").absolute()))
        Path(home).mkdir(parents=True, exist_ok=True)
    # A server of one's own that is gone does not come back: nothing is won by asking it for minutes.
    clients = CLIENTS if "PREFECT_API_URL" in os.environ else CLIENTS | {"PREFECT_CLIENT_MAX_RETRIES": "3"}
    for name, value in clients.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    # An event that nobody takes would be printed whole.
    os.environ.setdefault("PREFECT_INTERNAL_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_CLI_COLORS", "false")
    os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "WARNING")


@contextmanager
def prefect_server() -> Iterator[Callable[[], str]]:
    """A Prefect API for the body, named in PREFECT_API_URL; yields a function that waits until it answers.

    The server starts in the background, so that the caller can do other work before it calls the function. Prefect
    must not be imported before: it reads the variable once, and starts a second server where it is missing.

    Raises:
        InfrastructureError: From the function: the server does not answer.
    """
    prefect_environment()
    if configured := os.environ.get("PREFECT_API_URL"):
        yield lambda: _ready(configured)
        return
    if ours := running().get("prefect"):
        with _api_url(ours):
            yield lambda: _ready(ours)
        return
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    log = Path(os.environ["PREFECT_HOME"]) / "server.log"
    log.unlink(missing_ok=True)
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error", "--lifespan", "on"]
    # As Prefect's own temporary server, which would be left running when the flow is killed.
    switches = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    with Guarded(command, env={**os.environ, **switches}, grace=5.0, log=log) as server, _api_url(url):
        yield lambda: _ready(url, server, log)


@contextmanager
def mlflow_server(port: int) -> Iterator[tuple[str, Guarded]]:
    """MLflow's server on the store of this repository; yields its address and process.

    Raises:
        InfrastructureError: The store cannot be opened.
        SettingsError: MLFLOW_TRACKING_URI is a server already.
    """
    uri = tracking_uri()
    if uri.startswith(("http:", "https:")):
        raise SettingsError("is a server already", where="MLFLOW_TRACKING_URI", mend=f"Open {uri}.")
    # The tables have to be there before the server looks: two makers at once fail.
    open_client()
    log = HOME / "mlflow-server.log"
    log.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    log.unlink(missing_ok=True)
    with Guarded(command, env=environment, grace=4.0, log=log) as server:
        yield f"http://127.0.0.1:{port}", server


@contextmanager
def prefect_ui(port: int) -> Iterator[tuple[str, Guarded]]:
    """Prefect's server with its UI, on this repository's database; yields its address and process."""
    prefect_environment()
    address = f"http://127.0.0.1:{port}"
    log = HOME / "prefect-server.log"
    log.parent.mkdir(exist_ok=True)
    log.unlink(missing_ok=True)
    # The pages ask port 4200 unless they are told otherwise.
    environment = {**os.environ, "PREFECT_UI_API_URL": f"{address}/api"}
    environment.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with Guarded(command, env=environment, grace=4.0, log=log) as server:
        yield address, server


def wait_for(address: str, process: Guarded | None = None, log: Path | None = None) -> None:
    """Wait until `address` answers with 200.

    Raises:
        InfrastructureError: Its process ended, or it did not answer in `PATIENCE` seconds.
    """
    end = time.monotonic() + (PATIENCE if process else 10.0)
    while not answers(address):
        ended = process is not None and process.poll() is not None
        if ended or time.monotonic() > end:
            raise InfrastructureError(
                f"{'ended at its start' if ended else 'does not answer'}{_last_words(log)}",
                where=address,
                mend=f"See {log}, or run `jpu doctor`." if log else "Start it, or unset PREFECT_API_URL.",
            )
        time.sleep(0.05)


def answers(address: str, timeout: float = 3.0) -> bool:
    """Whether an HTTP GET of `address` ends with status 200."""
    try:
        # Never through a proxy: these are addresses of this machine, or the user's own servers.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(address, timeout=timeout) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def announce(addresses: Mapping[str, str]) -> None:
    """Write down which servers `jpu ui` has running, for `running`."""
    write_json(RUNNING, {**addresses, "process": identity()})


def stays() -> bool:
    """Whether the Prefect server in PREFECT_API_URL is one that others use too, not one of a command's own."""
    return "PREFECT_API_URL" in os.environ and OWN not in os.environ


def running() -> dict[str, str]:
    """Addresses of the servers that a `jpu ui` has running here: `prefect` (its API) and `mlflow`."""
    try:
        noted = json.loads(RUNNING.read_text(encoding="utf-8"))
        if alive(noted.pop("process")):
            return {name: url for name, url in noted.items() if answers(f"{url}/health")}
    except (OSError, ValueError, AttributeError, KeyError):
        pass
    return {}


def free_port(wanted: int = 0) -> int:
    """A port of 127.0.0.1 that nobody listens on: `wanted`, or any for 0.

    Raises:
        SettingsError: `wanted` is taken.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError as error:
            raise SettingsError(
                f"port {wanted} is taken", where="127.0.0.1", mend="Choose another port, or none."
            ) from error
        return int(probe.getsockname()[1])


def _ready(url: str, server: Guarded | None = None, log: Path | None = None) -> str:
    wait_for(f"{url}/health", server, log)
    return url


@contextmanager
def _api_url(url: str) -> Iterator[None]:
    os.environ.update({"PREFECT_API_URL": url, OWN: "1"})
    try:
        yield
    finally:
        del os.environ["PREFECT_API_URL"], os.environ[OWN]


def _last_words(log: Path | None) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log else []
    except OSError:
        return ""
    said = [line.strip() for line in lines if line.strip()]
    return f": {said[-1][:200]}" if said else ""
