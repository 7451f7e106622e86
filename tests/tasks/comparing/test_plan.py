"""What is asked for, how each run is named, and what makes it another one."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from jpu.comparison.rows import Outcome, Row
from jpu.errors import SettingsError
from jpu.unlearning.defences.registry import DEFENCES, get_defence
from tasks.comparing import code
from tasks.comparing.choice import choose, regret
from tasks.comparing.driver import Request
from tasks.comparing.plan import Plan, Planner, Run, merged, searches_path
from tasks.comparing.report import summarise
from tasks.comparing.results import keep, unwanted
from tasks.sections import AttackBudget
from tests.micro_compare import EXPERIMENTS, write_experiments

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_experiments(tmp_path)
    return tmp_path


def row(run: Run, asr: float, recall: float = 1.0) -> Row:
    """A run's row with these shares of ten."""
    shares = {"asr_static": asr, "benign_recall": recall, "over_refusal": 0.0}
    return Row(
        key=run.key,
        kind=run.kind,
        subject=run.subject.name,
        method=run.method,
        seed=run.seed,
        trial=run.trial,
        settings=run.settings,
        entities={"all": ("e",)},
        outcomes={name: Outcome(of="all", k=(round(10 * value),), n=(10,)) for name, value in shares.items()},
        figures={},
        weights="x",
    )


def plan(rows: dict[str, Row] | None = None) -> Plan:
    return Planner().plan(rows or {})


def names(runs: Any) -> list[str]:
    return [run.name for run in runs]


def test_trials_come_first_and_finals_wait_for_them() -> None:
    found = plan()
    assert names(found.trials) == [f"{m} on micro, trial {n}" for m in ("jpu", "sft") for n in (0, 1)]
    # The subject as it is has nothing to be tuned, and no seed of a defence.
    assert names(found.finals) == ["original on micro, seed 0"]
    assert found.waiting == [("jpu", "micro"), ("sft", "micro"), ("no_anchor", "micro")]


def test_the_trial_with_the_least_asr_and_utility_loss_is_taken_to_the_test_split() -> None:
    trials = {run.name: run for run in plan().trials}
    rows = [
        row(trials["jpu on micro, trial 0"], 0.5),
        # Fewer get through, and it costs more than that: .2 + (1 - (.2 + 1) / 2) = .6
        row(trials["jpu on micro, trial 1"], 0.2, recall=0.2),
        row(trials["sft on micro, trial 0"], 0.5),
        row(trials["sft on micro, trial 1"], 0.2),
    ]
    found = plan({r.key: r for r in rows})
    assert found.waiting == []
    assert {(run.method, run.trial) for run in found.finals} == {
        ("original", 0),
        ("jpu", 0),
        ("sft", 1),
        # Tuned as jpu.
        ("no_anchor", 0),
    }
    by_method = {run.method: run for run in found.finals}
    assert by_method["jpu"].unlearning.learning_rate == 1e-3
    assert by_method["sft"].unlearning.learning_rate == 5e-3
    ablation = by_method["no_anchor"].unlearning
    assert (ablation.learning_rate, ablation.weights.anchor, ablation.weights.refusal) == (1e-3, 0.0, 1.0)
    assert names(run for run in found.finals if run.method == "sft") == ["sft on micro, seed 0", "sft on micro, seed 1"]
    # Half of the trials are not enough.
    assert ("jpu", "micro") in plan({rows[0].key: rows[0]}).waiting


def test_settings_in_another_order_are_the_same_runs_and_the_same_one_is_taken() -> None:
    runs = {run.name: run for run in plan().trials}
    rows = {r.key: r for name, r in ((n, row(run, 0.2 if n.endswith("1") else 0.5)) for n, run in runs.items())}
    methods = copy.deepcopy(EXPERIMENTS["methods"])
    methods["jpu"]["tune"].reverse()
    write_experiments(Path(), methods=methods)
    found = plan(rows)
    assert {run.key for run in found.trials} == set(rows)
    assert {r.unlearning.learning_rate for r in found.finals if r.method in ("jpu", "sft")} == {5e-3}
    chosen = [(t.method, t.trial, t.changes) for t in summarise(found, rows).trials if t.chosen]
    assert chosen == [(m, n, {"unlearning.learning_rate": 5e-3}) for m, n in (("jpu", 0), ("sft", 1))]
    for run in runs.values():
        keep(run, rows[run.key])
    assert unwanted(found) == []


def test_final_runs_stay_while_their_setting_is_chosen_again() -> None:
    rows = {run.key: row(run, 0.2) for run in plan().trials}
    final = next(run for run in plan(rows).finals if run.method == "sft")
    keep(final, row(final, 0.2))
    kept = keep(plan().trials[0], rows[plan().trials[0].key])
    methods = copy.deepcopy(EXPERIMENTS["methods"])
    methods["sft"]["tune"][0]["unlearning"]["learning_rate"] = 7e-3
    methods["jpu"]["tune"][0]["unlearning"]["learning_rate"] = 7e-3
    write_experiments(Path(), methods=methods)
    assert unwanted(plan()) == [kept]


def test_every_method_takes_as_many_steps_whatever_its_settings_say() -> None:
    assert {run.unlearning.steps for run in plan().trials} == {4}


def test_a_subject_may_have_another_budget_of_seconds() -> None:
    write_experiments(Path(), **edited("subjects", "micro", "seconds", value=7.0))
    assert {run.seconds for run in plan().trials} == {7.0}


def test_a_subject_may_have_other_seeds_and_stand_in_two_groups() -> None:
    """The same weights under another name, with three seeds: what was run on the first is not run again."""
    again = EXPERIMENTS["subjects"]["micro"] | {"group": "again", "seeds": [0, 1, 2], "pooled": False}
    write_experiments(Path(), subjects=EXPERIMENTS["subjects"] | {"again": again})
    found = plan()
    first, second = found.subjects["micro"], found.subjects["again"]
    assert first.key == second.key
    runs = {
        name: {r.seed: r.key for r in found.finals if (r.method, r.subject.name) == ("jpu", name)}
        for name in found.subjects
    }
    assert set(runs["micro"]) <= {0, 1} and all(runs["again"][seed] == key for seed, key in runs["micro"].items())
    assert [found.experiments.seeds_on(name) for name in ("micro", "again")] == [(0, 1), (0, 1, 2)]
    # It is taught once.
    (first.folder / "subject").mkdir(parents=True)
    (first.folder / "shown.json").write_text("{}")
    assert second.folder == first.folder and second.made


def test_a_subject_tries_learning_rates_with_what_was_chosen_elsewhere() -> None:
    subjects = copy.deepcopy(EXPERIMENTS["subjects"])
    subjects["large"] = {**subjects["micro"], "group": "large", "seed": 8, "tuned_on": "micro"}
    subjects["large"]["learning_rate_multipliers"] = [0.1, 0.5]
    write_experiments(Path(), subjects=subjects)
    rows = {run.key: row(run, 0.2 if run.trial == 1 else 0.5) for run in plan().trials}
    assert {run.subject.name for run in plan().trials} == {"micro"}
    tried = [run for run in plan(rows).trials if (run.method, run.subject.name) == ("sft", "large")]
    assert [(run.trial, run.setting, run.multiplier) for run in tried] == [(0, 1, 0.1), (1, 1, 0.5)]
    assert [run.unlearning.learning_rate for run in tried] == [pytest.approx(5e-4), pytest.approx(2.5e-3)]
    # Not before they have been tried; an ablation takes its model's.
    assert plan(rows).waiting == [(method, "large") for method in ("jpu", "sft", "no_anchor")]
    rows |= {
        run.key: row(run, 0.2 if run.method == "sft" and run.trial else 0.1)
        for run in plan(rows).trials
        if run.subject.name == "large"
    }
    found = plan(rows)
    assert found.waiting == []
    taken = {run.method: run.unlearning.learning_rate for run in found.finals if run.subject.name == "large"}
    assert {name: taken[name] for name in ("jpu", "sft", "no_anchor")} == pytest.approx(
        {"jpu": 5e-4, "sft": 5e-4, "no_anchor": 5e-4}
    )
    scaled = [t for t in summarise(found, rows).trials if (t.subject, t.method) == ("large", "sft")]
    assert [(t.changes["learning_rate_multiplier"], t.chosen) for t in scaled] == [(0.1, True), (0.5, False)]
    kept = [keep(run, rows[run.key]) for run in tried]
    assert unwanted(found) == []
    # With the settings to be chosen again, they may still be wanted.
    assert unwanted(plan()) == []
    write_experiments(Path(), subjects={**subjects, "large": {**subjects["large"], "learning_rate_multipliers": [0.2]}})
    assert unwanted(plan(rows)) == []
    rows |= {run.key: row(run, 0.2) for run in plan(rows).trials if run.key not in rows}
    assert unwanted(plan(rows)) == kept
    request = Request(subjects=["large"], methods=["sft"])
    assert {run.name for run in tried} < {run.name for run in found.trials if request.wants(run, found)}


def test_a_subject_changes_a_section_for_every_method() -> None:
    write_experiments(Path(), **edited("subjects", "micro", "unlearning", value={"warmup": 7}))
    assert {run.unlearning.warmup for run in plan().trials} == {7}


def test_regret_is_the_sum_and_the_first_of_equals_is_taken() -> None:
    one, two = plan().trials[:2]
    assert regret(row(one, 0.4, recall=0.8), 1.0) == pytest.approx(0.5)
    assert regret(row(one, 0.4, recall=0.8), 2.0) == pytest.approx(0.6)
    assert choose([row(two, 0.3), row(one, 0.3)], 1.0) == 0
    assert choose([row(one, 0.3), row(two, 0.2)], 1.0) == 1
    nothing = row(one, 0.4).model_copy(update={"outcomes": {}})
    assert regret(nothing, 1.0) == 2.0


# What makes another run


def keys(**changes: Any) -> dict[str, str]:
    write_experiments(Path(), **changes)
    return {run.name: run.key for run in plan().runs}


def changed(**changes: Any) -> set[str]:
    """Methods of which a run has another key under these changes."""
    before, after = keys(), keys(**changes)
    return {name.split(" on ")[0] for name in before.keys() & after.keys() if before[name] != after[name]}


def edited(*at: str, value: Any) -> dict[str, Any]:
    """The file with one value in another's place."""
    whole = copy.deepcopy(EXPERIMENTS)
    part = whole
    for key in at[:-1]:
        part = part.setdefault(key, {})
    part[at[-1]] = value
    return {at[0]: whole[at[0]]}


ALL = {"original", "jpu", "sft"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (edited("methods", "sft", "words", value="other words"), set()),
        (edited("methods", "sft", "kind", value="control"), set()),
        (edited("report", "resamples", value=999), set()),
        (edited("tuning", "utility_weight", value=0.5), set()),
        (edited("subjects", "micro", "group", value="other"), set()),
        (edited("methods", "sft", "unlearning", "clip", value=0.5), {"sft"}),
        (edited("methods", "jpu", "paths", value={"selector": "random"}), {"jpu"}),
        # What only JPU reads is no part of a rival's key.
        (edited("methods", "sft", "paths", value={"selector": "random"}), set()),
        (edited("methods", "sft", "unlearning", "weights", value={"anchor": 0.5}), set()),
        (edited("methods", "jpu", "unlearning", value={"weights": {"anchor": 0.5}}), {"jpu"}),
        (edited("methods", "sft", "unlearning", "reidentify", value=True), {"sft"}),
        (edited("budget", "steps", value=5), {"jpu", "sft"}),
        (edited("budget", "seconds", value=5.0), {"jpu", "sft"}),
        (edited("subjects", "micro", "unlearning", value={"steps": 9}), {"jpu", "sft"}),
        (edited("subjects", "micro", "seconds", value=5.0), {"jpu", "sft"}),
        (edited("subjects", "micro", "unlearning", value={"warmup": 7}), {"jpu", "sft"}),
        (edited("subjects", "micro", "unlearning", value={}), set()),
        (edited("tuning", "retain_pairs", value=5), {"jpu", "sft"}),
        (edited("evaluation", "after", "pairs", value=1), {"original"}),
        (edited("subjects", "micro", "seed", value=4), ALL),
        (edited("subjects", "micro", "world", "code_words", value=4), ALL),
        (edited("subjects", "micro", "subject", value={"teaching": {"clip": 0.5}}), ALL),
        # A lowered gate is no other subject.
        (edited("subjects", "micro", "subject", value={"gates": {"leak": 0.1}}), set()),
    ],
)
def test_a_key_changes_with_what_decides_and_with_nothing_else(change: dict[str, Any], expected: set[str]) -> None:
    assert changed(**change) == expected


def test_seeds_and_settings_of_a_profile_decide_too() -> None:
    before = {run.name: run.key for run in plan().runs}
    settings = json.loads(Path("params.yaml").read_text())
    settings["profiles"]["micro"]["mining"]["fresh"] = 5
    # What no run reads.
    settings["profiles"]["micro"]["evaluation"]["probe_wordings"] = 9
    Path("params.yaml").write_text(json.dumps(settings))
    after = {run.name: run.key for run in plan().runs}
    assert {name.split(" on ")[0] for name in before if before[name] != after[name]} == {"jpu", "sft"}
    assert len(set(before.values())) == len(before)


def test_a_mapping_is_gone_into_and_a_list_is_replaced() -> None:
    section = AttackBudget(queries=3, behaviors=4)
    assert merged(section, {"behaviors": None}) == {"queries": 3, "behaviors": None}
    assert merged(section, {}) == {"queries": 3, "behaviors": 4}


def test_another_defence_keeps_nothing_of_the_one_that_it_replaces() -> None:
    section = Planner().settings.profiles["micro"].unlearning
    assert merged(section, {"defence": {"anchor": "random"}})["defence"]["name"] == "jpu"
    assert merged(section, {"defence": {"name": "npo"}})["defence"] == {"name": "npo"}
    assert merged(section, {"defence": "npo"})["defence"] == "npo"


def test_a_method_is_run_on_the_groups_that_it_names() -> None:
    subjects = {name: copy.deepcopy(EXPERIMENTS["subjects"]["micro"]) for name in ("micro", "other")}
    subjects["other"] |= {"group": "other", "seed": 4, "tuned_on": "other"}
    methods = copy.deepcopy(EXPERIMENTS["methods"])
    methods["no_anchor"]["groups"] = ["other"]
    methods["sft"]["groups"] = ["micro"]
    write_experiments(Path(), subjects=subjects, methods=methods)
    found = plan()
    assert set(found.waiting) == {("jpu", "micro"), ("sft", "micro"), ("jpu", "other"), ("no_anchor", "other")}
    # On the other subject settings are tried for JPU and its ablation, and for nobody else.
    tried = {(run.method, run.subject.name) for run in found.trials}
    assert tried == {("jpu", "micro"), ("sft", "micro"), ("jpu", "other")}
    # Who asks for one subject does not wait for what is tried on another.
    request = Request(subjects=("other",))
    assert names(run for run in found.trials if request.wants(run, found)) == [
        "jpu on other, trial 0",
        "jpu on other, trial 1",
    ]


@pytest.mark.parametrize(
    ("asked", "what"), [({"methods": ("rmu2",)}, "method 'rmu2'"), ({"subjects": ("s9",)}, "subject 's9'")]
)
def test_a_name_that_is_not_in_the_file_is_refused(asked: dict[str, Any], what: str) -> None:
    with pytest.raises(SettingsError, match=f"there is no {what}"):
        Request(**asked).check(plan())


@pytest.mark.parametrize("name", DEFENCES)
def test_a_path_is_searched_for_where_the_defence_moves_or_compares_units(name: str) -> None:
    section = Planner().settings.profiles["micro"].unlearning
    section = section.model_validate(merged(section, {"defence": {"name": name}, "trained": None}))
    kind = get_defence(name)
    needed = kind.trained(6, section.defence).path or "anchors" in kind.needs
    assert searches_path(section) == needed == (name == "jpu")
    # The key of a rival leaves out what only JPU is made of.
    assert ("exposures" in kind.needs) == (name == "jpu")


def test_the_code_of_a_loss_that_is_off_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(weight: float) -> set[str]:
        write_experiments(Path(), **edited("methods", "jpu", "unlearning", value={"weights": {"relearned": weight}}))
        return {run.key for run in plan().trials if run.method == "jpu"}

    off, on, meaning = found(0.0), found(0.5), code.meaning
    monkeypatch.setattr(code, "meaning", lambda path: "" if path.endswith("/relearning.py") else meaning(path))
    assert off == found(0.0)
    assert not on & found(0.5)


# The file in this repository


def test_the_comparison_of_this_repository_can_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = plan()
    assert {run.method for run in found.trials} >= set(DEFENCES) - {"refusal_sft"}
    measured = {name for name, subject in found.subjects.items() if subject.measured}
    assert sum(found.subjects[name].group == "sandbox" for name in measured) >= 5 and "smollm2" in measured
    kinds = {entry.kind for entry in found.experiments.methods.values()}
    assert kinds == {"original", "ours", "baseline", "control", "ablation"}


# What is refused


def refused(**changes: Any) -> SettingsError:
    write_experiments(Path(), **changes)
    with pytest.raises(SettingsError) as error:
        plan()
    return error.value


@pytest.mark.parametrize(
    ("change", "key", "what"),
    [
        (edited("budget", "stepz", value=4), "budget.stepz", "unknown key 'stepz'"),
        (edited("methods", "sft", "unlearning", "clips", value=4), "methods.sft.unlearning.clips", "unknown key"),
        (edited("methods", "sft", "paths", value={"selector": "best"}), "methods.sft.paths.selector", "igi"),
        (edited("methods", "sft", "tune", value=[{}]), "methods.sft.tune", "tries 2 settings, not 1"),
        (edited("methods", "no_anchor", "tune", value=[{}, {}]), "methods.no_anchor.tune", "no trials of its own"),
        (edited("methods", "no_anchor", "tuned_as", value="original"), "methods.no_anchor.tuned_as", "no method"),
        (edited("subjects", "micro", "tuned_on", value="m"), "subjects.micro.tuned_on", "no subject 'm'"),
        (edited("subjects", "micro", "profile", value="m"), "subjects.micro.profile", "no profile 'm'"),
        (
            edited("subjects", "micro", "unlearning", value={"clips": 4}),
            "subjects.micro.unlearning.clips",
            "unknown key",
        ),
        (
            edited("subjects", "micro", "learning_rate_multipliers", value=[0.5]),
            "subjects.micro.tuned_on",
            "where nothing is multiplied",
        ),
        (edited("subjects", "micro", "data", value={"limit": 3}), "subjects.micro.data.limit", "unknown key"),
        (edited("report", "reference", value="best"), "report.reference", "no method 'best'"),
        (
            edited("report", "questions", value=[{"words": "Is it?", "method": "jpu", "against": "best"}]),
            "report.questions",
            "'Is it?' names 'best', which is no method",
        ),
        (
            edited("report", "questions", value=[{"words": "Is it?", "method": "jpu", "against": "sft"}] * 2),
            "report.questions",
            "'Is it?' is asked twice",
        ),
        (edited("tuning", "attacks", value={}), "tuning.attacks", "at least 1"),
        (
            edited("tuning", "attacks", value={"magic": {"queries": 1}}),
            "tuning.attacks.magic",
            "no attack is called 'magic'",
        ),
        (edited("evaluation", "attacks", value={"magic": {"queries": 1}}), "evaluation.attacks.magic", "'magic'"),
        (edited("seeds", value=[1, 1]), "seeds", "a seed stands there twice"),
        (edited("subjects", "micro", "seeds", value=[2, 2]), "subjects.micro.seeds", "a seed stands there twice"),
        (
            edited("subjects", "more", value=EXPERIMENTS["subjects"]["micro"] | {"tuned_on": "micro", "pooled": False}),
            "subjects.more.pooled",
            "a group is pooled or it is not: 'micro' is both",
        ),
    ],
)
def test_a_mistake_is_told_with_its_line(change: dict[str, Any], key: str, what: str) -> None:
    error = refused(**change)
    assert what in error.what and key in str(error.where)
    line = int(str(error.where).split(" line ")[1].split(",")[0])
    assert f'"{key.split(".")[-1]}"' in Path("experiments/compare.yaml").read_text().splitlines()[line - 1]


def test_a_setting_in_a_trial_is_looked_at_before_anything_is_run() -> None:
    tried = [{"unlearning": {"learning_rate": 1e-3}}, {"unlearning": {"learning_rate": -1.0}}]
    error = refused(**edited("methods", "sft", "tune", value=tried))
    assert "greater than 0" in error.what and "methods.sft" in str(error.where)
