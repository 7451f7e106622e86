"""Runs of the same deployment that wait until this one has ended.

Fifty files that arrive with an event each would have fifty runs look at the champion, one after the other. Whatever
made a run that waits now lies in the inbox already, which this one is about to read.
"""

from __future__ import annotations

from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateName,
)
from prefect.states import Cancelled

# What Prefect calls one that found the deployment's slots taken.
_WAITS = "AwaitingConcurrencySlot"


def take_over(deployment: str | None) -> int:
    """Cancel the runs of a deployment that wait, but for those that somebody forces; how many these were.

    Args:
        deployment: Its id; None for a run of no deployment, for which nobody waits.
    """
    if deployment is None:
        return 0
    with get_client(sync_client=True) as client:
        waiting = client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[UUID(deployment)])),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(name=FlowRunFilterStateName(any_=[_WAITS])),
            ),
        )
        mine = [run for run in waiting if not run.parameters.get("force")]
        for run in mine:
            client.set_flow_run_state(run.id, Cancelled(message="A run that has just begun does what it would do."))
    return len(mine)
