"""A function in several processes of one group, for tests of what processes share. They are forked: nothing is loaded
again, and what the test has built is there."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from jpu.processes import Processes


def forked(size: int, folder: Path, function: Callable[[Processes], Any]) -> list[Any]:
    """The function's result in every process, by rank; results are JSON. An error fails the test with its traceback."""

    def run(rank: int) -> None:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
        torch.set_num_threads(1)
        try:
            store = dist.FileStore(str(folder / "store"), size)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=120))
            found = function(Processes(rank, size))
            (folder / f"{rank}.json").write_text(json.dumps(found))
            dist.destroy_process_group()
        except BaseException:
            (folder / f"{rank}.txt").write_text(traceback.format_exc())
            os._exit(1)
        os._exit(0)

    started = [multiprocessing.get_context("fork").Process(target=run, args=(rank,)) for rank in range(size)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    failed = [path.read_text() for path in sorted(folder.glob("*.txt"))]
    assert not failed, "\n".join(failed)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]
