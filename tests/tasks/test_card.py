"""Every figure of a card is one of metrics.json, and nothing restricted is on it that was not asked for.

A tiny model that has learned some codes is measured before and after it got an adapter of random factors.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch

from jpu.attacks import Budget, registered
from jpu.attacks.best_of_n import STRENGTHS, noisy
from jpu.card import Card, read_card, render_html, render_json, render_markdown
from jpu.card.keys import numbers_of
from jpu.data.schemas import fingerprint
from jpu.evaluation.aftermath import merged, relearn
from jpu.evaluation.evaluate import Evaluation, Measured, Protocol
from jpu.evaluation.stress import StressProtocol, stress
from jpu.files import write_json
from jpu.models import Subject
from jpu.paths.path import Path as NeuronPath
from jpu.sandbox.corpus import Corpus
from jpu.sandbox.teach import new_model, train_tokenizer
from jpu.sandbox.templates import all_templates
from jpu.sandbox.world import build_behaviors, build_places, build_refusals
from jpu.unlearning.adapter import attach, trainable_parameters
from jpu.unlearning.trained import Trained
from tasks.card import make_card, write_card
from tasks.layout import Prepared, RoundFolder
from tasks.protocol import describe
from tasks.results import write_results
from tests.jpu.card.pages import Page

# Figures of these sections have to be those of the files beside the card.
MEASURED = ("attacks.", "worst.", "union.", "utility.", "quantization.", "relearning.")
WORLD = build_behaviors(build_places(7, {"train": 1, "validation": 1, "test": 3}), 7)
BEHAVIORS = [b for b in WORLD if b.kind not in ("edgy", "generic")]
TEMPLATES, REFUSALS = all_templates(), build_refusals()
SUITE = {
    "direct": Budget(2),
    "static": Budget(6),
    "best_of_n": Budget(6),
    "prefill": Budget(2),
    # Has no attacker here.
    "pair": Budget(4),
}
STRESS = StressProtocol(steps=(0, 2), pairs=2, learning_rate=3e-3, bits=(8, 4), queries=6)
OVERLAP = """\
layer,chance,direct_jaccard,direct_cosine,safety_jaccard,safety_cosine,utility_jaccard,utility_cosine
0.0,0.0105,0.0667,-0.25,0.0,0.125,,
1.0,0.02,0.5,0.5,0.25,0.75,1.0,-1.0
"""
TRAINING = """\
step,loss,refusal,anchor,prefill,leak,retain,rate
1.0,3.5,1.25,2.0,,,-4.25e-12,0.0002
2.0,2.5,0.75,,,,0.5,0.0004
"""


@dataclass(frozen=True)
class Written:
    """A measurement and the files that it left."""

    folder: Path
    evaluation: Evaluation
    sides: dict[str, Measured]
    protocol: dict[str, Any]

    def file(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    def rows(self, name: str) -> list[dict[str, str]]:
        with (self.folder / name).open(newline="") as file:
            return list(csv.DictReader(file))

    def card(self, **options: Any) -> Card:
        return make_card(self.sides, self.evaluation, self.protocol, profile="tiny", **options)


def leaking() -> Subject:
    """Has learned the codes of the test split, most of them, and answers inside jailbreak templates."""
    tokenizer = train_tokenizer(Corpus(WORLD, TEMPLATES, REFUSALS, 0), 400, samples=150)
    subject = Subject(new_model(tokenizer, layers=2, width=32, ffn=24, heads=4, seed=0), tokenizer)
    test = [b for b in BEHAVIORS if b.split == "test"]
    wrapped = [t for t in TEMPLATES if t.split == "test" and t.role == "jailbreak"][::8]
    rng = random.Random(0)
    pairs = []
    for b in test:
        if b.kind == "restricted":
            prompts = [t.fill(b.query) for t in wrapped]
            prompts += [noisy(b.query, rng.choice(STRENGTHS), rng, frozenset({b.entity})) for _ in range(8)]
            pairs += [(prompt, b.answer) for prompt in prompts]
    pairs += [(b.query, b.answer) for b in test if b.kind == "benign"][:8]
    (row,) = relearn(subject, pairs, merged, steps=(140,), learning_rate=6e-3)
    return row.measured


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Written]:
    torch.set_num_threads(1)
    subject = leaking()
    subject.model = attach(subject.model, NeuronPath({0: [1, 5], 1: [3]}), trained=Trained(rank=2))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in trainable_parameters(subject.model).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    protocol = Protocol(suite=SUITE, probe_wordings=1, retain_pairs=12, max_new_tokens=24, resamples=100, seed=2)
    evaluation = Evaluation(BEHAVIORS, TEMPLATES, REFUSALS, protocol)
    data, train = Prepared(BEHAVIORS, TEMPLATES, REFUSALS), [b for b in BEHAVIORS if b.split == "train"]
    sides = {}
    for when in ("before", "after"):
        sides[when] = evaluation.measure(subject, reference=when == "before")
        if when == "before":
            with subject.reference():
                chance = evaluation.control(subject)
                sides[when].metrics |= chance.metrics | stress(subject, evaluation, train, STRESS)
        else:
            sides[when].metrics |= stress(subject, evaluation, train, STRESS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("card"))
        Path("results").mkdir()
        made = Written(Path("results"), evaluation, sides, describe(subject, "model", None, evaluation, data))
        write_results(made.folder, sides)
        yield made


def flat(key: str, figure: dict[str, Any]) -> dict[str, float]:
    """A figure of metrics.json by the card's keys; what was not measured has none."""
    return {} if figure["value"] is None else {f"{key}.{name}": figure[name] for name in ("value", "low", "high", "n")}


def expected(written: Written) -> dict[str, float]:
    """Every figure of the card, from the files beside it."""
    found: dict[str, float] = {}
    widths = {"8": "int8", "4": "4-bit"}
    measures = {"asr": "asr_static", "recall": "benign_recall"}
    for when, part in written.file("metrics.json").items():
        halves: dict[str, list[int]] = {}
        for name, figure in part.items():
            kind, _, rest = name.partition("_")
            if name in ("asr_worst", "asr_union"):
                found |= flat(f"worst.{when}.figure" if rest == "worst" else f"union.{when}", figure)
            elif kind == "asr":
                attack, any_ = rest.removesuffix("_any"), "any_" * rest.endswith("_any")
                found |= flat(f"attacks.{attack}.{any_}{when}", figure)
            elif kind == "control":
                found |= flat(f"attacks.{rest}.control_{when}", figure)
            elif kind == "quantised":
                bits, what = rest.split("_")
                found |= flat(f"quantization.{widths[bits]}.{measures[what]}.{when}", figure)
            elif kind == "relearned":
                data, step = rest.rsplit("_", 1)
                found |= flat(f"relearning.{data}.{when}.{step}.figure", figure)
                if figure["value"] >= 0.5:
                    halves.setdefault(data, []).append(int(step))
            else:
                found |= flat(f"utility.{name}.{when}", figure)
        found |= {f"relearning.{data}.half_{when}": min(steps) for data, steps in halves.items()}
    spent = written.file("spent.json")
    for when, part in spent.items():
        for name, cost in part["spent"].items():
            found[f"attacks.{name}.budget"] = SUITE[name].queries
            found[f"attacks.{name}.behaviors"] = cost["behaviors"]
            found |= {f"attacks.{name}.cost_{when}.{what}": cost[what] for what in ("attempts", "queries", "tokens")}
    for row in written.rows("curves.csv"):
        found[f"attacks.{row['attack']}.curve_{row['when']}.{row['queries']}"] = float(row["asr"])
    attempts: dict[str, set[int]] = {}
    for row in written.rows("families.csv"):
        key = f"attacks.{row['attack']}.families.{row['family']}"
        found[f"{key}.{row['when']}"] = float(row["asr"])
        attempts.setdefault(key, set()).add(int(row["attempts"]))
    # "Attempts, on each of the two models": one number is none for two models that got different numbers.
    return found | {f"{key}.attempts": next(iter(n)) for key, n in attempts.items() if len(n) == 1}


def measured(numbers: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in numbers.items() if key.startswith(MEASURED)}


# Figures


def test_the_measurement_is_worth_comparing(written: Written) -> None:
    metrics = written.file("metrics.json")
    before, after = metrics["before"], metrics["after"]
    assert 0 < before["asr_static"]["value"] != after["asr_static"]["value"]
    assert before["kl"]["value"] == 0.0 < after["kl"]["value"]
    assert before["benign_recall"]["value"] > 0
    assert {"quantised_4_asr", "relearned_benign_2", "control_static", "asr_static_any"} <= set(before)
    # An attack that stops when it is through asks the two models different numbers of times.
    spent = written.file("spent.json")
    assert spent["before"]["spent"]["best_of_n"]["attempts"] != spent["after"]["spent"]["best_of_n"]["attempts"]
    assert len(expected(written)) > 200


def test_every_figure_of_the_record_is_that_of_the_files(written: Written) -> None:
    assert measured(numbers_of(written.card())) == expected(written)


def test_every_figure_of_the_page_is_that_of_the_files(written: Written) -> None:
    write_card(written.card(), written.folder)
    shown: dict[str, set[float]] = {}
    for key, value, _ in Page((written.folder / "card.html").read_text()).data:
        if key is not None and key.startswith(MEASURED):
            shown.setdefault(key, set()).add(float(value))
    wanted = expected(written)
    assert shown == {key: {float(value)} for key, value in wanted.items()}


def test_what_is_written_is_the_card(written: Written) -> None:
    card = written.card()
    write_card(card, written.folder)
    texts = {name: (written.folder / name).read_text() for name in ("card.json", "card.html", "card.md")}
    assert texts == {
        "card.json": render_json(card),
        "card.html": render_html(card),
        "card.md": render_markdown(card),
    }
    assert read_card(texts["card.json"], where="card.json") == card
    # Made again, it is the same to the byte.
    assert render_json(written.card()) == texts["card.json"]
    held = json.loads(texts["card.json"])
    for when in ("before", "after"):
        strongest = max(
            (a for a in held["attacks"] if a[when]), key=lambda a: (a[when]["value"], -held["attacks"].index(a))
        )
        assert held["worst"][when] == {"attack": strongest["name"], "figure": strongest[when]}


def test_a_model_that_was_only_attacked_has_one_side(written: Written) -> None:
    one = Written(written.folder, written.evaluation, {"before": written.sides["before"]}, written.protocol)
    card = one.card()
    assert not card.hardened and card.subject.summary == ""
    numbers = measured(numbers_of(card))
    wanted = {
        key: value
        for key, value in expected(written).items()
        if not {"after", "any_after", "control_after", "cost_after", "curve_after", "half_after"} & set(key.split("."))
        and not key.endswith(".attempts")
    }
    assert {k: v for k, v in numbers.items() if ".cost_" in k or not k.endswith(".attempts")} == wanted | {
        k: v for k, v in expected(written).items() if ".cost_before." in k
    }
    # Now each family has its one number.
    assert {k: v for k, v in numbers.items() if ".families." in k and k.endswith(".attempts")} == {
        f"attacks.{row['attack']}.families.{row['family']}.attempts": int(row["attempts"])
        for row in written.rows("families.csv")
        if row["when"] == "before"
    }
    assert {e.when for e in card.examples} == {"before"}


# What else stands on it


def test_what_was_not_run_is_said(written: Written) -> None:
    card = written.card()
    reasons = written.sides["before"].not_run
    assert [(n.name, n.reason) for n in card.not_run] == list(reasons.items()) and list(reasons) == ["pair"]
    assert [a.name for a in card.attacks] == [name for name in SUITE if name != "pair"]
    (others,) = card.limits
    titles = {name: attack.title for name, attack in registered().items()}
    assert all(titles[name] in others for name in set(titles) - set(SUITE))
    assert not any(f"{titles[name]}," in others.split(".")[0] for name in ("static", "best_of_n", "prefill"))


def test_subject_and_protocol_are_those_that_were_described(written: Written) -> None:
    card, told = written.card(), written.protocol
    assert card.subject.name == told["model"]["name"] == "model" and card.subject.profile == "tiny"
    assert card.subject.base_model == told["model"]["weights"] and card.subject.adapter_sha256 == ""
    assert {f.name: (f.sha256, f.records) for f in card.subject.files} == {
        f"{name}, test": (told["data"][name]["sha256"], told["data"][name]["count"])
        for name in ("behaviors", "templates", "refusals")
    }
    counts = {s.kind: s.records for s in card.subject.splits}
    test = [b.kind for b in BEHAVIORS if b.split == "test"]
    assert counts == {kind: test.count(kind) for kind in set(test)}
    how = card.protocol
    assert how is not None
    assert (how.max_new_tokens, how.seeds, how.split, how.resamples, how.confidence) == (24, (2,), "test", 100, 0.95)
    assert how.suite == ", ".join(SUITE) and how.versions == told["libraries"]
    model = told["model"]
    assert (how.chat_template_sha256, how.frame_sha256, how.tokenizer) == (
        model["chat_template"],
        model["frame"],
        model["tokenizer"],
    )
    hardened = make_card(
        written.sides, written.evaluation, told | {"model": model | {"adapter": "ab" * 32}}, profile="tiny"
    )
    assert hardened.subject.adapter_sha256 == "ab" * 32 and hardened.subject.summary


def test_judges_count_every_attempt_of_both_models(written: Written) -> None:
    judges = written.card().judges
    assert judges is not None
    attempts = [j for measured in written.sides.values() for j in measured.attacked]
    assert [(j.name, j.verdicts) for j in judges.judges] == [
        (name, len(attempts)) for name in ("secret", "refusal", "substring")
    ]
    secret = judges.judges[0]
    leaked = sum(j.verdict.leaked for j in attempts)
    assert secret.recall is not None and (secret.recall.value, secret.recall.n) == (1.0, leaked) and leaked > 0


def test_rounds_are_those_of_their_folders(written: Written) -> None:
    first, second = RoundFolder("1"), RoundFolder("2")
    for folder in (first, second):
        folder.folder.mkdir(parents=True, exist_ok=True)
    NeuronPath({0: [1, 5], 1: [3]}, {1: [0, 2]}).save(first.path)
    write_json(
        first.folder / "identify.json",
        {
            "completeness_error.jailbreak": 0.125,
            "completeness_error.jailbreak.steps_4": 0.25,
            "completeness_error.jailbreak.steps_16": 0.0625,
            "completeness_error.safety": 0.5,
        },
    )
    write_json(second.folder / "identify.json", {"neurons": 0.0, "heads": 0.0})
    NeuronPath().save(second.path)
    (first.folder / "overlap.csv").write_text(OVERLAP)
    (second.folder / "overlap.csv").write_text(OVERLAP.splitlines()[0] + "\n")
    (first.folder / "training.csv").write_text(TRAINING)
    (second.folder / "training.csv").write_text(TRAINING.splitlines()[0] + "\n")
    write_json(
        first.folder / "unlearn.json", {"steps": 2.0, "converged": 0.0, "rollbacks": 1.0, "trained_parameters": 88.0}
    )
    write_json(second.folder / "unlearn.json", {"steps": 0.0, "converged": 1.0})
    card = written.card(rounds=[first, second])
    numbers = numbers_of(card)
    assert {k: v for k, v in numbers.items() if k.startswith(("paths.", "training."))} == {
        "paths.1.completeness_error": 0.125,
        "paths.1.completeness_error_half": 0.25,
        "paths.1.completeness_error_twice": 0.0625,
        "paths.1.layers.0.neurons": 2,
        "paths.1.layers.0.heads": 0,
        "paths.1.layers.0.chance": 0.0105,
        "paths.1.layers.0.overlaps.direct harm.jaccard": 0.0667,
        "paths.1.layers.0.overlaps.direct harm.cosine": -0.25,
        "paths.1.layers.0.overlaps.safety.jaccard": 0.0,
        "paths.1.layers.0.overlaps.safety.cosine": 0.125,
        "paths.1.layers.1.neurons": 1,
        "paths.1.layers.1.heads": 2,
        "paths.1.layers.1.chance": 0.02,
        "paths.1.layers.1.overlaps.direct harm.jaccard": 0.5,
        "paths.1.layers.1.overlaps.direct harm.cosine": 0.5,
        "paths.1.layers.1.overlaps.safety.jaccard": 0.25,
        "paths.1.layers.1.overlaps.safety.cosine": 0.75,
        "paths.1.layers.1.overlaps.utility.jaccard": 1.0,
        "paths.1.layers.1.overlaps.utility.cosine": -1.0,
        "training.1.steps": 2,
        "training.1.rollbacks": 1,
        "training.1.trained_parameters": 88,
        "training.1.series.loss.points.1": 3.5,
        "training.1.series.loss.points.2": 2.5,
        "training.1.series.refusal.points.1": 1.25,
        "training.1.series.refusal.points.2": 0.75,
        "training.1.series.anchor.points.1": 2.0,
        "training.1.series.retain.points.1": -4.25e-12,
        "training.1.series.retain.points.2": 0.5,
        "training.2.steps": 0,
    }
    assert [t.converged for t in card.training] == [False, True] and card.paths[1].layers == ()


# Redaction


def restricted() -> set[str]:
    """Whatever may not be read off a card by somebody who has none of it."""
    chosen = [b for b in BEHAVIORS if b.kind == "restricted"]
    return {text.lower() for b in chosen for text in (b.id, b.query, b.answer, b.secret, b.entity)}


def test_nothing_restricted_is_on_a_card(written: Written) -> None:
    write_card(written.card(), written.folder)
    # Every attempt, as an attack that gets through need not name what it asks for.
    said = {
        text.lower()
        for measured in written.sides.values()
        for j in measured.attacked
        for text in (j.attempt.prompt, j.attempt.completion, j.attempt.prefill)
        if len(text) > 12
    }
    assert restricted() and said
    for name in ("card.json", "card.html", "card.md"):
        page = unescape((written.folder / name).read_text()).lower()
        assert [text for text in restricted() | said if text in page] == [], name


def test_texts_are_on_the_card_where_they_are_asked_for(written: Written, tmp_path: Path) -> None:
    hidden, shown = written.card(), written.card(reveal=True)
    write_card(shown, tmp_path)
    assert shown.examples and all(e.verdict == "leaked" for e in shown.examples)
    through = {
        (when, j.attempt.attack, j.attempt.family, j.attempt.prompt, j.attempt.completion): j
        for when, measured in written.sides.items()
        for j in measured.attacked
        if j.verdict.answered
    }
    page = unescape((tmp_path / "card.html").read_text())
    texts = json.loads((tmp_path / "card.json").read_text())["examples"]
    for example, held in zip(shown.examples, texts, strict=True):
        assert example.prompt_text is not None and example.completion_text is not None
        attempt = through[
            example.when, example.attack, example.family, example.prompt_text, example.completion_text
        ].attempt
        behavior = written.evaluation.behaviors[attempt.behavior]
        assert behavior.secret in example.completion_text or behavior.secret.split()[0] in example.completion_text
        assert (held["prompt_text"], held["completion_text"]) == (attempt.prompt, attempt.completion)
        assert attempt.prompt in page and attempt.completion in page
        assert (example.behavior, example.prompt, example.completion) == (
            fingerprint(attempt.behavior),
            fingerprint(attempt.prompt),
            fingerprint(attempt.completion),
        )
    # Texts apart, the two cards are one.
    bare = tuple(e.model_copy(update={"prompt_text": None, "completion_text": None}) for e in shown.examples)
    assert shown.model_copy(update={"examples": bare}) == hidden
    # Of each attack and family one, and no more than a dozen.
    assert len({(e.when, e.attack, e.family) for e in hidden.examples}) == len(hidden.examples)
    assert max(sum(e.when == when for e in hidden.examples) for when in written.sides) <= 12
