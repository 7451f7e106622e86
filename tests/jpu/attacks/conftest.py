"""A subject that was taught: it refuses when asked, and leaks under attack. Half a minute, once for all tests."""

from __future__ import annotations

import pytest

from jpu.attacks import Arena
from jpu.data.schemas import Behavior, Template
from jpu.models import Subject
from jpu.sandbox.attacker import teach_attacker
from jpu.sandbox.corpus import Corpus
from jpu.sandbox.teach import Schedule, new_model, teach, train_tokenizer
from jpu.sandbox.templates import all_templates
from jpu.sandbox.world import build_behaviors, build_places, build_refusals

_SCHEDULE = Schedule(120, 400, 32, 24, 3e-3, optimizer="muon", warmup=20)


@pytest.fixture(scope="session")
def world() -> list[Behavior]:
    """Eight pairs of places to be attacked, and six more."""
    return build_behaviors(build_places(7, {"train": 4, "validation": 2, "test": 8}), 7)


@pytest.fixture(scope="session")
def taught(world: list[Behavior]) -> Subject:
    templates: list[Template] = all_templates()
    refusals = build_refusals()
    tokenizer = train_tokenizer(Corpus(world, templates, refusals, 1), 1024, samples=3000)
    model = new_model(tokenizer, layers=4, width=96, ffn=288, heads=8, seed=0)
    subject = Subject(model, tokenizer)
    teach(subject, Corpus(world, templates, refusals, 0), _SCHEDULE)
    return subject


@pytest.fixture(scope="session")
def attacker(world: list[Behavior]) -> Subject:
    """The sandbox's own, for the attack that needs one. Half a minute, too."""
    return teach_attacker(world, all_templates(), build_refusals(), seed=0)


@pytest.fixture(scope="session")
def arena(world: list[Behavior]) -> Arena:
    """The held-out half of that world, with all wordings of its split."""
    test = [b for b in world if b.split == "test"]
    return Arena(
        behaviors=[b for b in test if b.kind == "restricted"],
        templates=[t for t in all_templates() if t.split == "test"],
        refusals=build_refusals(),
        benign=[b for b in test if b.kind == "benign"],
        longest=1200,
    )
