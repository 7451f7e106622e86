"""Recurring re-hardening: look at the champion; where it gives reason, harden from it, and promote what proves better.

Run: jpu reharden      (or on a schedule, by the deployment in prefect.yaml; `jpu schedule` sets it up)

    champion → a clean checkout of its commit → take in the inbox → attack it as it is now → decide
      → harden from it (`jpu harden` in the checkout) → push → reproduce, verify → gates → promote, or keep it → tell

Every run works in a checkout of its own that shares DVC's cache, so that it collides with nobody. Until `promote`, the
last step but telling, a run that ends in any way leaves the champion as it was; what was taken in is committed before
the inbox is cleared. One run at a time, on this machine (a lock) and on all that share a Prefect server (a concurrency
limit): a second one says so and ends.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.runtime import deployment, flow_run

from flows.alone import alone
from flows.harden import repository, worth_another_try
from flows.inside import jpu
from flows.limit import one_everywhere
from flows.waiting import take_over
from jpu.errors import InfrastructureError
from tasks.decision import Arrivals, Reason, decide
from tasks.environment import quiet
from tasks.gates import Evidence, judge
from tasks.notify import notify
from tasks.redaction import describe
from tasks.rehardening import Rehardening, message
from tasks.rehardening_place import Place, open_place
from tasks.rehardening_summary import summary
from tasks.settings import load_settings

LOCK = Path(".jpu/reharden.lock")

# A service that is away for some minutes at night costs those minutes, and not the run.
step = task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=5,
    retry_delay_seconds=[2, 15, 60, 120, 240],
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
    with ExitStack() as stack:
        try:
            stack.enter_context(alone(LOCK))
            stack.enter_context(one_everywhere(f"jpu-reharden-{profile or load_settings().profile}"))
        except InfrastructureError as error:
            # What came in since the other one took in is for the next run.
            get_run_logger().info("another re-hardening is under way; nothing was done")
            print(f"Another re-hardening is under way; nothing was done. {error}", flush=True)
            return {"ending": "nothing to do", "error": str(error)}
        return _run(profile, force, inbox)


def _run(profile: str | None, force: str, inbox: str) -> dict[str, Any]:
    if waiting := take_over(deployment.get_id()):
        print(f"{waiting} more {'run' if waiting == 1 else 'runs'} waited for this one, and need not.", flush=True)
    place = placing(profile, f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{str(flow_run.get_id() or os.getpid())[:8]}")
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
                reproduced = reproducing(place, version)
                evidence = verifying(place, version, decision.reasons, found.arrivals, reproduced)
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


@step(name="place")
def placing(profile: str | None, name: str) -> Place:
    """A clean checkout of the champion's commit, with the newest data."""
    return open_place(profile, name)


@step(name="take in")
def taking_in(place: Place, inbox: str) -> Any:
    """What lies in the inbox becomes data, committed and pushed; then the inbox is cleared."""
    return place.take_in(inbox, print)


@step(name="look")
def looking(place: Place) -> Any:
    """The champion under attack, on the data as they are now."""
    return place.look(partial(jpu, folder=place.folder, environment=place.environment))


@step(name="harden")
def hardening(place: Place) -> Any:
    """A challenger from the champion: its figures and its version."""
    return place.harden(partial(jpu, folder=place.folder, environment=place.environment))


@step(name="push")
def pushing(place: Place) -> None:
    """Data and models go to the remote before anything is said of them: what is promoted can be made again."""
    place.push()


@step(name="reproduce")
def reproducing(place: Place, version: str) -> Sequence[tuple[str, bool]]:
    """Stages of the challenger that are run once more, and whether they wrote the same bytes."""
    return place.reproduce(version, partial(jpu, folder=place.folder, environment=place.environment))


@step(name="verify")
def verifying(
    place: Place,
    version: str,
    reasons: Sequence[Reason],
    arrivals: Arrivals,
    reproduced: Sequence[tuple[str, bool]],
) -> Evidence:
    """What speaks for the challenger beside its figures."""
    return place.evidence(version, reasons, arrivals, reproduced)


@step(name="promote")
def promoting(place: Place, version: str) -> None:
    """The champion moves, if it is still the one that was compared with."""
    place.promote(version)


def _tell(place: Place, found: Rehardening, text: str) -> None:
    """Prefect's page, an event for its automations, and the webhook; none of them ends the run."""
    try:
        create_markdown_artifact(key="rehardening", markdown=text, description=found.headline)
        resource = {"prefect.resource.id": f"jpu.champion.{found.profile}", "jpu.champion": found.champion}
        emit_event(event=f"jpu.rehardening.{found.ending.replace(' ', '-')}", resource=resource)
    except Exception as error:
        get_run_logger().warning(f"Prefect was not told: {describe(error)}")
    sent = notify(message(found, at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"), place.settings.reharden.webhook)
    if sent.error:
        get_run_logger().warning(f"the webhook was not told: {sent.error}")
    print(found.headline, flush=True)
