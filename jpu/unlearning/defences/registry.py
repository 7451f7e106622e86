"""The registry of defences, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from jpu.errors import SettingsError
from jpu.unlearning.defences.base import Defence
from jpu.unlearning.defences.jpu import JPU


def registry(defences: Iterable[type[Defence[Any]]]) -> Mapping[str, type[Defence[Any]]]:
    """Name → class. Raises ValueError where two have one name."""
    found: dict[str, type[Defence[Any]]] = {}
    for defence in defences:
        if defence.name in found:
            raise ValueError(f"two defences are called {defence.name!r}")
        found[defence.name] = defence
    return MappingProxyType(found)


DEFENCES = registry((JPU,))


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
