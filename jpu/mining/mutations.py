"""The registry of mutation operators: by name, by level and by split.

An operator belongs to exactly one split, so what mining trains on and what evaluation attacks with are
disjoint by construction. Rules, not a model, do the rewriting: they are seeded, free and the same everywhere;
they are also less varied than what an attacker's model would write.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from jpu.data.schemas import Split
from jpu.mining.operators import dress, gptfuzzer, renellm, template, wording
from jpu.mining.operators.base import Level, Operator

__all__ = ["OPERATORS", "Level", "Operator", "operator", "operators"]


def _registry(groups: Iterable[Iterable[Operator]]) -> Mapping[str, Operator]:
    found: dict[str, Operator] = {}
    for group in groups:
        for entry in group:
            if entry.name in found:
                raise ValueError(f"two mutation operators are called {entry.name!r}")
            found[entry.name] = entry
    return MappingProxyType(found)


OPERATORS: Mapping[str, Operator] = _registry(
    (gptfuzzer.OPERATORS, renellm.OPERATORS, wording.OPERATORS, dress.OPERATORS, template.OPERATORS)
)


def operator(name: str) -> Operator:
    """Look an operator up.

    Raises:
        KeyError: There is none of that name; the message lists those there are.
    """
    try:
        return OPERATORS[name]
    except KeyError:
        raise KeyError(f"no mutation operator {name!r}; there are: {', '.join(sorted(OPERATORS))}") from None


def operators(*, level: Level, split: Split | None = None) -> tuple[Operator, ...]:
    """The operators of a level, of one split or of all, in a fixed order."""
    return tuple(entry for entry in OPERATORS.values() if entry.level == level and split in (None, entry.split))
