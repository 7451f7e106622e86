"""How long a server is waited for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Patience:
    """Bounds of one request.

    Attributes:
        connect: Seconds for a connection to be made.
        answer: Seconds that the server may be silent.
        attempts: Tries in all, with growing pauses between them.
    """

    connect: float = 5.0
    answer: float = 30.0
    attempts: int = 5
