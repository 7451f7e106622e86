from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from jpu.checkpoint import Checkpoint
from jpu.data.schemas import Behavior, Refusal, Template
from jpu.errors import BudgetError
from jpu.evaluation.divergence import divergence
from jpu.mining.entry import Entry, make_entry
from jpu.models import BATCH_TOKENS, Subject
from jpu.paths.path import Path as JailbreakPath
from jpu.unlearning.adapter import adapter_factors, adapter_path, attach, detach, trainable_parameters
from jpu.unlearning.anchors import compute_anchors
from jpu.unlearning.conflict import Conflict, joined
from jpu.unlearning.defences.base import Defence, Materials, Step
from jpu.unlearning.defences.jpu import JPU
from jpu.unlearning.defences.settings import JpuSettings, Weights
from jpu.unlearning.exposures import EXPOSURES, make_exposures
from jpu.unlearning.leaks import Leak, split_leak
from jpu.unlearning.mined import Mined
from jpu.unlearning.retain import ReferenceDistribution, RetainMix, build_retain
from jpu.unlearning.trained import Trained
from jpu.unlearning.training import Schedule, Training

Make = Callable[..., Subject]

NEURONS = {0: [1, 5], 1: [3]}
LOOP: dict[str, Any] = {
    "clip": 1.0,
    "conflict": "none",
    "steps": 6,
    "learning_rate": 2e-2,
    "warmup": 2,
    "refresh_every": 2,
    "kl_budget": 99.0,
    "rollbacks": 3,
}
LOSSES: dict[str, Any] = {"prefill_batch": 2, "exposure_batch": 2, "positions": 3, "weights": Weights(leak=0.5)}


@pytest.fixture(scope="module")
def build(
    make_subject: Make, adapt: Make, behaviors: list[Behavior], templates: list[Template], refusals: list[Refusal]
) -> Callable[..., Training]:
    """A training of a fresh subject by JPU, always the same one; keywords replace settings."""

    def make(**changes: Any) -> Training:
        subject = adapt(make_subject(), JailbreakPath(NEURONS), start=True)
        here = [b for b in behaviors if b.split == "train"]
        wordings = [t for t in templates if t.split == "train"]
        restricted = [b for b in here if b.kind == "restricted"]
        said = {b.id: refusals[0].text for b in restricted}
        pairs = build_retain(here, wordings, said, 30, RetainMix(), random.Random(0))
        leaks = {b.id: split_leak(subject, b.answer, b.secret) for b in restricted}
        materials = Materials(
            subject=subject,
            refusals=said,
            retain=ReferenceDistribution(subject, pairs[:20]),
            batch=4,
            retain_batch=6,
            seed="seed",
            leaks=leaks,
            neurons=NEURONS,
            anchors=compute_anchors(subject, restricted, said, list(said), NEURONS, 3),
            exposures=make_exposures(
                subject,
                restricted,
                said,
                [b for b in here if b.kind == "benign"],
                {name: leak.opening for name, leak in leaks.items()},
            ),
        )
        loop = {name: value for name, value in changes.items() if name in LOOP}
        losses = {name: value for name, value in changes.items() if name not in LOOP}
        return Training(
            subject,
            JPU(materials, JpuSettings(**{**LOSSES, **losses})),
            ReferenceDistribution(subject, pairs[20:], top=400),
            Schedule(**{**LOOP, **loop}),
            "seed",
        )

    return make


@pytest.fixture(scope="module")
def entries(behaviors: list[Behavior], templates: list[Template]) -> list[Entry]:
    return [
        make_entry(behavior=b.id, template=t.id, family=t.family, text=t.text, query=b.query, split="train", round=1)
        for b in behaviors
        for t in templates
        if b.kind == "restricted" and b.split == t.split == "train" and t.role == "jailbreak"
    ]


def weights(training: Training) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in training.subject.model.named_parameters()}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def scripted(training: Training, kls: Sequence[float], monkeypatch: pytest.MonkeyPatch) -> None:
    left = list(kls)
    monkeypatch.setattr(training, "measure", lambda: left.pop(0))


# Memory


def test_recomputed_activations_train_the_same_weights(build: Callable[..., Training], entries: list[Entry]) -> None:
    """All losses and all exposures, whose hooks are gone when a layer runs again."""
    mined = Mined(entries[:4], entries, 0.5)
    trained = []
    for recompute in (False, True):
        training = build(steps=4, exposures={x.name: 1.0 for x in EXPOSURES}, exposures_a_step=4)
        training.schedule = dataclasses.replace(training.schedule, gradient_checkpointing=recompute)
        done = training.run(lambda _: mined)
        trained.append((weights(training), done.history))
    assert same(trained[0][0], trained[1][0]) and trained[0][1] == trained[1][1]
    assert {x.name for x in EXPOSURES} < trained[0][1][0].keys()


# Settings


def test_the_rate_warms_up_and_falls_to_a_tenth() -> None:
    settings = Schedule(100, learning_rate=4.0, warmup=4)
    rates = [settings.rate(step, 1.0) for step in range(101)]
    assert rates[:4] == [1.0, 2.0, 3.0, 4.0] and rates[4:51] == [4.0] * 47
    assert rates[75] == pytest.approx(4.0 * 0.55) and rates[100] == pytest.approx(0.4)
    assert settings.rate(75, 0.25) == pytest.approx(0.25 * rates[75])
    assert Schedule(1, learning_rate=1.0, warmup=0).rate(0, 1.0) == 1.0


# Leaks


@pytest.mark.parametrize(
    ("answer", "secret", "opening"),
    [
        ("The code of Zoruk is amber dune kelp.", "amber dune kelp", "The code of Zoruk is"),
        ("amber dune kelp is the code.", "amber dune kelp", ""),
        ('It says "amber dune".', "amber dune", 'It says "'),
    ],
)
def test_a_leak_is_cut_where_its_secret_begins(make_subject: Make, answer: str, secret: str, opening: str) -> None:
    subject = make_subject()
    leak = split_leak(subject, answer, secret)
    decode = subject.tokenizer.decode
    assert [*leak.opening, *leak.secret] == subject.answer_ids(answer)[:-1]
    assert decode(leak.opening) == opening
    assert decode(leak.secret).strip().startswith(secret)


def test_a_token_across_the_cut_belongs_to_the_secret(make_subject: Make) -> None:
    subject = make_subject()
    whole = subject.answer_ids("The code")[:-1]
    assert len(whole) == 2 and subject.answer_ids("The co")[:-1] != whole
    assert split_leak(subject, "The code", "de") == Leak(whole[:1], whole[1:])


@pytest.mark.parametrize(
    ("answer", "opening", "secret"),
    [("a b c d e f", "a b c d", " e f"), ("a b", "a", " b"), ("a", "", "a"), ("", "", "")],
)
def test_the_last_third_of_a_leak_is_its_secret_where_none_is_known(
    make_subject: Make, answer: str, opening: str, secret: str
) -> None:
    subject = make_subject()
    leak = split_leak(subject, answer, "")
    assert (subject.tokenizer.decode(leak.opening), subject.tokenizer.decode(leak.secret)) == (opening, secret)
    assert split_leak(subject, answer, "not in it") == leak


# Training


def test_training_restores_refusals_and_moves_the_path_alone(
    build: Callable[..., Training], entries: list[Entry]
) -> None:
    training = build(steps=24, refresh_every=8, weights=Weights(leak=0.0))
    subject = training.subject
    before, trainable = weights(training), set(trainable_parameters(subject.model))
    prompts, texts = [e.prompt for e in entries], [training.defence.materials.refusals[e.behavior] for e in entries]
    loss = float(subject.nll(prompts, texts).mean())

    done = training.run(lambda number: Mined(entries, entries, 0.5))

    assert float(subject.nll(prompts, texts).mean()) < 0.7 * loss
    after = weights(training)
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    # Every trainable parameter has moved; every other one is the same to the bit, the one-hot factors among them.
    assert moved == trainable
    for name, factors in adapter_factors(subject.model).items():
        change = factors.b @ factors.a
        layer, units = int(name.split(".")[2]), change.abs().sum(0 if "down" in name else 1).nonzero()[:, 0].tolist()
        if ".mlp." in name:
            assert set(units) == set(NEURONS[layer])
    assert done.kl == pytest.approx(training.measure()) and done.kl > 0


@pytest.mark.parametrize(("live", "size", "expected"), [(6, 4, 2), (1, 4, 1), (0, 4, 0), (6, 1, 0), (6, 20, 6)])
def test_a_batch_is_half_live_and_never_only_a_few_entries(
    entries: list[Entry], live: int, size: int, expected: int
) -> None:
    shown = [e.model_copy(update={"id": str(n)}) for n, e in enumerate(entries * 4)][:12]
    mined = Mined(shown[:live], shown, 0.0)
    for seed in range(5):
        drawn = mined.draw(size, random.Random(seed))
        assert len(drawn) == min(size, expected + len(shown))
        assert len({e.id for e in drawn[:expected]} & {e.id for e in mined.live}) == expected
    drawn = [e.id for seed in range(60) for e in mined.draw(size, random.Random(seed))]
    assert set(drawn) == {e.id for e in shown}


def test_nothing_mined_is_an_empty_batch() -> None:
    assert Mined([], [], 0.0).draw(4, random.Random(0)) == []


def test_each_step_and_each_check_leaves_a_row(build: Callable[..., Training], entries: list[Entry]) -> None:
    training = build(steps=5)
    numbers: list[int] = []
    shown: list[tuple[int, int]] = []

    def refresh(number: int) -> Mined:
        numbers.append(number)
        return Mined(entries, entries, number / 10)

    done = training.run(refresh, progress=lambda step, steps, row: shown.append((step, steps)))
    assert numbers == [0, 1, 2] and shown == [(step, 5) for step in range(1, 6)]
    assert [row["step"] for row in done.history] == [1, 2, 3, 4, 5]
    assert [(c["step"], c["fresh_rate"], c["rolled_back"]) for c in done.checks] == [
        (2, 0, 0),
        (4, 0.1, 0),
        (5, 0.2, 0),
    ]
    for row in done.history:
        assert set(row) == {"step", "rate", "loss", "refusal", "anchor", "prefill", "leak", "retain"}
        parts = row["refusal"] + row["anchor"] + row["prefill"] + 0.5 * row["leak"] + row["retain"]
        assert row["loss"] == pytest.approx(parts, rel=1e-5)
    # A fresh adapter changes nothing: its first step sees no distance from M_0.
    assert abs(done.history[0]["retain"]) < 1e-5 < done.history[-1]["retain"]


def test_a_weight_of_0_leaves_its_loss_out(build: Callable[..., Training], entries: list[Entry]) -> None:
    only = build(steps=1, weights=Weights(prefill=0.0, leak=0.0, retain=0.0)).run(
        lambda number: Mined(entries, entries, 0.0)
    )
    assert set(only.history[0]) == {"step", "rate", "loss", "refusal", "anchor"}
    bare = build(steps=1).run(lambda number: Mined([], [], 0.0))
    assert set(bare.history[0]) == {"step", "rate", "loss", "retain"}


def test_exposures_take_turns(build: Callable[..., Training], entries: list[Entry]) -> None:
    weights = {"soft": 0.5, "chat": 2.0, "ablated": 0.0}
    done = build(steps=4, exposures=weights).run(lambda number: Mined(entries, entries, 0.0))
    always = {"step", "rate", "loss", "refusal", "anchor", "prefill", "leak", "retain"}
    assert [set(row) - always for row in done.history] == [{"soft"}, {"chat"}] * 2
    for row, name in zip(done.history, ("soft", "chat") * 2, strict=True):
        parts = row["refusal"] + row["anchor"] + row["prefill"] + 0.5 * row["leak"] + row["retain"]
        assert row["loss"] == pytest.approx(parts + weights[name] * row[name], rel=1e-5)


def test_the_held_out_kl_is_that_of_all_answer_tokens(build: Callable[..., Training], adapt: Make) -> None:
    training = build()
    assert training.measure() == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        for parameter in trainable_parameters(training.subject.model).values():
            parameter.add_(0.1)
    # More than one part, the last of them short, whose tokens must count no more than the others'.
    held = training.held_out
    held.rows, held.kept, held.pairs = held.rows * 25, held.kept * 25, held.pairs * 25
    assert sum(len(prompt) + len(answer) for prompt, answer in held.rows) > BATCH_TOKENS
    exact = divergence(training.subject, held.pairs)
    expected = sum(k * t for k, t in zip(exact.kl, exact.tokens, strict=True)) / sum(exact.tokens)
    assert training.measure() == pytest.approx(expected, rel=1e-4)


# The budget


def test_an_overrun_is_taken_back_and_the_step_is_halved(
    build: Callable[..., Training], entries: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = build(kl_budget=0.1, warmup=0, steps=4)
    scripted(training, [0.05, 0.2, 0.3, 0.08], monkeypatch)
    starts: list[dict[str, torch.Tensor]] = []
    momenta: list[bool] = []
    rates: list[float] = []

    def refresh(number: int) -> Mined:
        starts.append(weights(training))
        momenta.append(bool(training.optimizer.state))
        return Mined(entries, entries, 0.0)

    done = training.run(refresh, progress=lambda step, steps, row: rates.append(row["rate"]))
    # Both overruns went back to the state after the first check.
    assert same(starts[1], starts[2]) and same(starts[2], starts[3]) and not same(starts[0], starts[1])
    # … and not with the momentum that led out of the budget.
    assert momenta == [False, True, False, False]
    full = [training.schedule.rate(step, 1.0) for step in range(4)]
    assert rates == [*full[:2], *full[2:], *(r / 2 for r in full[2:]), *(r / 4 for r in full[2:])]
    assert [(c["step"], c["rolled_back"]) for c in done.checks] == [(2, 0), (4, 1), (4, 1), (4, 0)]
    assert [row["step"] for row in done.history] == [1, 2, 3, 4] and done.kl == 0.08
    assert [row["rate"] for row in done.history[2:]] == rates[-2:]


def test_after_the_last_roll_back_the_run_ends_where_it_was_good(
    build: Callable[..., Training], entries: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = build(kl_budget=0.1, rollbacks=1)
    scripted(training, [0.05, 0.2, 0.3], monkeypatch)
    starts: list[dict[str, torch.Tensor]] = []

    def refresh(number: int) -> Mined:
        starts.append(weights(training))
        return Mined(entries, entries, 0.0)

    done = training.run(refresh)
    assert (len(done.history), done.kl) == (2, 0.05)
    assert same(weights(training), starts[1])


def test_a_budget_that_is_never_kept_is_an_error(build: Callable[..., Training], entries: list[Entry]) -> None:
    training = build(kl_budget=1e-9, rollbacks=2)
    before = weights(training)
    with pytest.raises(BudgetError, match=r"overrun 3 times at the first check, down to 0\.125") as caught:
        training.run(lambda number: Mined(entries, entries, 0.0))
    assert "kl_budget" in caught.value.mend
    assert same(weights(training), before)


def test_weights_that_are_no_numbers_are_over_every_budget(
    build: Callable[..., Training], entries: list[Entry], tmp_path: Path
) -> None:
    training = build(learning_rate=1e30, rollbacks=1, kl_budget=1e6)
    with pytest.raises(BudgetError):
        training.run(lambda number: Mined(entries, entries, 0.0), Checkpoint(tmp_path / "c", "k"))
    assert all(bool(torch.isfinite(p).all()) for p in training.subject.model.parameters())
    checks = json.loads((tmp_path / "c" / "state.json").read_text())["checks"]
    assert len(checks) == 2 and all(math.isfinite(check["kl"]) for check in checks)


# Resuming


class Killed(BaseException):
    """As sudden as a kill."""


# A budget that this learning rate overruns: roll-backs are lived through again.
OVERRUN = {
    "kl_budget": 0.06,
    "learning_rate": 6e-2,
    "warmup": 0,
    "rollbacks": 9,
    "exposures": {kind.name: 0.5 for kind in EXPOSURES},
}


def train(
    training: Training, entries: list[Entry], checkpoint: Checkpoint | None = None, kill: int | None = None
) -> Any:
    """Everything that a run leaves but its weights; the caller's state stands for the buffer."""
    steps = 0
    mined: list[int] = []

    def refresh(number: int) -> Mined:
        mined.append(number)
        return Mined(entries[number % 2 :: 4], entries[number % 2 :: 2], float(sum(mined)))

    def progress(step: int, of: int, row: dict[str, float]) -> None:
        nonlocal steps
        steps += 1
        if steps == kill:
            raise Killed

    def restore(state: list[int]) -> None:
        mined[:] = state

    done = training.run(refresh, checkpoint, lambda: list(mined), restore, progress)
    return done.history, done.checks, done.kl, mined


@pytest.fixture(scope="module")
def undisturbed(build: Callable[..., Training], entries: list[Entry]) -> tuple[Any, dict[str, torch.Tensor]]:
    training = build(**OVERRUN)
    return train(training, entries), weights(training)


@pytest.mark.parametrize("at", [1, 4, 7])
def test_a_resumed_run_ends_with_the_bytes_of_an_undisturbed_one(
    build: Callable[..., Training], entries: list[Entry], undisturbed: Any, tmp_path: Path, at: int
) -> None:
    expected, ended = undisturbed
    overruns = [check["rolled_back"] for check in expected[1]]
    assert 1.0 in overruns[:2] and overruns[-1] == 0.0
    checkpoint = Checkpoint(tmp_path / "c", "key")
    with pytest.raises(Killed):
        train(build(**OVERRUN), entries, checkpoint, at)
    resumed = build(**OVERRUN)
    assert train(resumed, entries, checkpoint) == expected
    assert same(weights(resumed), ended)


def test_a_run_that_had_ended_is_not_run_again(
    build: Callable[..., Training], entries: list[Entry], tmp_path: Path
) -> None:
    checkpoint = Checkpoint(tmp_path / "c", "key")
    first, second = build(), build()
    expected = first.run(lambda number: Mined(entries, entries, 0.0), checkpoint)

    def refresh(number: int) -> Mined:
        raise AssertionError

    assert second.run(refresh, checkpoint) == expected
    assert same(weights(first), weights(second))


# Gradients at odds


@pytest.mark.parametrize("how", ["agem", "pcgrad"])
def test_a_step_is_along_the_gradient_in_which_the_conflict_is_resolved(
    build: Callable[..., Training], entries: list[Entry], how: Conflict
) -> None:
    training = build(steps=40, refresh_every=8, conflict=how, clip=1e9)
    mined = Mined(entries, entries, 0.0)
    conflicts = 0
    for number in range(8):
        gradients: dict[bool, list[torch.Tensor]] = {}
        parameters = list(training.parameters.values())
        passes = training.defence.passes(Step(number, 40, random.Random(f"seed-step-{number}-1.0"), mined))
        for parts in passes:
            kept = "retain" in parts
            loss = torch.stack([weight * part for weight, part in parts.values()]).sum()
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            values = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
            before = gradients.get(kept, [torch.zeros_like(p) for p in parameters])
            gradients[kept] = [a + b for a, b in zip(before, values, strict=True)]
        product = sum(float((s * r).sum()) for s, r in zip(gradients[False], gradients[True], strict=True))
        conflicts += product < 0
        training._step(number, 1.0, mined)
        for parameter, expected in zip(parameters, joined(gradients[False], gradients[True], how), strict=True):
            torch.testing.assert_close(parameter.grad, expected, atol=1e-4, rtol=1e-3)
    assert conflicts > 0


# A path that is found anew


class Growing:
    """Finds the next neuron at each stretch."""

    def __init__(self, training: Training, restricted: Sequence[Behavior]) -> None:
        self.training, self.restricted = training, restricted
        self.found: list[int] = []

    def find(self, mined: Mined, number: int) -> JailbreakPath:
        self.found.append(number)
        return JailbreakPath({0: [5 + number], 1: [3]})

    def adopt(self, path: JailbreakPath) -> Defence[Any]:
        subject, defence = self.training.subject, self.training.defence
        bare, factors = detach(subject.model)
        subject.model = attach(bare, path, Trained(rank=2), previous=factors)
        neurons = adapter_path(adapter_factors(subject.model)).neurons
        told = defence.materials
        anchors = compute_anchors(subject, self.restricted, told.refusals, list(told.refusals), neurons, 3)
        return JPU(dataclasses.replace(told, neurons=neurons, anchors=anchors), defence.settings)


@pytest.fixture
def growing(build: Callable[..., Training], behaviors: list[Behavior]) -> Callable[..., Training]:
    def make(**changes: Any) -> Training:
        training = build(**changes)
        restricted = [b for b in behaviors if b.split == "train" and b.kind == "restricted"]
        training.pathfinder = Growing(training, restricted)
        return training

    return make


def test_a_path_that_is_found_anew_joins_the_one_that_there_was(
    growing: Callable[..., Training], entries: list[Entry]
) -> None:
    training = growing()
    before = weights(training)
    kls: list[float] = []

    def progress(step: int, of: int, row: dict[str, float]) -> None:
        kls.append(row["retain"])

    done = training.run(lambda number: Mined(entries, entries, 0.0), progress=progress)
    finder: Any = training.pathfinder
    assert finder.found == [1, 2] and len(done.checks) == 3
    assert dict(adapter_path(adapter_factors(training.subject.model)).neurons) == {0: (1, 5, 6, 7), 1: (3,)}
    assert training.path == JailbreakPath({0: [6, 7], 1: [3]})
    # All that is trained now has moved; of all else that there was before, nothing.
    trainable = set(trainable_parameters(training.subject.model))
    after = weights(training)
    factors = {name for name in before if "lora" in name}
    assert all(torch.equal(before[name], after[name]) for name in set(before) - factors)
    assert {name for name in trainable if after[name].any()} == trainable
    down = adapter_factors(training.subject.model)["model.layers.0.mlp.down_proj"]
    assert (down.b.abs().sum(0) > 0).all()


def test_a_run_whose_path_has_grown_resumes_to_the_same_bytes(
    growing: Callable[..., Training], entries: list[Entry], tmp_path: Path
) -> None:
    whole = growing()
    expected, checkpoint = train(whole, entries), Checkpoint(tmp_path / "c", "key")
    with pytest.raises(Killed):
        train(growing(), entries, checkpoint, 5)
    resumed = growing()
    assert train(resumed, entries, checkpoint) == expected
    assert same(weights(resumed), weights(whole))


def test_without_a_budget_only_what_is_no_number_is_taken_back(
    build: Callable[..., Training], entries: list[Entry]
) -> None:
    done = build(kl_budget=None, learning_rate=0.3).run(lambda number: Mined(entries, entries, 0.0))
    assert done.kl > 0.3 and not any(check["rolled_back"] for check in done.checks)
    with pytest.raises(BudgetError):
        build(kl_budget=None, learning_rate=1e30, rollbacks=1).run(lambda number: Mined(entries, entries, 0.0))
