"""Several processes for one training: started by a stage for itself; `dvc repro` and `jpu harden` need not know of it.

On one machine they are started by PyTorch's elastic launcher and meet in a file: nothing listens but gloo's or NCCL's
own connections, on the loopback address. With a configuration of accelerate (several machines, FSDP) they are started
by `accelerate launch`, and its addresses are those of the configuration.

The first process is the stage: it records, reports and writes. When one fails, the others are ended, and the stage ends
with its exit code.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from jpu.errors import SettingsError
from jpu.processes import ALONE, Processes
from tasks.sections import EngineSettings

# In the processes that were started: the file in which they meet; "" where accelerate has told them.
_MEETING = "JPU_MEETING"
_STARTED_BY = "JPU_STARTED_BY"
_WHERE = "params.yaml: engine"
_PR_SET_PDEATHSIG = 1


def wanted(engine: EngineSettings) -> bool:
    """Whether the engine asks for several processes, and this is not yet one of them."""
    return (engine.processes > 1 or bool(engine.accelerate)) and _MEETING not in os.environ


def launch(module: str, arguments: Sequence[str], engine: EngineSettings, device: str) -> None:
    """Run a module in the processes that the engine asks for, and wait for their end.

    Args:
        module: The stage, `tasks.NAME`.
        arguments: Its command line.
        engine: How many, or accelerate's configuration.
        device: Where the model is to be.

    Raises:
        SettingsError: There are not enough GPUs, a device of all processes is named, or there is no such configuration.
        SystemExit: One of them failed; with its exit code.
    """
    if ":" in device:
        raise SettingsError(
            f"the device {device!r} is one, and each process wants its own",
            where="params.yaml: subject.device",
            mend="Set it to auto, cuda or cpu. Nothing was written.",
        )
    if engine.accelerate:
        code = _by_accelerate(module, arguments, engine.accelerate)
    else:
        code = _here(module, arguments, engine.processes, device)
    if code:
        raise SystemExit(code if code > 0 else 128 - code)


def _here(module: str, arguments: Sequence[str], count: int, device: str) -> int:
    """Processes on this machine; the exit code of the first that failed, or 0."""
    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, start_processes

    cards = 0 if device == "cpu" else torch.cuda.device_count()
    if cards and count > cards:
        raise SettingsError(
            f"{count} processes, and {cards} GPUs",
            where=f"{_WHERE}.processes",
            mend="Ask for as many as there are, or set subject.device to cpu. Nothing was written.",
        )
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // count))
    with tempfile.TemporaryDirectory(prefix="jpu-processes-") as folder:
        shared = {
            _MEETING: str(Path(folder) / "meeting"),
            _STARTED_BY: str(os.getpid()),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", loopback),
            "NCCL_SOCKET_IFNAME": os.environ.get("NCCL_SOCKET_IFNAME", loopback),
            "OMP_NUM_THREADS": threads,
        }
        context = start_processes(
            name=module,
            entrypoint=sys.executable,
            args={rank: ("-m", module, *arguments) for rank in range(count)},
            envs={rank: {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)},
            logs_specs=DefaultLogsSpecs(log_dir=str(Path(folder) / "logs")),
        )
        try:
            result = context.wait(period=0.1)
        except SignalException as stopped:
            context.close(stopped.sigval)
            return 128 + int(stopped.sigval)
        except BaseException:
            context.close()
            raise
    failures = sorted(result.failures.values(), key=lambda failure: failure.timestamp) if result else []
    return failures[0].exitcode if failures else 0


def _by_accelerate(module: str, arguments: Sequence[str], config: str) -> int:
    """Processes as a configuration of accelerate has them."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if not Path(config).is_file():
        raise SettingsError(
            f"no file {config!r}",
            where=f"{_WHERE}.accelerate",
            mend="Write one with `accelerate config --config_file PATH`, or leave the key empty. Nothing was written.",
        )
    words = ["--config_file", config, "--module", module, *arguments]
    told = {_MEETING: "", _STARTED_BY: str(os.getpid())}
    os.environ.update(told)
    try:
        launch_command(launch_command_parser().parse_args(words))
    except ChildFailedError as error:
        return error.get_first_failure()[1].exitcode
    finally:
        for name in told:
            del os.environ[name]
    return 0


@contextlib.contextmanager
def joined(engine: EngineSettings, device: str) -> Iterator[Processes]:
    """The processes that this one was started with; itself alone where nobody started it.

    All but the first say nothing on standard output and are not recorded.

    Args:
        engine: Whether weights are divided; so they are where accelerate's configuration says FSDP.
        device: Where the model is to be.

    Raises:
        SettingsError: Accelerate's configuration asks for what a training here cannot do.
    """
    meeting = os.environ.get(_MEETING)
    if meeting is None:
        yield ALONE
        return
    _end_with(int(os.environ[_STARTED_BY]))
    _check_accelerate()
    import torch
    from accelerate import PartialState

    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    named = {"init_method": f"file://{meeting}", "rank": rank, "world_size": size} if meeting else {}
    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), **named)
    sharded = engine.shard or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    processes = Processes(state.process_index, state.num_processes, state.device, sharded)
    with contextlib.ExitStack() as stack:
        stack.callback(state.destroy_process_group)
        if not processes.main:
            os.environ["JPU_TRACKING"] = "off"
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        yield processes


def _end_with(starter: int) -> None:
    """After `kill -9` of the one that started it, nobody else would end this process."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != starter:
        raise SystemExit(128 + signal.SIGTERM)


# What accelerate tells its processes → what it must say, and where that is set here.
_FIXED = {
    "ACCELERATE_MIXED_PRECISION": ("no", "subject.dtype says in which precision the model is"),
    "ACCELERATE_USE_DEEPSPEED": ("false", "DeepSpeed is not supported; FSDP is"),
    "ACCELERATE_USE_MEGATRON_LM": ("false", "Megatron is not supported; FSDP is"),
    "FSDP_OFFLOAD_PARAMS": ("false", "offloading is not supported"),
}


def _check_accelerate() -> None:
    for name, (only, why) in _FIXED.items():
        given = os.environ.get(name, only)
        if given.lower() != only:
            raise SettingsError(
                f"the configuration leads to {name}={given}; {why}",
                where=f"{_WHERE}.accelerate",
                mend=f"Change the file so that it is {only}.",
            )
