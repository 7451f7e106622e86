"""Processes that die are told as such, whenever they do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from jpu.errors import InfrastructureError
from tasks.comparing.workers import Job, Pool


def job(subject: str) -> Job:
    return Job(cast("Any", SimpleNamespace(key=subject, name=subject)))


@pytest.mark.parametrize("moment", ["before it is given a job", "before it has read its job"])
def test_a_process_that_was_killed_is_named_by_its_job(moment: str) -> None:
    with Pool(1) as pool:
        worker = pool._start()
        if moment == "before it has read its job":
            # It imports for a second or more before it reads.
            pool._give(worker, [job("s0")])
            waiting = []
        else:
            waiting = [job("s0")]
        worker.process.kill()
        worker.process.join()
        with pytest.raises(InfrastructureError, match="the process of subject s0 died") as caught:
            pool.run(waiting, lambda *_: None)
        assert "fewer --workers" in caught.value.mend
