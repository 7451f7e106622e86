"""The steps of a re-hardening, in its own checkout: what flows/reharden.py does one after the other.

The commands of `jpu` that a step needs are given to it as a function, since they run with the checkout's code. Nothing
here moves the champion but `Place.promote`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jpu.errors import DataError, JpuError
from jpu.files import read_text, write_text
from tasks import champion
from tasks.additions import INBOX, read_inbox
from tasks.attack import RESULTS, SIDE
from tasks.checkout import Checkout, checkouts, open_checkout
from tasks.decision import Arrivals, Reason
from tasks.gates import Evidence
from tasks.gitstore import GitStore
from tasks.inbox import open_inbox, put_away, take_in
from tasks.layout import PREPARED, SUBJECT, RoundFolder
from tasks.lineage import METRICS, experiment_name, hardened_model, registered
from tasks.measurement import Measurement, read_measurement
from tasks.pipeline import read_plan
from tasks.rehardening import Rehardening
from tasks.remote import fetch, push
from tasks.repository import DATA, open_repo, read_lock, read_params
from tasks.rewriting import with_settings
from tasks.settings import ENGINE, Settings, chosen_engine, load_settings
from tasks.snapshots import PARAMS, snapshot_at
from tasks.start import start_from
from tasks.store import open_client, open_experiment, tracking_errors, tracking_uri
from tasks.tracking import run_tags
from tasks.verify import verify
from tasks.verify.validation import parse_results
from tasks.versions import CHAMPION, Version, find_version

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

Say = Callable[[str], object]
# Runs `jpu` with these arguments in the checkout.
Command = Callable[..., None]

_EVALUATION = Path(METRICS).parent
_BEHAVIORS = PREPARED / "behaviors.jsonl"
_CHAMPION = "champion"
# The description of a run in MLflow, and the most characters that one of its tags may have.
_NOTE, _LONGEST_NOTE = "mlflow.note.content", 8000


@dataclass
class Place:
    """Where one re-hardening works, and what it goes on from.

    Attributes:
        profile: The profile.
        champion: The version that serves.
        settings: params.yaml as the repository has it: gates and bounds are the operator's, of today.
        checkout: A checkout of the champion's commit.
        promoted: The champion's figures at its promotion; None where they are lost.
        client: MLflow's client.
        round: The round that the champion ends with.
        known: Template families and behaviors that had come through the inbox when the champion was made.
    """

    profile: str
    champion: Version
    settings: Settings
    checkout: Checkout
    promoted: Measurement | None
    client: MlflowClient
    round: str
    known: frozenset[str]

    @property
    def folder(self) -> Path:
        """The checkout's folder."""
        return self.checkout.folder

    @property
    def environment(self) -> dict[str, str]:
        """What commands in the checkout need: the repository's store, by an address that holds anywhere, its engine."""
        engine = chosen_engine(self.settings).model_dump_json(exclude_defaults=True)
        return {"MLFLOW_TRACKING_URI": absolute(tracking_uri(), self.checkout.repository), ENGINE: engine}

    @property
    def _data_branch(self) -> str:
        return f"refs/heads/jpu/{self.profile}/data"

    def take_in(self, inbox: str, say: Say) -> Arrivals:
        """Take in what lies in the inbox: commit and push the data before the inbox is cleared.

        What came in since the champion was made counts, also what an earlier run took in without a new champion.

        Args:
            inbox: A folder or s3://bucket/prefix; "" for JPU_INBOX or params.yaml's. Without any, nothing comes in.
            say: Told of each file.

        Raises:
            InfrastructureError: The inbox or the remote cannot be reached; worth another try.
        """
        try:
            store = open_inbox(self.settings.inbox, inbox)
        except JpuError as error:
            if inbox or "no inbox is named" not in error.what:
                raise
            return self._since(Arrivals())
        with chdir(self.folder):
            taking = take_in(store, load_settings(), say=say)
            if taking.after != taking.before:
                self._commit_data()
            self._push([DATA])
            put_away(store, taking)
        return self._since(Arrivals.of(taking.as_dict()))

    def look(self, command: Command) -> Measurement:
        """Attack the champion on the data as they are now, as a challenger would be measured."""
        with chdir(self.folder):
            command("data")
            command("harden", "--stage", "prepare")
            adapter = RoundFolder(self.round).adapter
            suite = [word for name in self.settings.reharden.suite for word in ("--suite", name)]
            command("attack", str(SUBJECT), "--adapter", str(adapter), *suite, "--out", _CHAMPION)
            return read_measurement(RESULTS / _CHAMPION, SIDE, behaviors=_BEHAVIORS)

    def harden(self, command: Command) -> tuple[Measurement, str]:
        """A challenger from the champion: its figures, and its version.

        Raises:
            DataError: The run has registered nothing.
        """
        with chdir(self.folder):
            command("harden")
            number = registered(self.client, hardened_model())
            if number is None:
                raise DataError("the run has registered nothing", where="MLflow", mend="See the checkout's runs.")
            version = find_version(self.client, f"{self.champion.model}/{number}")
            champion.record(self.client, version, self.folder)
            return read_measurement(_EVALUATION, "after", behaviors=_BEHAVIORS), version.name

    def reproduce(self, version: str, command: Command) -> tuple[tuple[str, bool], ...]:
        """Run stages of a challenger once more, those of `gates.reproduce`; each, and whether it wrote the same bytes.

        Held against what was recorded of the version, so that it may be tried again.
        """
        wanted = self.settings.gates.reproduce
        commit = find_version(self.client, version).lock_commit
        recorded = snapshot_at(GitStore(self.checkout.repository), commit).lock
        with chdir(self.folder):
            if wanted:
                command("harden", "--force", *(word for stage in wanted for word in ("--stage", stage)))
            made = read_lock()
            again = [stage for stage in recorded if stage.partition("@")[0] in wanted]
            return tuple((stage, stage in made and made[stage].outs == recorded[stage].outs) for stage in again)

    def evidence(
        self,
        version: str,
        reasons: Sequence[Reason],
        arrivals: Arrivals,
        reproduced: Sequence[tuple[str, bool]],
    ) -> Evidence:
        """What speaks for a challenger beside its figures: data checks, its lineage, and that nothing has changed."""
        checks = parse_results((self.folder / PREPARED / "validation.json").read_bytes())
        verdict = verify(self.client, version, self.checkout.repository)
        plan = read_plan(self.folder)
        return Evidence(
            reasons=tuple(reasons),
            arrivals=arrivals,
            checks=tuple(checks),
            links=len(verdict.passed),
            broken=str(verdict.broken or ""),
            changed=tuple(plan.changes),
            reproduced=tuple(reproduced),
        )

    def push(self) -> None:
        """Send the data and all outputs of the pipeline to the remote, where there is one."""
        self._push()

    def promote(self, version: str) -> None:
        """Make a version the champion, if the champion is still the one that it was compared with."""
        champion.promote(self.client, version, self.checkout.repository, expected=self.champion.name)

    @contextmanager
    def record(self, flow_run: str) -> Iterator[Record]:
        """An MLflow run of this re-hardening; FAILED where the body raises."""
        with chdir(self.checkout.repository), tracking_errors():
            experiment = open_experiment(self.client, experiment_name())
            tags = {
                **run_tags("reharden"),
                "mlflow.runName": f"reharden {self.folder.name}",
                "jpu.champion": self.champion.name,
                "jpu.prefect_flow_run": flow_run,
            }
            run = self.client.create_run(experiment, tags=tags).info.run_id
        try:
            yield Record(self.client, experiment, run)
        except BaseException:
            with tracking_errors():
                self.client.set_terminated(run, "FAILED")
            raise
        with tracking_errors():
            self.client.set_terminated(run, "FINISHED")

    def tidy(self) -> None:
        """Remove all checkouts but the newest few."""
        for one in checkouts(self.checkout.repository)[: -self.settings.reharden.keep or None]:
            one.remove()

    def _since(self, arrivals: Arrivals) -> Arrivals:
        families, behaviors = arrived(self.folder)
        return arrivals.model_copy(
            update={
                "families": tuple(sorted(families - self.known)),
                "behaviors": len(behaviors - self.known),
            }
        )

    def _commit_data(self) -> None:
        """data.dvc on a branch of its own, before anything depends on it."""
        git = GitStore(self.checkout.repository)
        old = git.commit(self._data_branch)
        files = {DATA: (self.folder / DATA).read_bytes()}
        parent = data_commit(git, self.profile, self.champion)
        git.move(self._data_branch, git.commit_files(files, parent, "data from the inbox\n"), old, "inbox")

    def _push(self, targets: Sequence[str] = ()) -> None:
        with open_repo(self.folder) as repo:
            push(repo, targets)


@dataclass(frozen=True)
class Record:
    """The run of a re-hardening in MLflow."""

    client: MlflowClient
    experiment: str
    run_id: str

    @property
    def links(self) -> dict[str, str]:
        """Its page, where MLflow is a server."""
        uri = tracking_uri()
        page = f"{uri}/#/experiments/{self.experiment}/runs/{self.run_id}"
        return {"run": page} if uri.startswith("http") else {}

    def tell(self, found: Rehardening, text: str) -> None:
        """The decision and its evidence, as JSON and as Markdown."""
        with tempfile.TemporaryDirectory() as folder, tracking_errors():
            (Path(folder) / "rehardening.json").write_text(json.dumps(found.model_dump(mode="json"), indent=2))
            (Path(folder) / "rehardening.md").write_text(text)
            self.client.log_artifacts(self.run_id, folder)
            self.client.set_tag(self.run_id, "jpu.ending", found.ending)
            self.client.set_tag(self.run_id, "jpu.challenger", found.challenger)
            # What the run's page shows first. A tag has a longest value: what is over it stands in the artifact.
            self.client.set_tag(self.run_id, _NOTE, text if len(text) <= _LONGEST_NOTE else found.headline)


def open_place(profile: str | None, name: str, root: Path | str = ".") -> Place:
    """A checkout of the champion's commit, with the newest data, ready to go on from.

    Args:
        profile: Whose champion; None for that of params.yaml.
        name: The checkout's name.
        root: The repository.

    Raises:
        DataError: There is no champion, or its commit or parts are gone.
        InfrastructureError: MLflow, git or the remote cannot be reached.
    """
    repository = Path(root).resolve()
    settings = load_settings()
    profile = profile or settings.profile
    client = open_client()
    champion.recover(client, profile, repository)
    version = find_version(client, f"jpu-{profile}/{CHAMPION}")
    if not version.lock_commit:
        raise DataError(
            "has no commit with its dvc.lock", where=version.name, mend="`jpu promote` it where it was made."
        )
    checkout = open_checkout(name, version.lock_commit, repository)
    try:
        return _ready(Place(profile, version, settings, checkout, None, client, "", frozenset()))
    except BaseException:
        # Another try makes it anew, under the same name.
        checkout.remove()
        raise


def _ready(place: Place) -> Place:
    """The checkout with the champion's parts, the newest data, and the pipeline that goes on from it."""
    folder, version, again = place.folder, place.champion, place.settings.reharden
    with open_repo(folder) as repo:
        _bring(repo)
    promoted = None
    if (folder / METRICS).is_file():
        promoted = read_measurement(folder / _EVALUATION, "after", behaviors=folder / _BEHAVIORS)
    last = str(read_params(folder)["last_round"])
    known = frozenset().union(*arrived(folder))
    file = folder / PARAMS
    write_text(file, with_settings(read_text(file), place.profile, again.settings))
    start_from(version, folder, rounds=again.max_rounds)
    git = GitStore(place.checkout.repository)
    pinned = git.read(data_commit(git, place.profile, version), DATA)
    if pinned is not None and pinned != (folder / DATA).read_bytes():
        (folder / DATA).write_bytes(pinned)
        # DVC reads targets from the current folder.
        with chdir(folder), open_repo() as repo:
            _bring(repo, [DATA])
    return replace(place, promoted=promoted, round=last, known=known)


def data_commit(git: GitStore, profile: str, version: Version) -> str:
    """The commit with the newest data: what came in since the champion was made, else the champion's own."""
    newest = git.commit(f"refs/heads/jpu/{profile}/data")
    return newest if newest and git.descends(newest, version.lock_commit) else version.lock_commit


def arrived(folder: Path) -> tuple[set[str], set[str]]:
    """Families of templates, and ids of behaviors, that came through the inbox into a checkout's data."""
    found = read_inbox(folder / INBOX)
    if found is None:
        return set(), set()
    return {t.family for t in found.templates.records}, {b.id for b in found.behaviors.records}


def absolute(uri: str, repository: Path) -> str:
    """The address of an MLflow store, with the path of a SQLite file counted from the repository made absolute."""
    head, mark, path = uri.partition("sqlite:///")
    return f"{mark}{repository / path}" if not head and mark else uri


def _bring(repo: Any, targets: Sequence[str] = ()) -> None:
    """Outputs of the pipeline: from the cache, and what it lacks from the remote, where there is one."""
    fetch(repo, targets)
    repo.checkout(targets=list(targets) or None, force=True, allow_missing=True)
