"""Copies of a model in Ray actors, which share pieces of work (`jpu.spread`). Ray is the optional extra `ray`.

A private cluster listens on the loopback address alone, asks for a token of its own, keeps its files in a folder that
is closed to others, and ends with the pool, or with this process, whatever ends that. A cluster that is joined is
somebody's: it is asked for actors, which end with the pool, and its own rules hold (token, addresses).

Neither sends usage statistics nor shows output of the actors here. Functions, items and results go between processes in
Ray's own serialisation (cloudpickle), and no further than that: whoever may join a cluster may run code on it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from jpu.errors import InfrastructureError, SettingsError

Held = TypeVar("Held")
HeldCo = TypeVar("HeldCo", covariant=True)
Item = TypeVar("Item")
Result = TypeVar("Result")

_WHERE = "params.yaml: engine"
# Seconds between two words on actors that a busy cluster has no room for yet.
_PATIENCE = 30.0
# Read when Ray is imported. The second is its only switch for listening on the loopback address and nowhere else: an
# address given to `ray.init` is replaced by the network's where a cluster is allowed.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
# Its workers give way to everything else unless told not to, and the work is theirs.
_PRIVATE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_worker_niceness": "0"}


class Loader(Protocol[HeldCo]):
    """Loads a model, in whatever process it is called."""

    def __call__(self) -> HeldCo:
        """The model."""
        ...

    def digest(self) -> str:
        """What tells the model's files and the code around it from others."""
        ...


class RayPool(Generic[Held]):
    """Pieces go to whichever actor is free; each actor has loaded a model of its own, once. A context.

    Args:
        load: Loads the model, in the actor.
        workers: Actors.
        threads: Threads of each in PyTorch; workers × threads should not exceed the cores.
        address: A cluster to join (`auto`, `host:port`, `ray://host:port`); "" starts a private one.

    Raises:
        SettingsError: Ray is not installed, or is running in this process already; the cluster has too few cores.
        InfrastructureError: The cluster cannot be joined, or a node of it has other files or code.
        JpuError: What the loader raises.
    """

    def __init__(self, load: Loader[Held], workers: int, *, threads: int = 1, address: str = "") -> None:
        if find_spec("ray") is None:
            raise SettingsError(
                "Ray is not installed",
                where=_WHERE,
                mend="`pip install 'ray>=2.60'`, or set engine.kind to local. Nothing was written.",
            )
        os.environ.update(_QUIET)
        if not address:
            os.environ.update(_PRIVATE)
            # In the environment alone, which other users cannot read: Ray's own would be a file in the home folder.
            os.environ.setdefault("RAY_AUTH_MODE", "token")
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        import ray

        if ray.is_initialized():
            raise SettingsError(
                "Ray is running in this process already", where=_WHERE, mend="Close the other pool first."
            )
        self._folder = "" if address else tempfile.mkdtemp(prefix="jpu-ray-")
        self._ray: Any = ray
        self._actors: list[Any] = []
        try:
            self._join(workers, address)
            self._open(load, workers, threads, joined=bool(address))
        except BaseException:
            self.close()
            raise

    def _join(self, workers: int, address: str) -> None:
        """Start a cluster, or join one."""
        stop = signal.getsignal(signal.SIGTERM)
        try:
            if address:
                _knock(address)
                self._ray.init(address=address, log_to_driver=False, logging_level="WARNING")
            else:
                self._ray.init(
                    address="local",
                    # The pool decides how many actors run: one core for each, whatever the machine has.
                    num_cpus=workers,
                    num_gpus=gpus(),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level="WARNING",
                    # One deeper: Ray opens the folder that it is given to everybody.
                    _temp_dir=os.path.join(self._folder, "ray"),
                )
        except (OSError, RuntimeError, TimeoutError, ValueError, self._ray.exceptions.RayError) as error:
            raise InfrastructureError(
                f"Ray cannot be reached ({_first_line(error)})" if address else f"Ray does not start ({error})",
                where=f"{_WHERE}.address",
                mend="Check the address, that the cluster runs this version of Ray and Python, and RAY_AUTH_MODE and "
                "RAY_AUTH_TOKEN where it asks for a token."
                if address
                else "Look for memory and free ports, and run it again.",
            ) from error
        finally:
            # Ray puts a handler of its own in the place of the stage's, which ends with another exit code.
            if stop is not None:
                signal.signal(signal.SIGTERM, stop)

    def _open(self, load: Loader[Held], workers: int, threads: int, *, joined: bool) -> None:
        """Have every actor load its model."""
        there = self._ray.cluster_resources()
        if there.get("CPU", 0) < workers:
            raise SettingsError(
                f"{workers} workers, and the cluster has {there.get('CPU', 0):g} cores",
                where=f"{_WHERE}.workers",
                mend="Ask for fewer workers, or add nodes. Nothing was written.",
            )
        holder = self._ray.remote(num_cpus=1, num_gpus=min(1.0, there.get("GPU", 0) / workers))(_Holder)
        self._actors = [holder.remote() for _ in range(workers)]
        opened = [actor.open.remote(load, threads) for actor in self._actors]
        waiting = opened
        while waiting:
            _, waiting = self._ray.wait(waiting, num_returns=len(waiting), timeout=_PATIENCE)
            if waiting:
                print(f"Ray: {len(waiting)} of {workers} workers have not loaded the model yet", flush=True)
        digests = {self._get(answer) for answer in opened}
        if joined and digests != {load.digest()}:
            raise InfrastructureError(
                "a node of the cluster has other files or other code than this machine",
                where=f"{_WHERE}.address",
                mend="Put the working tree on a file system that all nodes share, at one path, with one environment.",
            )

    def map(
        self,
        function: Callable[[Held, Item], Result],
        items: Sequence[Item],
        arrived: Callable[[int, Result], None] | None = None,
    ) -> list[Result]:
        """As `jpu.spread.Spread`; an error of the function comes out as it is, and what was not begun is left undone.

        Raises:
            InfrastructureError: An actor died.
        """
        sent = self._ray.put(function)
        results: dict[int, Result] = {}
        running: dict[Any, tuple[int, Any]] = {}
        free, waiting = list(self._actors), list(reversed(range(len(items))))
        while running or waiting:
            while free and waiting:
                actor, place = free.pop(), waiting.pop()
                running[actor.run.remote(sent, items[place])] = (place, actor)
            done, _ = self._ray.wait(list(running))
            place, actor = running.pop(done[0])
            results[place] = self._get(done[0])
            free.append(actor)
            if arrived is not None:
                arrived(place, results[place])
        return [results[place] for place in range(len(items))]

    def _get(self, answer: Any) -> Any:
        try:
            return self._ray.get(answer)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            raise InfrastructureError(
                f"a Ray worker was lost ({type(error).__name__})",
                where=_WHERE,
                mend="Use fewer workers if memory is short, and run it again.",
            ) from error

    def close(self) -> None:
        """End the actors, and Ray's own processes where they are the pool's."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []
        self._ray.shutdown()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Holder:
    """What an actor is: a process with a model. Loaded by a call, so that an error of it comes out as it is."""

    def open(self, load: Loader[Any], threads: int) -> str:
        """Load the model; what it was loaded from."""
        import torch

        torch.set_num_threads(threads)
        self._held = load()
        return load.digest()

    def run(self, function: Callable[[Any, Any], Any], item: Any) -> Any:
        """One piece."""
        return function(self._held, item)


def _knock(address: str) -> None:
    """Raise OSError where nobody listens: Ray itself would try for a minute, and then end this process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()


def gpus() -> int:
    """GPUs of this machine."""
    import torch

    return torch.cuda.device_count()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
