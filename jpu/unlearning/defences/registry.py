"""The registry of defences, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from jpu.errors import SettingsError
from jpu.unlearning.defences.adaptive_rmu import AdaptiveRmu
from jpu.unlearning.defences.base import Defence
from jpu.unlearning.defences.circuit_breakers import CircuitBreakers
from jpu.unlearning.defences.dpo import Dpo
from jpu.unlearning.defences.eraser import Eraser
from jpu.unlearning.defences.gradient_difference import GradientDifference
from jpu.unlearning.defences.jpu import JPU
from jpu.unlearning.defences.lat import Lat
from jpu.unlearning.defences.npo import Npo
from jpu.unlearning.defences.refusal_sft import RefusalSft
from jpu.unlearning.defences.rmu import Rmu
from jpu.unlearning.defences.safe_unlearning import SafeUnlearning


def registry(defences: Iterable[type[Defence[Any]]]) -> Mapping[str, type[Defence[Any]]]:
    """Name → class. Raises ValueError where two have one name."""
    found: dict[str, type[Defence[Any]]] = {}
    for defence in defences:
        if defence.name in found:
            raise ValueError(f"two defences are called {defence.name!r}")
        found[defence.name] = defence
    return MappingProxyType(found)


DEFENCES = registry(
    (
        JPU,
        RefusalSft,
        GradientDifference,
        Npo,
        Dpo,
        Eraser,
        SafeUnlearning,
        Rmu,
        AdaptiveRmu,
        CircuitBreakers,
        Lat,
    )
)


def get_defence(name: str) -> type[Defence[Any]]:
    """Look a defence up.

    Raises:
        SettingsError: There is none of that name.
    """
    if name not in DEFENCES:
        raise SettingsError(
            f"no defence {name!r}", where="unlearning.defence", mend=f"There are: {', '.join(sorted(DEFENCES))}."
        )
    return DEFENCES[name]
