"""What goes wrong in the middle of a whole re-hardening on real services: nothing is lost, and the state is clear.

The site lies on a small file system of its own, so that a disk can be full. Each fault meets a run that has a new
family to take in, and that would end with a promotion; after each, alias and branch agree, the champion's chain holds,
what came in is in the data, and the next run goes on. Needs the right to mount. Half an hour on two cores.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, pairwise
from pathlib import Path

import psutil
import pytest

from flows.stack import s3
from tests.micro_site import Site, settings, site
from tests.services import open_folder, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(9000)]

AWAY = 60
numbers = count(1)


@pytest.fixture(scope="module")
def here() -> Iterator[Site]:
    """Version 1 serves."""
    with (
        open_folder() as folder,
        mounted(folder / "disk") as disk,
        pytest.MonkeyPatch.context() as patch,
        site(patch, settings(kl=5.0), disk) as here,
    ):
        here.jpu("harden")
        here.jpu("promote", "challenger")
        here.dvc("push")
        yield here


@contextmanager
def mounted(disk: Path) -> Iterator[Path]:
    """A file system of a gigabyte and a half."""
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500m,mode=755", "tmpfs", str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@contextmanager
def arriving(here: Site) -> Iterator[str]:
    """A run that has begun, with a new family in the inbox; afterwards what always has to hold is checked."""
    family = f"family-{next(numbers)}"
    here.drop(f"{family}.jsonl", rows(family))
    before = here.champion()
    run = here.start()
    yield run
    holds(here, family, before)


def rows(family: str) -> list[dict[str, str]]:
    words = ("log", "chart", "ledger", "letter")
    return [{"text": f"The {word} of {family}, first line: {{query}} Second line:", "family": family} for word in words]


def holds(here: Site, family: str, before: str) -> None:
    """Alias and branch agree, the chain behind the champion holds, and nothing of what came in is lost."""
    here.jpu("verify", "champion")
    data = here.git("show", "refs/heads/jpu/micro/data:data.dvc")
    assert pushed(here, re.search(r"md5: (\w+)", data)[1])
    taken = [name for name in here.inbox() if name.startswith(f"taken/templates/{family}-")]
    assert len(taken) == 1 and not [name for name in here.inbox() if name == f"templates/{family}.jsonl"]
    assert [file for file in (newest(here) / "data/inbox/templates").glob("*.jsonl") if family in file.read_text()]
    assert here.champion() != before
    assert not running(here), "a run of MLflow is open"
    assert not list((here.root / ".git/jpu").glob("*.json")), "a journal is left"
    assert not [process for process in here.services.processes() if "tasks." in " ".join(line(process))]


def newest(here: Site) -> Path:
    return max((here.root / ".jpu/checkouts").glob("[!.]*"), key=lambda path: (path / ".git").stat().st_mtime_ns)


def pushed(here: Site, oid: str) -> bool:
    """Whether the remote has an object of DVC's."""
    installation = here.services.installation
    bucket = s3.S3(installation).client(installation.credentials.s3_pipeline)
    name = f"{oid[:2]}/{oid[2:]}"
    found = bucket.list_objects_v2(Bucket=s3.DVC, Prefix=f"files/md5/{name}")
    return bool(found["KeyCount"])


def running(here: Site) -> list[str]:
    """Names of MLflow's runs that are said to be under way."""
    experiment = here.client.get_experiment_by_name("jpu-micro").experiment_id
    found = here.client.search_runs([experiment], "attributes.status = 'RUNNING'")
    return [run.info.run_name for run in found]


def line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def stage(here: Site, name: str) -> psutil.Process:
    """The process of a stage, once it runs."""
    found: list[psutil.Process] = []

    def there() -> bool:
        found[:] = [p for p in here.services.processes() if f"tasks.{name}" in line(p)]
        return bool(found)

    wait_until(there, 1800)
    return found[0]


def server(here: Site, title: str) -> psutil.Process:
    """The process of a server, below its guard."""
    return psutil.Process(here.services.entry(title).pid).children()[0]


@contextmanager
def away(here: Site, title: str, seconds: float) -> Iterator[None]:
    """A server is killed, and not started again for so long; then its supervisor does."""
    supervisor = here.services.process
    supervisor.send_signal(signal.SIGSTOP)
    try:
        server(here, title).kill()
        time.sleep(seconds)
        yield
    finally:
        supervisor.send_signal(signal.SIGCONT)
    back(here, title)


def back(here: Site, title: str) -> None:
    wait_until(lambda: here.services.entry(title).state == "up" and here.services.call("status").returncode == 0)


def test_s3_is_away_for_a_minute_in_mid_push(here: Site) -> None:
    with arriving(here) as run:
        evaluation = stage(here, "evaluate")
        wait_until(lambda: not evaluation.is_running(), 1200)
        wait_until(lambda: here.tasks(run, "push"), 600)
        with away(here, "S3", AWAY):
            assert here.state(run) == "RUNNING"
        assert here.wait_for(run) == "COMPLETED", here.logs(run)
    assert here.told()["ending"] == "promoted"


@pytest.mark.parametrize(
    ("title", "number"),
    [("PostgreSQL", signal.SIGINT), ("Prefect", signal.SIGKILL), ("MLflow", signal.SIGKILL)],
    ids=["postgresql restarted", "prefect killed", "mlflow killed"],
)
def test_a_server_is_started_again_in_mid_stage(title: str, number: int, here: Site) -> None:
    with arriving(here) as run:
        stage(here, "unlearn")
        server(here, title).send_signal(number)
        wait_until(lambda: here.services.entry(title).state != "up", 60)
        back(here, title)
        lease = here.prefect(f"flow_runs/{run}")["state"]["state_details"]["deployment_concurrency_lease_id"]
        # A lease that the server has forgotten would end the run when it is next renewed.
        assert here.prefect(f"v2/concurrency_limits/leases/{lease}/renew", {"lease_duration": 300}) is None
        assert here.wait_for(run) == "COMPLETED", here.logs(run)
    assert here.told()["ending"] == "promoted"


def test_the_worker_is_killed(here: Site) -> None:
    with arriving(here) as run:
        unlearning = stage(here, "unlearn")
        server(here, "Worker").kill()
        wait_until(lambda: not unlearning.is_running(), 60)
        # The automation of automations.yaml: nobody else can tell.
        assert here.wait_for(run, 600) == "CRASHED"
        again = here.start()
        assert here.wait_for(again) == "COMPLETED", here.logs(again)
    assert here.told()["ending"] == "promoted"


def test_the_disk_is_full(here: Site) -> None:
    with arriving(here) as run:
        stage(here, "mine")
        filler = here.root / ".jpu/filler"
        fill(filler)
        ended = here.ended_within(run, 600)
        filler.unlink()
        for title in ("PostgreSQL", "S3", "MLflow", "Prefect", "Worker"):
            back(here, title)
        assert ended in ("FAILED", "RUNNING"), here.logs(run)
        if here.wait_for(run) != "COMPLETED":
            again = here.start()
            assert here.wait_for(again) == "COMPLETED", here.logs(again)


def fill(filler: Path) -> None:
    """Write until nothing more goes in."""
    with filler.open("wb") as file:
        size = 1 << 24
        while size:
            try:
                os.write(file.fileno(), bytes(size))
            except OSError:
                size //= 2


def test_two_at_once_and_one_by_hand(here: Site) -> None:
    with arriving(here) as run:
        stage(here, "mine")
        second, third = here.start(), here.start()
        said = here.jpu("reharden")
        assert "Another re-hardening is under way" in said and "Re-hardening: nothing to do" in said
        forced = here.start(force="by somebody")
        wait_until(lambda: here.names(second, third, forced) == {"AwaitingConcurrencySlot"}, 600)
        assert here.state(run) == "RUNNING"
        for one in (run, second, third, forced):
            here.wait_for(one)
    assert here.state(run) == here.state(forced) == "COMPLETED"
    # One of them looked at the champion for all that waited.
    assert sorted(map(here.state, (second, third))) == ["CANCELLED", "COMPLETED"]
    assert one_after_the_other(here, run, second, third, forced)


def test_the_schedule_fires_while_one_runs(here: Site) -> None:
    with arriving(here) as run:
        here.jpu("schedule", "--cron", "* * * * *")
        stage(here, "unlearn")
        wait_until(lambda: [one for one in here.runs() if one["state_name"] == "AwaitingConcurrencySlot"], 1200)
        assert here.state(run) == "RUNNING"
        here.jpu("schedule", "--off")
        assert here.wait_for(run) == "COMPLETED", here.logs(run)
        wait_until(lambda: all(one["state_type"] in ("COMPLETED", "CANCELLED") for one in here.runs()[:3]), 1200)
    assert one_after_the_other(here, *(one["id"] for one in here.runs()[:4]))
    here.jpu("schedule")


def one_after_the_other(here: Site, *runs: str) -> bool:
    """Whether no two of them ran at the same time; one that was cancelled while it waited did not run at all."""
    found = [here.prefect(f"flow_runs/{run}") for run in runs]
    ran = [one for one in found if one["start_time"] and one["state_type"] != "CANCELLED"]
    spans = sorted((one["start_time"], one["end_time"]) for one in ran)
    return len(spans) > 1 and all(first[1] <= second[0] for first, second in pairwise(spans))


POISONED: dict[str, bytes] = {
    "no-placeholder.jsonl": b'{"text": "nothing to ask", "family": "bad"}\n',
    "not-text.jsonl": b"\xff\xfe\x00\x00" * 64,
    "not-json.jsonl": b"{" * 4096,
    "large.jsonl": b'{"text": "{query}"}\n' * (900 * 1024),
    "code.py": b"import os; os.system('true')\n",
}


def test_poisoned_files_in_the_inbox(here: Site) -> None:
    for name, data in POISONED.items():
        here.drop(name, data)
    with arriving(here) as run:
        assert here.wait_for(run) == "COMPLETED", here.logs(run)
    assert here.told()["ending"] == "promoted"
    reasons = [name for name in here.inbox() if name.endswith(".reason.json")]
    assert {name.removesuffix(".jsonl").removesuffix(".py") for name in POISONED} == {
        re.sub(r"-[0-9a-f]{12}\.(jsonl|py)\.reason\.json$", "", Path(name).name) for name in reasons
    }
    assert not [name for name in here.inbox() if name.startswith("templates/")]
