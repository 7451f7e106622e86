"""Recurring re-hardening: look at the champion; where it gives reason, harden from it, and promote what proves better.

Run: jpu reharden      (or on a schedule, by the deployment in prefect.yaml; `jpu schedule` sets it up)

    champion → a clean checkout of its commit → take in the inbox → attack it as it is now → decide
      → harden from it (`jpu harden` in the checkout) → push → verify → gates → promote, or keep it → tell

Every run works in a checkout of its own that shares DVC's cache, so that it collides with nobody. Until `promote`, the
last step but telling, a run that ends in any way leaves the champion as it was; what was taken in is committed before
the inbox is cleared. One run at a time: a second one says so and ends.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.runtime import flow_run

from flows.alone import alone
from flows.harden import repository, worth_another_try
from flows.inside import jpu
from jpu.errors import InfrastructureError
from tasks.decision import Arrivals, Reason, decide
from tasks.environment import quiet
from tasks.gates import Evidence, judge
from tasks.notify import notify
from tasks.redaction import describe
from tasks.rehardening import Rehardening, message
from tasks.rehardening_place import Place, open_place
from tasks.rehardening_summary import summary

LOCK = Path(".jpu/reharden.lock")

step = task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=3,
    retry_delay_seconds=[2, 15, 60],
    retry_condition_fn=worth_another_try,
)


@flow(name="reharden", persist_result=False, validate_parameters=True)
def reharden(profile: str | None = None, force: str = "", inbox: str = "") -> dict[str, Any]:
    """Harden the champion again where there is reason to.

    Args:
        profile: Whose champion; None for that of params.yaml.
        force: Who or what asks for it in any case; "" for nobody.
        inbox: A folder or s3://bucket/prefix; "" for JPU_INBOX or params.yaml's.

    Returns:
        The run as `Rehardening` has it, as plain values.

    Raises:
        DataError: There is no champion, or its parts are gone.
        InfrastructureError: A service stayed out of reach; the champion is as it was.
    """
    quiet()
    os.chdir(repository())
    try:
        with alone(LOCK):
            return _run(profile, force, inbox)
    except InfrastructureError as error:
        if error.where != str(LOCK):
            raise
        # The schedule fired while a run is under way: that run will see what this one would have.
        get_run_logger().info("another re-hardening is under way; nothing was done")
        return {"ending": "nothing to do", "error": str(error)}


def _run(profile: str | None, force: str, inbox: str) -> dict[str, Any]:
    place = open_place(profile, name=f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{str(flow_run.get_id() or os.getpid())[:8]}")
    found = Rehardening(profile=place.profile, ending="kept", champion=place.champion.name)
    now = challenger = None
    try:
        with place.record(str(flow_run.get_id() or "")) as record:
            found = found.model_copy(update={"arrivals": taking_in(place, inbox), "links": record.links})
            now = looking(place)
            decision = decide(now, place.promoted, found.arrivals, place.settings.reharden, forced=force)
            found = found.model_copy(
                update={"decision": decision, "ending": "kept" if decision.harden else "nothing to do"}
            )
            if decision.harden:
                challenger, version = hardening(place)
                pushing(place)
                evidence = verifying(place, version, decision.reasons, found.arrivals)
                verdict = judge(now, challenger, evidence, place.settings.gates)
                found = found.model_copy(update={"verdict": verdict, "challenger": version})
                if verdict.promote:
                    promoting(place, version)
                    found = found.model_copy(update={"ending": "promoted"})
            record.tell(found, summary(found, promoted=place.promoted, now=now, challenger=challenger))
    except BaseException as error:
        # After a promotion, what failed was only telling of it.
        ending = found.ending if found.ending == "promoted" else "failed"
        found = found.model_copy(update={"ending": ending, "error": describe(error)})
        _tell(place, found, summary(found, promoted=place.promoted, now=now, challenger=challenger))
        raise
    _tell(place, found, summary(found, promoted=place.promoted, now=now, challenger=challenger))
    place.tidy()
    return found.model_dump(mode="json")


@step(name="take in")
def taking_in(place: Place, inbox: str) -> Any:
    """What lies in the inbox becomes data, committed and pushed; then the inbox is cleared."""
    return place.take_in(inbox, print)


@step(name="look")
def looking(place: Place) -> Any:
    """The champion under attack, on the data as they are now."""
    return place.look(lambda *arguments: jpu(*arguments, folder=place.folder, environment=place.environment))


@step(name="harden")
def hardening(place: Place) -> Any:
    """A challenger from the champion: its figures and its version."""
    return place.harden(lambda *arguments: jpu(*arguments, folder=place.folder, environment=place.environment))


@step(name="push")
def pushing(place: Place) -> None:
    """Data and models go to the remote before anything is said of them: what is promoted can be made again."""
    place.push()


@step(name="verify")
def verifying(place: Place, version: str, reasons: Sequence[Reason], arrivals: Arrivals) -> Evidence:
    """What speaks for the challenger beside its figures."""
    return place.evidence(version, reasons, arrivals)


@step(name="promote")
def promoting(place: Place, version: str) -> None:
    """The champion moves, if it is still the one that was compared with."""
    place.promote(version)


def _tell(place: Place, found: Rehardening, text: str) -> None:
    """Prefect's page, an event for its automations, and the webhook; none of them ends the run."""
    create_markdown_artifact(key="rehardening", markdown=text, description=found.headline)
    resource = {"prefect.resource.id": f"jpu.champion.{found.profile}", "jpu.champion": found.champion}
    emit_event(event=f"jpu.rehardening.{found.ending.replace(' ', '-')}", resource=resource)
    sent = notify(message(found, at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"), place.settings.reharden.webhook)
    if sent.error:
        get_run_logger().warning(f"the webhook was not told: {sent.error}")
    print(found.headline, flush=True)
