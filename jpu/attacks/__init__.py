"""Attacks on a model: each one file behind one small interface."""

from __future__ import annotations

from jpu.attacks.ablation import Ablation
from jpu.attacks.adaptive import Adaptive
from jpu.attacks.attacker_loop import Pair
from jpu.attacks.base import (
    Arena,
    Attack,
    Attempt,
    Budget,
    bare_attempt,
    complete,
    get_attack,
    made_attempt,
    register,
    registered,
    weights_of,
    wrapped_attempt,
)
from jpu.attacks.best_of_n import BestOfN
from jpu.attacks.campaign import Campaign, Outcome, Spent
from jpu.attacks.direct import Direct
from jpu.attacks.embedding import Embedding
from jpu.attacks.encodings import Encodings
from jpu.attacks.fuzzing import Fuzzing
from jpu.attacks.gcg import GCG
from jpu.attacks.genetic import Genetic
from jpu.attacks.many_shot import ManyShot
from jpu.attacks.multi_turn import MultiTurn
from jpu.attacks.nested import Nested
from jpu.attacks.path_evasion import PathEvasion
from jpu.attacks.prefill import Prefill
from jpu.attacks.random_search import RandomSearch
from jpu.attacks.rephrasing import Rephrasing
from jpu.attacks.static import Static
from jpu.attacks.suites import SUITES, choose_suite

for _attack in (
    Direct(),
    Static(),
    Nested(),
    BestOfN(),
    Encodings(),
    Rephrasing(),
    Prefill(),
    ManyShot(),
    MultiTurn(),
    Fuzzing(),
    Adaptive(),
    Pair(),
    GCG(),
    RandomSearch(),
    Genetic(),
    PathEvasion(),
    Embedding(),
    Ablation(),
):
    register(_attack)

__all__ = [
    "SUITES",
    "Arena",
    "Attack",
    "Attempt",
    "Budget",
    "Campaign",
    "Outcome",
    "Spent",
    "bare_attempt",
    "choose_suite",
    "complete",
    "get_attack",
    "made_attempt",
    "register",
    "registered",
    "weights_of",
    "wrapped_attempt",
]
