"""Which attacks belong together, and what each may spend on a behavior.

`full` is every attack; `quick` those that take seconds, which `make harden` measures with. The budgets are the sandbox
subject's: a larger model wants more of them, or fewer behaviors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from jpu.attacks.base import Budget, get_attack, registered
from jpu.errors import SettingsError

SUITES: Mapping[str, Mapping[str, Budget]] = MappingProxyType(
    {
        "quick": {
            "direct": Budget(3),
            "static": Budget(12),
            "best_of_n": Budget(32),
            "encodings": Budget(12),
            "rephrasing": Budget(16),
            "prefill": Budget(7),
            "adaptive": Budget(78),
        },
        "full": {
            "direct": Budget(3),
            "static": Budget(12),
            "nested": Budget(12),
            "best_of_n": Budget(100),
            "encodings": Budget(12),
            "rephrasing": Budget(16),
            "prefill": Budget(7),
            "many_shot": Budget(7),
            "multi_turn": Budget(16),
            "fuzzing": Budget(12),
            "adaptive": Budget(78),
            "pair": Budget(20),
            "gcg": Budget(900),
            "random_search": Budget(900),
            "genetic": Budget(300, behaviors=16),
            "path_evasion": Budget(72, behaviors=8),
            "embedding": Budget(32, behaviors=16),
            "ablation": Budget(16),
        },
    }
)


def choose_suite(
    names: Sequence[str], *, budgets: Mapping[str, Budget] | None = None, scale: float = 1.0
) -> dict[str, Budget]:
    """Attacks and budgets by the names of suites and attacks.

    Args:
        names: Suites and attacks, in any mixture; an attack named by itself has its budget of `full`.
        budgets: Budgets that take the place of those of the suites.
        scale: Factor of every number of queries, for a deeper or a shallower look; no attack gets less than it needs.

    Raises:
        SettingsError: There is no suite or attack of a name, or a budget for an attack that is not asked for.
    """
    chosen: dict[str, Budget] = {}
    for name in names:
        if name in SUITES:
            chosen |= {attack: chosen.get(attack, budget) for attack, budget in SUITES[name].items()}
        elif name in SUITES["full"]:
            chosen[name] = SUITES["full"][name]
        else:
            known = ", ".join([*SUITES, *sorted(registered())])
            raise SettingsError(f"no suite or attack is called {name!r}", mend=f"Choose among: {known}.")
    unknown = sorted(set(budgets or {}) - set(chosen))
    if unknown:
        raise SettingsError(
            f"a budget for {unknown[0]!r}, which is not among the attacks that are asked for",
            mend=f"Leave it out, or ask for the attack; asked for are: {', '.join(chosen)}.",
        )
    chosen |= budgets or {}
    return {
        name: replace(b, queries=max(get_attack(name).least, round(b.queries * scale))) for name, b in chosen.items()
    }
