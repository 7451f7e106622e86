"""Judging as a pass of its own: other judges on stored attempts, and judges of refusals on labelled completions.

Judges that are models are asked about attempts that are kept already; nothing is attacked again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from jpu.attacks import Attempt
from jpu.attacks.campaign import read_attempts
from jpu.card import Judging
from jpu.errors import DataError, SettingsError
from jpu.evaluation.agreement import Confusion, confusion
from jpu.files import read_json
from jpu.judges import Completion, Grade, Grader, Judge, make_judge
from jpu.judges.labels import Partial, read_labelled
from jpu.judges.refusal import RefusalJudge
from jpu.spread import Here, by_length, gathered
from tasks.engine import copies, digest
from tasks.judging import completions_of, judging, rule_votes
from tasks.layout import PREPARED, load_prepared
from tasks.protocol import budgets_of, kept_attempts
from tasks.sections import EngineSettings
from tasks.targets import is_address, open_target

GRADERS = ("harmbench", "strongreject", "rubric")
# Completions × characters of the longest, its question included, that a judge is asked about at a time: some forty
# short ones.
_PIECE = 8000


def judge_results(
    folder: Path,
    by: str,
    model: str,
    *,
    served: str = "",
    data: Path = PREPARED,
    engine: EngineSettings = EngineSettings(),  # noqa: B008  # frozen
) -> Judging:
    """Ask a judge that is a model about the stored attempts of a measurement, beside the judges by rule.

    Args:
        folder: Results of `jpu attack`, or artifacts/evaluation.
        by: One of `GRADERS`.
        model: Folder of the judge, or the address of an endpoint (for a rubric).
        served: Name of the model at the endpoint.
        data: What the results were measured on.
        engine: Whether copies of the judge share the attempts.

    Raises:
        DataError: There are no results, or their attempts are gone.
        SettingsError: There is no such judge.
        ModelError: The judge cannot be loaded.
        InfrastructureError: The cluster of the engine cannot be reached.
    """
    known = load_prepared(data)
    attempts = _stored(folder)
    behaviors = {b.id: b for b in known.behaviors}
    if any(a.behavior not in behaviors for a in attempts):
        raise DataError("not the data of these results", where=str(data), mend="Name their folder with --data.")
    votes = rule_votes(attempts, behaviors, known.refusal_texts)
    said = completions_of(attempts, behaviors)
    votes[by] = [grade.verdict for grade in grade(said, GraderCopy.of(by, model, served), engine)]
    return judging(votes)


@dataclass(frozen=True)
class GraderCopy:
    """Loads a judge that is a model.

    Attributes:
        by: One of `GRADERS`.
        model: Folder of the judge, or the address of an endpoint.
        served: Name of the model at the endpoint.
    """

    by: str
    model: str
    served: str = ""

    @classmethod
    def of(cls, by: str, model: str, served: str = "") -> GraderCopy:
        """A copy of what lies in this folder, by its whole path, for a process that works elsewhere."""
        return cls(by, str(Path(model).absolute()) if Path(model).exists() else model, served)

    def __call__(self) -> Grader:
        """Load it. Raises SettingsError or ModelError."""
        return open_grader(self.by, self.model, self.served)

    def digest(self) -> str:
        """As `tasks.fanout.Loader.digest`."""
        return digest(Path(self.model))


def grade(completions: Sequence[Completion], load: GraderCopy, engine: EngineSettings) -> list[Grade]:
    """Have completions graded, by copies of the judge where the engine has some; the grades are the same.

    Raises:
        SettingsError: There is no such judge, or no Ray.
        ModelError: The judge cannot be loaded.
        InfrastructureError: The cluster cannot be reached.
    """
    if is_address(load.model):
        # It has its own machine, and is asked in parallel.
        return load().grade(completions)
    pieces = by_length([c.query + c.text for c in completions], _PIECE)
    given = [[completions[i] for i in piece] for piece in pieces]
    with copies(engine, load) as over:
        return gathered(pieces, (over or Here(load()))(_graded, given))


def _graded(grader: Grader, completions: Sequence[Completion]) -> list[Grade]:
    return grader.grade(completions)


def open_grader(by: str, model: str, served: str = "") -> Grader:
    """The judge of this name. Raises SettingsError or ModelError."""
    if by != "rubric" and is_address(model):
        raise SettingsError(f"the judge {by!r} is a folder of weights", where="--model", mend="Name a folder.")
    if by == "harmbench":
        from jpu.judges.harmbench import HarmBenchJudge

        return HarmBenchJudge.load(model)
    if by == "strongreject":
        from jpu.judges.strongreject import StrongRejectJudge

        return StrongRejectJudge.load(model)
    if by == "rubric":
        from jpu.judges.rubric import RubricJudge

        return RubricJudge(open_target(model, served=served))
    raise SettingsError(f"no judge {by!r}", where="--by", mend=f"Choose among: {', '.join(GRADERS)}.")


@dataclass(frozen=True)
class Calibration:
    """How a judge of refusals fares on labelled completions.

    Attributes:
        judge: Its name.
        found: Verdicts against labels; a refusal is positive.
    """

    judge: str
    found: Confusion


def calibrate(
    location: str, *, text: str | None = None, label: str | None = None, partial: Partial = "skip"
) -> list[Calibration]:
    """Hold the rule judge, without and with the question, and substring matching against labelled completions.

    Raises:
        DataError: The file cannot be read, or has no such columns or labels.
    """
    if partial not in get_args(Partial):
        raise SettingsError(
            f"{partial!r} says nothing of partial refusals",
            where="--partial",
            mend=f"Choose among: {', '.join(get_args(Partial))}.",
        )
    rows = read_labelled(location, text=text, label=label, partial=partial)
    said = [Completion(row.text, query=row.query) for row in rows]
    judges: dict[str, Judge] = {"refusal": RefusalJudge(relevance=True)}
    if any(row.query for row in rows):
        judges["refusal, question unseen"] = RefusalJudge()
    judges["substring"] = make_judge("substring")
    labels = [row.refused for row in rows]
    return [Calibration(name, confusion(judge.judge(said), labels)) for name, judge in judges.items()]


def _stored(folder: Path) -> list[Attempt]:
    path = folder / "protocol.json"
    if not path.is_file():
        raise DataError("no results of a measurement", where=str(folder), mend="Run `jpu attack` or `jpu harden`.")
    protocols: dict[str, Any] = read_json(path)
    ran: dict[str, Any] = read_json(folder / "spent.json")
    found: list[Attempt] = []
    for when, protocol in protocols.items():
        spent = ran[when]["spent"]
        suite = {name: budget for name, budget in budgets_of(protocol).items() if name in spent}
        for name, items in read_attempts(kept_attempts(protocol), suite).items():
            # Another measurement may have been begun in their place, and stopped.
            if len(items) != spent[name]["attempts"]:
                raise DataError(
                    f"of the attempts of {name!r} there are {len(items)}, and {spent[name]['attempts']} were measured",
                    where=str(folder),
                    mend="Run the measurement again.",
                )
            found += items
    return found
