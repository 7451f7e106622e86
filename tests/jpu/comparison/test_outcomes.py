from __future__ import annotations

from jpu.attacks import Attempt
from jpu.comparison.after_attacks import steps_to
from jpu.comparison.outcomes import Entities, attack_outcomes, utility_outcomes
from jpu.data.schemas import Behavior
from jpu.evaluation.judged import Judged
from jpu.evaluation.rates import Bootstrap, attack_rates, utility_rates
from jpu.judges import Verdict


def judged(attack: str, behavior: str, entity: str, what: str, kind: str = "restricted") -> Judged:
    verdict = Verdict(
        leaked=what == "answered" and kind == "restricted",
        refused=what == "refused",
        incoherent=what == "incoherent",
        answered=what == "answered",
    )
    attempt = Attempt(attack=attack, behavior=behavior, entity=entity, family="f", template="t", prompt="p")
    return Judged(attempt, kind, verdict)


# Two behaviors on one place, one on another.
ATTACKED = {
    "direct": [judged("direct", "z1", "Zoruk", "refused"), judged("direct", "m1", "Melan", "answered")],
    "static": [
        judged("static", "z1", "Zoruk", "answered"),
        judged("static", "z2", "Zoruk", "refused"),
        judged("static", "z2", "Zoruk", "answered"),
        judged("static", "m1", "Melan", "refused"),
    ],
    "best_of_n": [
        judged("best_of_n", "z1", "Zoruk", "refused"),
        judged("best_of_n", "z1", "Zoruk", "answered"),
        judged("best_of_n", "z2", "Zoruk", "refused"),
        judged("best_of_n", "m1", "Melan", "refused"),
    ],
}
PROBES = [
    judged("probe_bare", "t1", "Tivor", "answered", "benign"),
    judged("probe_wrapped", "t1", "Tivor", "refused", "benign"),
    judged("probe_wrapped", "t1", "Tivor", "answered", "benign"),
    judged("probe_bare", "z3", "Zoruk", "incoherent", "near_miss"),
    judged("probe_wrapped", "z3", "Zoruk", "answered", "near_miss"),
    judged("probe_bare", "hi", "hi", "refused", "generic"),
]
ENTITIES = Entities(("Melan", "Zoruk"), ("Tivor", "Zoruk", "hi"))


def test_prompts_are_counted_where_the_attack_counts_prompts_and_else_behaviors() -> None:
    found = attack_outcomes(ATTACKED, ENTITIES)
    assert (found["asr_static"].k, found["asr_static"].n) == ((0, 2), (1, 3))
    assert (found["asr_best_of_n"].k, found["asr_best_of_n"].n) == ((0, 1), (1, 2))
    # z1 and z2 fell to something, m1 to the direct question.
    assert (found["asr_union"].k, found["asr_union"].n) == ((1, 2), (1, 2))


def test_the_shares_are_those_of_the_evaluation() -> None:
    """Counted by another piece of code (`jpu.evaluation.rates`), the same shares."""
    found = attack_outcomes(ATTACKED, ENTITIES) | utility_outcomes(PROBES, ATTACKED, ENTITIES)
    bootstrap = Bootstrap(0, 100)
    rates = attack_rates(ATTACKED, bootstrap) | utility_rates(PROBES, ATTACKED, bootstrap)
    assert len(found) == 11
    for name, outcome in found.items():
        known = rates[name]
        assert known is not None and outcome.rate == known.value and sum(outcome.n) == known.n, name


def test_entities_are_in_one_order_whatever_order_they_come_in() -> None:
    def behavior(name: str, kind: str) -> Behavior:
        return Behavior(
            id=f"{name}-{kind}", entity=name, kind=kind, query="q", answer="a", secret="a", split="test", source="t"
        )

    behaviors = [behavior("Zoruk", "restricted"), behavior("Zoruk", "near_miss"), behavior("Melan", "benign")]
    assert Entities.of(behaviors) == Entities.of(behaviors[::-1]) == Entities(("Zoruk",), ("Melan", "Zoruk"))


def test_steps_are_read_off_the_line_between_two_measurements() -> None:
    assert steps_to([(0, 0.0), (4, 0.25), (8, 0.75)], 0.5) == 6.0
    assert steps_to([(0, 0.5), (4, 0.9)], 0.5) == 0.0
    assert steps_to([(0, 0.1), (1, 0.6)], 0.5) == 0.8
    assert steps_to([(0, 0.1), (32, 0.4)], 0.5) is None
    # Down again before it gets there: what counts is the first crossing.
    assert steps_to([(0, 0.1), (2, 0.3), (4, 0.1), (8, 0.9)], 0.5) == 6.0
