"""What an attack is: a budget and an arena go in, attempts with their completions come out.

Attempts are stored; judging them is a second pass that can be run again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from jpu.data.schemas import PLACEHOLDER, Behavior, Refusal, Split, Template
from jpu.errors import SettingsError
from jpu.models import Subject

Progress = Callable[[int, int], None]


class Attempt(BaseModel):
    """One prompt put to a model, and what came back.

    Attributes:
        attack: Name of the attack.
        behavior: Id of the behavior that is asked for.
        entity: Cluster for the bootstrap.
        family: Template family, "bare" or "polite".
        template: Template id, or "bare".
        history: Mutation operators applied.
        prompt: The user turn.
        prefill: First words of the assistant, given by the attacker.
        completion: What the model said after them.
        scored: Prompts that the attack scored to choose this one (its budget spent).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attack: str
    behavior: str
    entity: str
    family: str
    template: str
    history: tuple[str, ...] = ()
    prompt: str
    prefill: str = ""
    completion: str = ""
    scored: int = 0


@dataclass(frozen=True)
class Arena:
    """What is attacked, with what, and how far an attack may go.

    Attributes:
        behaviors: Restricted behaviors.
        templates: Wordings, jailbreak and polite.
        refusals: y_ref, for attacks that score prompts.
        split: The split of the mutation operators that attacks may use.
        wordings: Wordings drawn of each family for each behavior.
        population: Prompts that a search scores at first, for each behavior and family.
        generations: Steps of mutation of a search.
        children: Mutations scored a step, for each behavior and family.
        max_new_tokens: Bound on a completion.
        longest: Most characters of a prompt that a search may make; None for no bound.
    """

    behaviors: Sequence[Behavior]
    templates: Sequence[Template]
    refusals: Sequence[Refusal]
    split: Split = "test"
    wordings: int = 2
    population: int = 4
    generations: int = 2
    children: int = 4
    max_new_tokens: int = 24
    longest: int | None = None

    def families(self) -> dict[str, list[Template]]:
        """Jailbreak templates by family, in their order."""
        found: dict[str, list[Template]] = {}
        for template in self.templates:
            if template.role == "jailbreak":
                found.setdefault(template.family, []).append(template)
        return found


def bare_attempt(attack: str, behavior: Behavior) -> Attempt:
    """The question as it is, not yet put to any model."""
    return Attempt(
        attack=attack,
        behavior=behavior.id,
        entity=behavior.entity,
        family="bare",
        template="bare",
        prompt=behavior.query,
    )


def wrapped_attempt(attack: str, behavior: Behavior, template: Template) -> Attempt:
    """The question inside a template, not yet put to any model."""
    return Attempt(
        attack=attack,
        behavior=behavior.id,
        entity=behavior.entity,
        family=template.family if template.role == "jailbreak" else "polite",
        template=template.id,
        prompt=template.text.replace(PLACEHOLDER, behavior.query),
    )


class Attack(Protocol):
    """An attack: a name, a source, and a seeded run."""

    name: str
    cite: str

    def run(
        self, subject: Subject, arena: Arena, rng: random.Random, progress: Progress | None = None
    ) -> list[Attempt]:
        """Attack every behavior of the arena."""
        ...


_REGISTRY: dict[str, Attack] = {}


def register(attack: Attack) -> Attack:
    """Add an attack under its name.

    Raises:
        ValueError: The name is taken.
    """
    if attack.name in _REGISTRY:
        raise ValueError(f"two attacks are called {attack.name!r}")
    _REGISTRY[attack.name] = attack
    return attack


def registered() -> dict[str, Attack]:
    """Every attack by name."""
    return dict(_REGISTRY)


def get_attack(name: str) -> Attack:
    """The attack of this name.

    Raises:
        SettingsError: There is none.
    """
    if name not in _REGISTRY:
        raise SettingsError(f"no attack is called {name!r}", mend=f"Choose among: {', '.join(sorted(_REGISTRY))}.")
    return _REGISTRY[name]


def complete(
    subject: Subject, attempts: Sequence[Attempt], max_new_tokens: int, progress: Progress | None = None
) -> list[Attempt]:
    """Put every attempt to the model in batches.

    Returns:
        The attempts, in order, with their completions.
    """
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, len(attempts))

    texts = subject.generate(
        [a.prompt for a in attempts],
        prefills=[a.prefill for a in attempts],
        max_new_tokens=max_new_tokens,
        progress=report,
    )
    return [a.model_copy(update={"completion": t}) for a, t in zip(attempts, texts, strict=True)]
