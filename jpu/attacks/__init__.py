"""Attacks on a subject: each one file behind one small interface."""

from jpu.attacks.adaptive import Adaptive
from jpu.attacks.base import Arena, Attack, Attempt, complete, get_attack, register, registered
from jpu.attacks.direct import Direct
from jpu.attacks.prefill import Prefill
from jpu.attacks.static import Static

for _attack in (Direct(), Static(), Adaptive(), Prefill()):
    register(_attack)

__all__ = ["Arena", "Attack", "Attempt", "complete", "get_attack", "register", "registered"]
