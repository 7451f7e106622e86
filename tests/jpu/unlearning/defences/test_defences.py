"""Every defence, on a tiny subject: it lowers its own objective, moves what it may, and can be done again."""

from __future__ import annotations

import pathlib
import random
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch

from jpu.data.schemas import Behavior, Refusal, Template
from jpu.errors import SettingsError
from jpu.mining.entry import Entry, make_entry
from jpu.models import Subject
from jpu.paths.path import Path
from jpu.processes import ALONE, Processes
from jpu.unlearning.adapter import attach, trainable_parameters
from jpu.unlearning.anchors import compute_anchors
from jpu.unlearning.defences.base import Defence, Materials, Step
from jpu.unlearning.defences.circuit_breakers import CircuitBreakers
from jpu.unlearning.defences.jpu import JPU
from jpu.unlearning.defences.lat import _fitted, _log_p
from jpu.unlearning.defences.registry import DEFENCES, get_defence, registry
from jpu.unlearning.defences.settings import (
    AnyDefence,
    CircuitBreakersSettings,
    DefenceSettings,
    JpuSettings,
    JpuSwitches,
    RmuSettings,
)
from jpu.unlearning.exposures import make_exposures
from jpu.unlearning.leaks import split_leak
from jpu.unlearning.mined import Mined
from jpu.unlearning.retain import ReferenceDistribution, RetainMix, build_retain
from jpu.unlearning.streams import EMBEDDING, moved, reference_streams, saying, streams
from jpu.unlearning.trained import Trained
from jpu.unlearning.training import Schedule, Training
from tests.forked import forked

Make = Callable[..., Any]
NEURONS = {0: [1, 5], 1: [3]}
# Where a paper's value would show nothing in six steps on random weights, which find no leak likely.
SHORT: dict[str, dict[str, Any]] = {
    "eraser": {"gamma": 12.0},
    "adaptive_rmu": {"retain_weight": 1.0},
    "lat": {"searched": 2},
}
SETTINGS: dict[str, type[DefenceSettings]] = {
    kind.model_fields["name"].default: JpuSettings if kind is JpuSwitches else kind
    for kind in get_args(get_args(AnyDefence)[0])
}


@pytest.fixture(scope="module")
def make(
    make_subject: Make, behaviors: list[Behavior], templates: list[Template], refusals: list[Refusal]
) -> Callable[..., Training]:
    """A training of a fresh subject by a defence with the settings of its paper; keywords replace them."""

    def build(name: str, *, steps: int = 6, trained: Trained | None = None, **changes: Any) -> Training:
        subject: Subject = make_subject()
        defence = DEFENCES[name]
        settings = SETTINGS[name](**changes)
        part = trained or defence.trained(len(subject.layers), settings)
        subject.model = attach(subject.model, Path(NEURONS), part)
        here = [b for b in behaviors if b.split == "train"]
        restricted = [b for b in here if b.kind == "restricted"]
        said = {b.id: refusals[0].text for b in restricted}
        pairs = build_retain(
            here, [t for t in templates if t.split == "train"], said, 24, RetainMix(), random.Random(0)
        )
        leaks = {b.id: split_leak(subject, b.answer, b.secret) for b in restricted}
        told, openings = [b for b in here if b.kind == "benign"], {name: leak.opening for name, leak in leaks.items()}
        materials = Materials(
            subject=subject,
            refusals=said,
            retain=ReferenceDistribution(subject, pairs),
            batch=4,
            retain_batch=4,
            seed="seed",
            leaks=leaks,
            neurons=NEURONS,
            anchors=compute_anchors(subject, restricted, said, list(said), NEURONS, 4),
            exposures=make_exposures(subject, restricted, said, told, openings),
        )
        return Training(
            subject,
            defence(materials, settings),
            ReferenceDistribution(subject, pairs[:4]),
            Schedule(steps=steps, learning_rate=1e-2, warmup=0, refresh_every=4, kl_budget=None),
            "seed",
        )

    return build


@pytest.fixture(scope="module")
def entries(behaviors: list[Behavior], templates: list[Template]) -> list[Entry]:
    return [
        make_entry(behavior=b.id, template=t.id, family=t.family, text=t.text, query=b.query, split="train", round=1)
        for b in behaviors
        for t in templates
        if b.kind == "restricted" and b.split == t.split == "train" and t.role == "jailbreak"
    ]


def objective(training: Training, entries: list[Entry]) -> float:
    """The defence's losses without its retain term, on the same draws each time."""
    total = 0.0
    for parts in training.defence.passes(Step(0, 8, random.Random(5), Mined(entries, entries, 0.0))):
        total += sum(weight * float(loss.detach()) for name, (weight, loss) in parts.items() if name != "retain")
    return total


def weights(training: Training) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in training.subject.model.named_parameters()}


def logits(training: Training) -> torch.Tensor:
    subject = training.subject
    ids = torch.tensor([subject.prompt_ids("What is the code?")])
    with torch.no_grad():
        found: torch.Tensor = subject.model(input_ids=ids).logits
    return found


def test_the_settings_and_the_registry_name_the_same_defences() -> None:
    assert list(SETTINGS) == list(dict.fromkeys(SETTINGS)) and set(SETTINGS) == set(DEFENCES)
    for name, defence in DEFENCES.items():
        assert defence.name == name == SETTINGS[name]().name
        assert "arXiv" in defence.cite


def test_two_defences_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two defences are called 'jpu'"):
        registry((JPU, JPU))
    with pytest.raises(SettingsError, match="no defence 'jpux'"):
        get_defence("jpux")


@pytest.mark.parametrize("name", DEFENCES)
def test_a_defence_lowers_its_objective_and_moves_only_what_it_may(
    make: Callable[..., Training], entries: list[Entry], name: str
) -> None:
    training = make(name, **SHORT.get(name, {}))
    subject = training.subject
    mined = Mined(entries, entries, 0.0)
    trainable = set(trainable_parameters(subject.model))
    before, start = weights(training), objective(training, entries)
    with subject.reference():
        original = logits(training)
    done = training.run(lambda number: mined)
    after, end = weights(training), objective(training, entries)

    assert end < start - 0.01 * abs(start)
    changed = {n for n in after if not torch.equal(after[n], before[n])}
    assert changed and changed <= trainable
    # M_0 is what it was, to the bit, and M_θ is not.
    with subject.reference():
        assert torch.equal(logits(training), original)
    assert not torch.equal(logits(training), original)
    assert all("retain" in row for row in done.history[1:])

    again = make(name, **SHORT.get(name, {}))
    assert again.run(lambda number: mined).history == done.history
    assert all(torch.equal(p, after[n]) for n, p in weights(again).items())


@pytest.mark.parametrize("name", DEFENCES)
@pytest.mark.parametrize("retain", ["kl", "nll", "stream"])
def test_every_retain_term_goes_with_every_defence(
    make: Callable[..., Training], entries: list[Entry], name: str, retain: str
) -> None:
    training = make(name, steps=1, trained=Trained(path=False, rank=2), retain=retain)
    passes = training.defence.passes(Step(4, 8, random.Random(5), Mined([], [], 0.0)))
    kept = [parts for parts in passes if "retain" in parts]
    assert len(kept) == 1 and set(kept[0]) == {"retain"}
    weight, loss = kept[0]["retain"]
    assert weight > 0
    if retain == "nll":
        assert loss.item() > 0.1
    elif name != CircuitBreakers.name:
        # A fresh adapter has changed nothing.
        assert loss.item() == pytest.approx(0.0, abs=1e-4)
    loss.backward()
    # Of a square and of a KL that are 0, the gradient is 0: it is there all the same.
    assert any(p.grad is not None for p in trainable_parameters(training.subject.model).values())


@pytest.mark.parametrize("start", [0.05, 0.2])
def test_circuit_breakers_start_where_there_is_a_gradient(
    make: Callable[..., Training], entries: list[Entry], start: float
) -> None:
    training = make("circuit_breakers", steps=1, start=start)
    defence: Any = training.defence
    subject, rows = training.subject, defence.materials.retain.rows[:16]
    ids, labels = subject.collate([head for head, _ in rows], [tail for _, tail in rows])
    with torch.no_grad():
        before = reference_streams(subject, [1], ids, saying(labels))
        away = (streams(subject, [1], ids, saying(labels)) - before).norm(dim=-1) / before.norm(dim=-1)
    assert float(away.mean()) == pytest.approx(start, rel=0.2)
    first = next(defence.passes(Step(0, 8, random.Random(5), Mined(entries, entries, 0.0))))
    weight, loss = first["reroute"]
    assert weight == 10.0 and loss.item() < 1.0 - start**2 / 8
    loss.backward()
    steep = max(float(p.grad.abs().max()) for p in training.parameters.values() if p.grad is not None)
    assert steep > 1e-4


def test_the_defences_of_streams_look_where_their_papers_do(make: Callable[..., Training]) -> None:
    def part(settings: DefenceSettings) -> Trained:
        return DEFENCES[settings.name].trained(32, settings)

    assert part(RmuSettings()) == Trained(path=False, modules="mlp.down_proj", rank="dense", layers=range(5, 8))
    assert part(RmuSettings(depth=0.5)).layers == range(14, 17)
    assert part(CircuitBreakersSettings()).layers == range(21)
    assert make("rmu").defence.stream_layers() == [0]
    assert make("circuit_breakers").defence.stream_layers() == [1]


def test_a_perturbation_of_latent_training_elicits_the_leak_and_stays_on_the_prompt(
    make: Callable[..., Training], entries: list[Entry]
) -> None:
    defence: Any = make("lat", steps=1).defence
    refused = defence.subject.collate(*defence.refused(entries[:3]))
    leaked = defence.subject.collate(*defence.leaked(entries[:3]))
    delta = defence.perturbation(refused, leaked)
    assert sorted(delta) == [EMBEDDING, 0, 1]
    with torch.no_grad():
        plain = float(_log_p(defence.subject, leaked).mean())
        with moved(defence.subject, _fitted(delta, leaked[0].shape[1])):
            pushed = float(_log_p(defence.subject, leaked).mean())
    assert pushed > plain + 0.1
    lengths = [len(defence.subject.prompt_ids(e.prompt)) for e in entries[:3]]
    for values in delta.values():
        for row, length in enumerate(lengths):
            assert bool(values[row, :length].any()) and not bool(values[row, length:].any())
    assert isinstance(defence, Defence)


def curve(training: Training, entries: list[Entry], processes: Processes) -> list[dict[str, float]]:
    """History, checks and a sum over the weights, of a training whose work is shared."""
    training.processes = processes
    with processes.shared(training.subject.model):
        done = training.run(lambda number: Mined(entries[number:], entries, 0.0))
    moved = {name: float(p.detach().double().abs().sum()) for name, p in training.parameters.items()}
    return [*done.history, *done.checks, moved]


@pytest.mark.parametrize("name", DEFENCES)
def test_processes_that_share_the_rows_train_as_one(
    make: Callable[..., Training], entries: list[Entry], name: str, tmp_path: pathlib.Path
) -> None:
    """Three of them, for batches of four: the parts are unequal. To float error, whatever form the losses have."""
    settings = SHORT.get(name, {})
    alone = curve(make(name, steps=5, **settings), entries, ALONE)
    found = forked(3, tmp_path, lambda processes: curve(make(name, steps=5, **settings), entries, processes))
    assert found[0] == found[1] == found[2]
    for here, there in zip(alone, found[0], strict=True):
        assert here.keys() == there.keys()
        assert [there[key] for key in here] == [pytest.approx(value, rel=1e-3, abs=1e-4) for value in here.values()]
    assert alone[0]["loss"] == pytest.approx(found[0][0]["loss"], rel=1e-5)
