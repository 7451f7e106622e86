"""Which run made what: output hashes on runs, the registered model, and the way back from it.

A stage's run carries `jpu.outputs`, a digest of the hashes that DVC gives its outputs. That digest, computed again
from `dvc.lock`, finds the run that made a cached output, whoever ran it. Nothing of this is inside an output, so
it never changes what DVC considers up to date.

Not covered: outputs whose run was deleted from MLflow, or made against another tracking store; they say "unknown".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jpu.errors import DataError
from jpu.files import read_json
from tasks.environment import alive
from tasks.pinned import read_start
from tasks.repository import data_hash, open_repo, read_lock, read_params, repo_hash

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

SUBJECT = "artifacts/subject"
METRICS = "artifacts/evaluation/metrics.json"
ALIAS = "challenger"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Hardened:
    """The hardened model that the working tree holds: where its parts are, and their DVC hashes."""

    profile: str
    adapter: Path
    hashes: Mapping[str, str]
    scores: Mapping[str, float]

    @property
    def name(self) -> str:
        """The registered model's name."""
        return f"jpu-{self.profile}"

    @property
    def identity(self) -> dict[str, str]:
        """The tags that make two versions the same model with the same figures."""
        return {f"jpu.{part}": self.hashes[part] for part in ("adapter", "metrics", "subject", "data")}


def experiment_name() -> str:
    """One MLflow experiment a profile: figures of different subjects do not compare."""
    return f"jpu-{read_params().get('profile', 'default')}"


def tag_key(stage: str) -> str:
    """A stage's name as MLflow allows it in a key: `mine@1` → `mine-1`."""
    return stage.replace("@", "-")


def digest(outputs: Mapping[str, str]) -> str:
    """A short digest of path → hash, the same in every order."""
    return hashlib.sha256(json.dumps(sorted(outputs.items())).encode()).hexdigest()[:16]


def output_tags(outputs: Mapping[str, str]) -> dict[str, str]:
    """The tags that a stage's run carries for its outputs."""
    return {"jpu.outputs": digest(outputs), **{f"jpu.out/{path}": md5 for path, md5 in outputs.items()}}


def stage_outputs(stage: str) -> dict[str, str]:
    """Hashes of what `stage` just wrote, from the files: before the command exits, dvc.lock is of the last run.

    Outputs that are not there are left out. Raises what `open_repo` raises.
    """
    with open_repo() as repo:
        found = [s for s in repo.index.stages if s.addressing == stage]
        paths = [str(out) for s in found for out in s.outs]
        return {path: repo_hash(repo, path) for path in paths if Path(path).exists()}


def find_maker(client: MlflowClient, experiment: str, stage: str, outputs: Mapping[str, str]) -> Run | None:
    """The last finished run that executed `stage` and made exactly these outputs."""
    found = client.search_runs(
        [experiment],
        f"tags.`jpu.stage` = '{tag_key(stage)}' and tags.`jpu.outputs` = '{digest(outputs)}' "
        "and tags.`jpu.cached` = 'false' and attributes.status = 'FINISHED'",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    return found[0] if found else None


def fail_broken_runs(client: MlflowClient) -> list[str]:
    """Mark runs as FAILED that still say RUNNING although their process on this machine is gone; their ids."""
    experiments = [e.experiment_id for e in client.search_experiments(filter_string="name LIKE 'jpu-%'")]
    if not experiments:
        return []
    broken = []
    for run in client.search_runs(experiments, "attributes.status = 'RUNNING' and tags.`jpu.pid` != ''"):
        tags = run.data.tags
        known = {key: tags.get(f"jpu.{key}", "") for key in ("host", "pid", "started")}
        if alive(known) is False:
            client.set_tag(run.info.run_id, "jpu.error", "the process was killed before it could end its run")
            client.set_terminated(run.info.run_id, status="FAILED")
            broken.append(run.info.run_id)
    return broken


def hardened_model() -> Hardened:
    """The hardened model in the working tree.

    Raises:
        DataError: The adapter, the subject or the metrics are missing.
    """
    params = read_params()
    adapter = Path("artifacts/rounds", str(params.get("last_round", "")), "adapter")
    parts = {"adapter": str(adapter), "metrics": METRICS, "subject": SUBJECT}
    for path in parts.values():
        if not Path(path).exists():
            raise DataError("not there, so there is nothing to register", where=path, mend="Run `jpu harden`.")
    with open_repo() as repo:
        hashes = {part: repo_hash(repo, path) for part, path in parts.items()}
    return Hardened(
        profile=str(params.get("profile", "default")),
        adapter=adapter,
        hashes={**hashes, "data": data_hash() or UNKNOWN},
        scores=scores(read_json(METRICS)),
    )


def registered(client: MlflowClient, model: Hardened) -> str | None:
    """Number of the newest version that is this model with these figures, or None."""
    versions = client.search_model_versions(f"name = '{model.name}'", max_results=1000)
    same = [v for v in versions if all(v.tags.get(key) == value for key, value in model.identity.items())]
    return str(max(int(v.version) for v in same)) if same else None


def register(client: MlflowClient, experiment: str, run_id: str) -> str:
    """Register the working tree's hardened model as a version, made by run `run_id`; alias `challenger`.

    A model that is registered already is only given the alias again.

    Returns:
        The version's number.

    Raises:
        DataError: There is nothing to register.
    """
    from mlflow.exceptions import MlflowException

    model = hardened_model()
    number = registered(client, model)
    if number is None:
        try:
            client.get_registered_model(model.name)
        except MlflowException:
            client.create_registered_model(
                model.name, description="LoRA adapters hardened by jailbreak path unlearning."
            )
        client.log_artifacts(run_id, str(model.adapter), "adapter")
        run = client.get_run(run_id)
        makers = _makers(client, experiment, run)
        number = str(
            client.create_model_version(
                model.name,
                source=f"{run.info.artifact_uri}/adapter",
                run_id=run_id,
                tags=_version_tags(model, run, makers),
                description=_description(model, run, makers),
            ).version
        )
    client.set_registered_model_alias(model.name, ALIAS, number)
    client.set_tag(run_id, "jpu.model_version", f"{model.name} {number}")
    return number


def scores(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested figures as `after.asr_static` → value; intervals and counts are left out."""
    found: dict[str, float] = {}
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            if isinstance(value.get("value"), int | float):
                found[prefix + key] = float(value["value"])
            else:
                found.update(scores(value, f"{prefix}{key}."))
        elif isinstance(value, int | float):
            found[prefix + key] = float(value)
    return found


def _makers(client: MlflowClient, experiment: str, run: Run) -> dict[str, str]:
    """Stage → id of the run that made its outputs, for every stage; this run for its own."""
    locks = read_lock()
    with open_repo() as repo:
        # dvc.lock keeps stages that dvc.yaml has no more.
        stages = [s.addressing for s in repo.index.stages if s.addressing in locks]
    own = run.data.tags.get("jpu.stage", "")
    makers = {}
    for stage in stages:
        maker = find_maker(client, experiment, stage, locks[stage].outs)
        makers[tag_key(stage)] = maker.info.run_id if maker else UNKNOWN
    # The stage that registers is not in dvc.lock yet, or with its last outputs.
    return makers | {own: run.data.tags.get("jpu.made_by") or run.info.run_id}


def _version_tags(model: Hardened, run: Run, makers: Mapping[str, str]) -> dict[str, str]:
    kept = {
        "jpu.seed": "jpu.seed",
        "jpu.git_commit": "mlflow.source.git.commit",
        "jpu.git_dirty": "jpu.git_dirty",
        "jpu.parent_run": "mlflow.parentRunId",
    }
    start = read_start()
    return {
        **model.identity,
        "jpu.profile": model.profile,
        **({"jpu.from": start.version} if start else {}),
        **{key: run.data.tags[tag] for key, tag in kept.items() if run.data.tags.get(tag)},
        **{f"jpu.run.{stage}": run_id for stage, run_id in makers.items()},
        **{name: f"{value:.4g}" for name, value in model.scores.items()},
    }


def _description(model: Hardened, run: Run, makers: Mapping[str, str]) -> str:
    """Markdown with links, relative to MLflow's page, to every run behind the version."""

    def link(run_id: str) -> str:
        page = f"#/experiments/{run.info.experiment_id}/runs/{run_id}"
        return UNKNOWN if run_id == UNKNOWN else f"[{run_id}]({page})"

    start = read_start()
    since = f" Goes on from `{start.version}`, which has the runs before these." if start else ""
    parent = run.data.tags.get("mlflow.parentRunId")
    rows = [*([("flow", parent)] if parent else []), *makers.items()]
    return "\n".join(
        [
            f"Subject `{model.hashes['subject']}` hardened on data `{model.hashes['data']}` (DVC hashes); "
            f"adapter `{model.hashes['adapter']}`, figures `{model.hashes['metrics']}`.{since}",
            "",
            "| made by | run |",
            "| --- | --- |",
            *(f"| {stage} | {link(run_id)} |" for stage, run_id in rows),
        ]
    )
