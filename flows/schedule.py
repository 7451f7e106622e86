"""The deployment of `reharden` on a Prefect server that stays: a schedule, and an event that starts it at once.

With it the automations of automations.yaml.
"""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console

from flows.own_servers import CLIENTS, prefect_environment, wait_for
from jpu.errors import SettingsError
from jpu.files import read_text
from tasks.settings import load_settings

# Emitted by whoever drops files into the inbox: `prefect event emit jpu.inbox.arrived --resource-id jpu.inbox`.
ARRIVED = "jpu.inbox.arrived"
AUTOMATIONS = "automations.yaml"


def put_on_schedule(cron: str, pool: str, off: bool, console: Console) -> None:
    """Make or change the deployment `reharden/champion`.

    Args:
        cron: When; "" for reharden.cron of params.yaml.
        pool: The work pool; made where there is none.
        off: Pause the schedule.
        console: Where to say what was done.

    Raises:
        SettingsError: No server is named, or the cron expression is none.
        InfrastructureError: The server does not answer.
    """
    settings = load_settings()
    address = os.environ.get("PREFECT_API_URL", "")
    if not address:
        raise SettingsError(
            "a schedule needs a Prefect server that stays",
            where="PREFECT_API_URL",
            mend='`make services` starts one; then `eval "$(jpu services env)"`, and again.',
        )
    prefect_environment()
    wait_for(f"{address}/health")
    chosen = cron or settings.reharden.cron
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.events import DeploymentEventTrigger
    from pydantic import ValidationError

    from flows.reharden import reharden

    try:
        when = CronSchedule(cron=chosen, timezone="UTC")
    except ValidationError as error:
        raise SettingsError(
            f"{chosen!r} is no cron expression",
            where="--cron" if cron else "params.yaml, key reharden.cron",
            mend="Five fields: minute, hour, day, month, weekday.",
        ) from error
    _make_pool(pool)
    root = Path.cwd()
    remote = reharden.from_source(source=str(root), entrypoint="flows/reharden.py:reharden")
    remote.deploy(
        name="champion",
        work_pool_name=pool,
        schedule=when,
        paused=off,
        triggers=[DeploymentEventTrigger(expect={ARRIVED}, name="inbox arrived")],
        concurrency_limit=1,
        job_variables={"env": CLIENTS},
        tags=["jpu"],
        description="Look at the champion, and harden it again where there is reason to.",
        print_next_steps=False,
        ignore_warnings=True,
    )
    _make_automations(root / AUTOMATIONS)
    console.print(f"reharden/champion: {chosen} (UTC){', paused' if off else ''}; work pool {pool}.", highlight=False)
    console.print(f"At once: `prefect deployment run reharden/champion`, or an event {ARRIVED!r}.", highlight=False)


def _make_pool(name: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(name)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=name, type="process"))


def _make_automations(file: Path) -> None:
    """Those of the file; one of the same name that the server has becomes what the file says."""
    import yaml
    from prefect.client.orchestration import get_client
    from prefect.events.schemas.automations import AutomationCore

    with get_client(sync_client=True) as client:
        for given in yaml.safe_load(read_text(file))["automations"]:
            automation = AutomationCore.model_validate(given)
            known = client.read_automations_by_name(automation.name)
            if known:
                client.update_automation(known[0].id, automation)
            else:
                client.create_automation(automation)
