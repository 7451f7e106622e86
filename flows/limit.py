"""One run at a time on all machines that share a Prefect server: a global concurrency limit of one slot.

A lock file (flows/alone.py) keeps runs of one working tree apart, and is free the moment that its holder dies. A slot
is leased: it is free again `LEASE` seconds after its holder was last heard of. So a run that finds it taken waits that
long, and then knows that the other one lives.

Only on a server that stays: one that a command starts for itself has one working tree, and ends with its leases.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from flows.own_servers import stays
from jpu.errors import InfrastructureError

# Seconds. Prefect's client renews a lease after three quarters of it.
LEASE = 120.0
_PATIENCE = LEASE + 30.0


@contextmanager
def one_everywhere(name: str) -> Iterator[None]:
    """Hold the only slot of a limit; the limit is made where there is none.

    The body goes on where the lease is lost: what it moves, it moves only from where it saw it.

    Raises:
        InfrastructureError: Another run holds it, and lives.
    """
    with ExitStack() as stack:
        if stays():
            _make(name)
            slot = concurrency(
                name,
                timeout_seconds=_PATIENCE,
                lease_duration=LEASE,
                strict=True,
                raise_on_lease_renewal_failure=False,
            )
            try:
                stack.enter_context(slot)
            except TimeoutError:
                raise InfrastructureError(
                    "another run is under way, here or on another machine",
                    where=f"Prefect's concurrency limit {name}",
                    mend="Wait for it to end. `prefect gcl inspect` shows the limit.",
                ) from None
        yield


def _make(name: str) -> None:
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            try:
                client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
            except ObjectAlreadyExists:
                # Another run made it in between.
                return
