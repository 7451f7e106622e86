"""Flow runs that were killed: a kill -9 tells Prefect's server nothing, and it would show them as running for ever."""

from __future__ import annotations

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.states import Crashed

_ENDLESS = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


def mark_broken(flow: str) -> None:
    """Give every run of a flow that has not ended, and its tasks, the state Crashed.

    Only for a server of this working tree's own, and while its lock is held: then none of them can be alive.
    """
    crashed: State[object] = Crashed(message="the process was gone when the next run began")
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_ENDLESS))),
        )
        if not runs:
            return
        tasks = client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id for run in runs])),
            task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=_ENDLESS))),
        )
        for task in tasks:
            client.set_task_run_state(task.id, crashed, force=True)
        for run in runs:
            client.set_flow_run_state(run.id, crashed, force=True)
