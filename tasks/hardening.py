"""A defence around a subject: what it is made from, and the entries that it trains on. Reads and writes no file."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jpu.data.schemas import Split
from jpu.mining.buffer import Buffer
from jpu.mining.entry import Entry
from jpu.mining.own import noise
from jpu.models import Subject
from jpu.paths.path import Path as JailbreakPath
from jpu.paths.path import Units
from jpu.processes import ALONE, Processes
from jpu.rows import undivided
from jpu.spread import Spread
from jpu.unlearning.adapter import adapter_factors, adapter_path, attach, detach
from jpu.unlearning.anchors import compute_anchors, own_refusals
from jpu.unlearning.defences.base import Defence, Materials
from jpu.unlearning.defences.registry import get_defence
from jpu.unlearning.defences.settings import DefenceSettings, JpuSettings, Weights
from jpu.unlearning.exposures import make_exposures
from jpu.unlearning.leaks import split_leak
from jpu.unlearning.mined import Mined
from jpu.unlearning.retain import ReferenceDistribution, RetainMix, answered_by_reference, build_retain
from jpu.unlearning.trained import Trained
from jpu.unlearning.training import Schedule, Training
from tasks.attribution import searched
from tasks.layout import Prepared
from tasks.mining import Miner
from tasks.sections import PathsSettings, UnlearningSettings

# Wordings of noise in a retain set: about as many as a family of templates has.
_NOISES = 12


# What is known under a key, or else made now.
Retained = Callable[[object, Callable[[], ReferenceDistribution]], ReferenceDistribution]


class Stretches:
    """The entries of a training, mined anew at each stretch, or once for all.

    Args:
        miner: Mines against the subject as it is; its buffer grows.
        batch: Entries that the round begins with.
        round: Number of the round.
        seed: Of the minings.
        frozen: Whether the first mining is the last.
        over: Processes that share the scoring.
    """

    def __init__(
        self,
        miner: Miner,
        batch: Sequence[Entry],
        round: int,
        seed: str,
        *,
        frozen: bool = False,
        over: Spread[Subject] | None = None,
    ) -> None:
        self.miner, self.round, self.seed, self.frozen, self.over = miner, round, seed, frozen, over
        self.seen = {e.id: e for e in batch}
        self.rate = 0.0
        for entry in batch:
            miner.buffer.add(entry)

    def refresh(self, number: int) -> Mined:
        """Mine for a stretch, and give the entries that it draws from."""
        if number == 0 or not self.frozen:
            rng = random.Random(f"unlearn-{self.seed}-{number}")
            mined = self.miner.mine(self.round, rng, number + 1, self.over)
            self.seen.update({e.id: e for e in mined.entries})
            self.rate = mined.fresh.rate
        live = self.miner.buffer.parents(self.miner.calibration.tau)
        self.seen.update({e.id: e for e in live})
        return Mined(live, [self.seen[i] for i in sorted(self.seen)], self.rate)

    def carry(self) -> dict[str, Any]:
        """State to keep with a checkpoint, as JSON."""
        return {
            "buffer": [e.model_dump(mode="json") for e in self.miner.buffer],
            "seen": [e.model_dump(mode="json") for e in self.seen.values()],
            "rate": self.rate,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `carry` gave."""
        limits = self.miner.section
        self.miner.buffer = Buffer(limits.capacity, limits.quota_per_template, limits.low_visits)
        for fields in state["buffer"]:
            self.miner.buffer.add(Entry.model_validate(fields))
        self.seen = {e.id: e for e in map(Entry.model_validate, state["seen"])}
        self.rate = float(state["rate"])


class PathAnew:
    """Finds the path at each stretch, and joins it to the trained one.

    Args:
        subject: Adapted.
        data: The train split.
        paths: How paths are searched.
        trained: What is trained.
        seed: Of the choice of prompts.
        defence: Makes the defence on the neurons of a path.
    """

    def __init__(
        self,
        subject: Subject,
        data: Prepared,
        paths: PathsSettings,
        trained: Trained,
        seed: str,
        defence: Callable[[Units], Defence[Any]],
    ) -> None:
        self.subject, self.data, self.paths = subject, data, paths
        self.trained, self.seed, self.defence = trained, seed, defence

    def find(self, mined: Mined, number: int) -> JailbreakPath:
        """From what gets through now, or, where nothing does, from all that was tried."""
        rng = random.Random(f"identify-{self.seed}-stretch-{number}")
        entries = mined.live or mined.scored
        # It calls layers by themselves.
        with undivided(self.subject.base):
            return searched(self.subject, self.data, entries, self.paths, number, rng).path

    def adopt(self, path: JailbreakPath) -> Defence[Any]:
        """Attach again with the units of both."""
        bare, factors = detach(self.subject.model)
        self.subject.model = attach(bare, path, self.trained, previous=factors)
        return self.defence(path_neurons(self.subject, self.trained, path))


def path_neurons(subject: Subject, trained: Trained, path: JailbreakPath) -> Units:
    """Neurons that are rectified: those of the adapter, earlier rounds' among them, or, if none move, the path's."""
    return adapter_path(adapter_factors(subject.model)).neurons if trained.path else path.neurons


def trained_part(section: UnlearningSettings, layers: int) -> Trained:
    """What the settings, or else the defence's paper, train of a model of so many layers."""
    if section.trained is None:
        return get_defence(section.defence.name).trained(layers, section.defence)
    return Trained(**section.trained.model_dump())


def adapt(
    subject: Subject, path: JailbreakPath, section: UnlearningSettings, *, previous: Path | None = None, seed: int = 0
) -> None:
    """Put the adapter that is trained on a bare subject, joined with that of the round before."""
    trained = trained_part(section, len(subject.layers))
    subject.model = attach(subject.model, path, trained, previous=previous, seed=seed)


def build(
    subject: Subject,
    prepared: Prepared,
    miner: Miner,
    section: UnlearningSettings,
    seed: str,
    path: JailbreakPath,
    paths: PathsSettings,
    retained: Retained | None = None,
    processes: Processes = ALONE,
) -> Training:
    """A training of the settings' defence.

    Args:
        subject: Adapted, and about to be trained.
        prepared: The data; its train split is trained on, the validation split holds the utility budget.
        miner: Open on the train split.
        section: Settings.
        seed: Of every draw.
        path: The identified path; where it is trained, the path of earlier rounds joins it.
        paths: How paths are searched, where `section.reidentify` asks for it.
        retained: Keeps what M_0 says on a retain set from one training of this subject to the next.
        processes: Those that train together.
    """
    data, held_out = prepared.split("train"), prepared.split("validation")
    trained = trained_part(section, len(subject.layers))
    behaviors = answered_by_reference(subject, data.behaviors)
    restricted = [b for b in behaviors if b.kind == "restricted"]
    refusals = own_refusals(subject, restricted, data.refusal_texts)
    mix = RetainMix(**section.retain.model_dump())

    def retain(part: Prepared, refused: dict[str, str], size: int, name: Split) -> ReferenceDistribution:
        def make() -> ReferenceDistribution:
            rng = random.Random(f"retain-{name}-{seed}")
            answered = answered_by_reference(subject, part.behaviors)
            around = [*part.templates, *noise(miner.pieces, _NOISES, name, rng)]
            return ReferenceDistribution(subject, build_retain(answered, around, refused, size, mix, rng))

        return retained((name, seed, size, mix, frozenset(refused.items())), make) if retained else make()

    kind = get_defence(section.defence.name)
    leaks = {b.id: split_leak(subject, b.answer, b.secret) for b in restricted}
    told = [b for b in behaviors if b.kind in ("benign", "near_miss") and b.answer]
    known = {b: r for b, r in refusals.items() if b in set(miner.refused)}
    asked = [b for b in restricted if b.id in known]
    others = own_refusals(subject, held_out.restricted, data.refusal_texts) if held_out.restricted else {}
    positions = section.positions
    if positions == "all":
        positions = max(len(subject.answer_ids(text)) for text in refusals.values())
    openings = {b.id: leaks[b.id].opening for b in asked}
    materials = Materials(
        subject=subject,
        refusals=refusals,
        retain=retain(data, known, section.retain_pairs, "train"),
        batch=section.batch,
        retain_batch=section.retain_batch,
        seed=seed,
        leaks=leaks,
        exposures=make_exposures(subject, asked, known, told, openings) if "exposures" in kind.needs else (),
    )

    def defence(neurons: Units) -> Defence[Any]:
        anchors = None
        if "anchors" in kind.needs:
            anchors = compute_anchors(subject, restricted, refusals, miner.refused, neurons, positions)
        return kind(replace(materials, neurons=neurons, anchors=anchors), settings_of(section, positions))

    return Training(
        subject,
        defence(path_neurons(subject, trained, path)),
        retain(held_out, others, section.held_out_pairs, "validation"),
        Schedule(
            steps=section.steps,
            learning_rate=section.learning_rate,
            warmup=section.warmup,
            clip=section.clip,
            refresh_every=section.refresh_every,
            kl_budget=section.kl_budget,
            rollbacks=section.rollbacks,
            conflict=section.conflict,
            gradient_checkpointing=section.gradient_checkpointing,
        ),
        seed,
        PathAnew(subject, data, paths, trained, seed, defence) if section.reidentify else None,
        processes,
    )


def settings_of(section: UnlearningSettings, positions: int) -> DefenceSettings:
    """The defence's settings; JPU's numbers stand beside its name in params.yaml."""
    if section.defence.name != "jpu":
        return section.defence
    return JpuSettings(
        **section.defence.model_dump(),
        positions=positions,
        prefill_batch=section.prefill_batch,
        exposure_batch=section.exposure_batch,
        exposures_a_step=section.exposures_a_step,
        weights=Weights(**section.weights.model_dump()),
        exposures=section.exposures.model_dump(),
    )
