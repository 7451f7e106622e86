"""The main job: every stage of dvc.yaml, in order, as Prefect tasks, recorded in MLflow.

Run: jpu harden      (or, against a Prefect server of your own, the deployment in prefect.yaml)

The order and what is up to date come from DVC. One look at the whole pipeline tells which stages have nothing to
do; only the others cost a `dvc repro`. DVC is the only cache: Prefect caches no result and keeps none.
Does not start a Prefect server (flows/session.py does) and does not know what a stage does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.alone import alone
from flows.data import materialise
from flows.report import publish
from flows.runner import Outcome, repro
from jpu.errors import JpuError, SettingsError
from jpu.files import read_json
from tasks.environment import quiet
from tasks.flow_record import FlowRecord, flow_record
from tasks.lineage import METRICS
from tasks.locks import clear_stale_locks
from tasks.params import PARAMS, read_document
from tasks.pipeline import Plan, read_plan
from tasks.repository import read_lock
from tasks.settings import set_profile

REGISTERS = "evaluate"


def worth_another_try(task: Any, run: Any, state: State[Any]) -> bool:
    """Whether a task failed in a way that may pass by itself."""
    try:
        state.result()
    except JpuError as error:
        return error.retryable
    except BaseException:
        return False
    return False


@task(
    name="stage",
    task_run_name="{stage}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=2,
    retry_delay_seconds=[2, 15],
    retry_condition_fn=worth_another_try,
)
def bring_up_to_date(stage: str, skip: str, force: bool, environment: dict[str, str]) -> State[Outcome]:
    """One stage. `skip` says why there is nothing to do, and is empty where there may be."""
    log = get_run_logger()

    def say(line: str) -> None:
        print(f"{stage:<11} {line}", flush=True)
        log.info(line)

    if skip:
        outcome = Outcome(stage, "unchanged", skip, 0.0)
    else:
        outcome = repro(stage, say=say, force=force, environment=environment)
    say(f"{outcome.what} ({outcome.why}){f', {outcome.seconds:.1f} s' if outcome.seconds else ''}")
    return Completed(name=outcome.what.capitalize(), message=outcome.why, data=outcome)


@flow(name="harden", persist_result=False, validate_parameters=True)
def harden(
    profile: str | None = None,
    seed: int | None = None,
    force: bool = False,
    stages: list[str] | None = None,
) -> dict[str, Any]:
    """Bring the whole pipeline up to date.

    Args:
        profile: Written to params.yaml first; None keeps what is there.
        seed: Written to params.yaml first; None keeps what is there.
        force: Execute stages that are up to date as well.
        stages: Only these, by name (`mine@1`) or group (`mine`); None for all.

    Returns:
        `outcomes` (one dict a stage, in order), `figures` (metrics.json), `model` (registered version) and `run`
        (MLflow's id of the parent run).

    Raises:
        SettingsError: params.yaml or dvc.yaml is not usable, or a stage does not exist.
        DataError: The data are not what data.dvc pins.
        StageError: A stage failed.
        InfrastructureError: Another run is under way, or MLflow or DVC's lock stayed out of reach.
    """
    quiet()
    os.chdir(repository())
    with alone():
        choose(profile, seed)
        clear_stale_locks()
        materialise(print)
        plan = read_plan()
        chosen = plan.select(stages)
        name = str(flow_run.get_name() or "harden")
        with flow_record(name, {"jpu.prefect_flow_run": str(flow_run.get_id() or "")}) as record:
            outcomes = [done for done in _run(plan, [stage.name for stage in chosen], force, record)]
            figures = read_json(METRICS) if Path(METRICS).exists() else {}
            if any(outcome.stage == REGISTERS for outcome in outcomes):
                record.register(REGISTERS)
                record.keep()
                record.figures = figures
                publish(figures, outcomes)
    return {
        "outcomes": [vars(outcome) for outcome in outcomes],
        "figures": figures,
        "model": record.model_version,
        "run": record.run_id,
    }


def _run(plan: Plan, chosen: list[str], force: bool, record: FlowRecord) -> Iterator[Outcome]:
    """Bring each chosen stage up to date, and record what happened to it."""
    moved: set[str] = set()
    for name in chosen:
        upstream = set(plan.stage(name).upstream)
        quiet_here = not force and name not in plan.changes and not upstream & moved
        skip = "nothing changed" if quiet_here else ""
        state = bring_up_to_date(name, skip, force, record.environment, return_state=True)
        outcome = cast(Outcome, state.result())
        locked = read_lock().get(name)
        if outcome.what == "executed":
            record.executed(name, locked, outcome.why)
        else:
            record.cached(name, outcome.what, locked, outcome.why)
        if outcome.what != "unchanged":
            moved.add(name)
        yield outcome


def choose(profile: str | None, seed: int | None) -> None:
    """Write the profile and the seed into params.yaml, where they differ from what is there.

    Raises:
        SettingsError: There is no such profile, or the seed is not a whole number from 0.
    """
    from jpu import files

    if profile is not None:
        set_profile(profile)
    if seed is None:
        return
    document = read_document(PARAMS)
    if seed < 0 or "seed" not in document.value:
        raise SettingsError(
            f"seed {seed} cannot be set", where=PARAMS, mend="Give a whole number from 0. Nothing was written."
        )
    if document.value["seed"] != seed:
        files.write_text(PARAMS, document.replaced(["seed"], str(seed)))


def repository() -> Path:
    """The folder with dvc.yaml: here, above, or, for a worker that runs elsewhere, this file's."""
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).resolve().parent.parent):
        if (folder / "dvc.yaml").exists():
            return folder
    raise SettingsError("no dvc.yaml here or above", where=str(here), mend="Run from the repository's folder.")
