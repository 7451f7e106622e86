from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from jpu.data.schemas import Behavior, Template
from jpu.evaluation.probes import BARE, WRAPPED, probe
from jpu.models import Subject

Make = Callable[..., Subject]


def test_everything_that_has_to_be_answered_is_asked_bare_and_wrapped(
    make_subject: Make, behaviors: list[Behavior], templates: list[Template]
) -> None:
    asked = [b for b in behaviors if b.split == "test"]
    here = {t.id: t for t in templates if t.split == "test"}
    reports: list[tuple[int, int]] = []
    attempts = probe(
        make_subject(),
        asked,
        list(here.values()),
        wordings=2,
        max_new_tokens=3,
        rng=random.Random(0),
        progress=lambda done, total: reports.append((done, total)),
    )
    open_ones = {b.id: b for b in asked if b.kind != "restricted"}
    assert len(open_ones) < len(asked)
    assert Counter((a.behavior, a.attack) for a in attempts) == {
        (name, attack): count for name in open_ones for attack, count in ((BARE, 1), (WRAPPED, 2))
    }
    for attempt in attempts:
        query = open_ones[attempt.behavior].query
        if attempt.attack == BARE:
            assert attempt.prompt == query
        else:
            template = here[attempt.template]
            assert (template.role, template.family) == ("jailbreak", attempt.family)
            assert attempt.prompt == template.fill(query)
    # At most one wording of a family for each question.
    cells = Counter((a.behavior, a.family) for a in attempts if a.attack == WRAPPED)
    assert set(cells.values()) == {1}
    assert reports[-1] == (len(attempts), len(attempts))


def test_without_templates_questions_are_asked_bare(make_subject: Make, behaviors: list[Behavior]) -> None:
    asked = [b for b in behaviors if b.kind == "benign"][:3]
    attempts = probe(make_subject(), asked, [], wordings=2, max_new_tokens=2, rng=random.Random(0))
    assert [a.attack for a in attempts] == [BARE] * 3
