"""How the process of a command ends where its Prefect server has ended before it.

A service manager ends all processes at once, the server too. What Prefect's services could not send then keeps Python
from leaving, for many seconds an event, and is lost in any case.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress

_given_up = False


def give_up() -> None:
    """Do not wait at the exit of this process for what Prefect still holds."""
    global _given_up
    _given_up = True


def leave(command: Callable[[], object]) -> None:
    """Call `command` and end as it does; at once after `give_up`, with all that was printed written out."""
    try:
        command()
    except SystemExit as end:
        if not _given_up or not isinstance(end.code, int):
            raise
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(end.code)
