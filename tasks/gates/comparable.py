"""Whether two measurements mean the same: measured alike, on as many questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jpu.evaluation.names import name_of
from tasks.gates.verdict import Gate
from tasks.gates.wording import listed
from tasks.measurement import Measurement
from tasks.sections import Tolerances

# Of the protocol, what tells the two models apart.
_MODEL = ("model.adapter", "model.adapter_name", "model.name")


def comparable(champion: Measurement, challenger: Measurement) -> Gate:
    """The gate before all that compare: protocols equal but for the adapter, and every figure of as many questions."""
    protocols = [dict(_leaves(side.protocol)) for side in (champion, challenger)]
    differing = [
        key
        for key in dict.fromkeys((*protocols[0], *protocols[1]))
        if key not in _MODEL and protocols[0].get(key) != protocols[1].get(key)
    ]
    shares = [key for key in Tolerances.model_fields if name_of(key).unit == "rate"]
    # Not everything that an evaluation depends on is in the protocol; that it asked as many questions can be seen.
    counted = [key for key in (*challenger.attacks, *shares) if _count(champion, challenger, key)]
    if not all(protocols):
        found = "the protocol of one of them is not known"
    elif differing:
        found = "not measured alike: " + listed(differing)
    elif counted:
        found = "not measured on as many questions: " + listed(sorted(counted))
    else:
        return Gate(name="comparable", passed=True, sentence="same base model, data, suite, budgets, seed and code")
    return Gate(name="comparable", passed=False, sentence=found)


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _count(champion: Measurement, challenger: Measurement, key: str) -> bool:
    """Whether both have the figure, and not of as many observations."""
    one, other = champion.figure(key), challenger.figure(key)
    return one is not None and other is not None and one.n != other.n
