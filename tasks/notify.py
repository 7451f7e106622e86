"""Tell a webhook how a run ended: one POST of JSON, tried again where that may help. Never stops the run.

The address is read from JPU_WEBHOOK in the environment and nowhere else, since it may hold a secret: it is in no
message, no log line and no setting. With JPU_WEBHOOK_SECRET the body is signed: X-Jpu-Signature-256 is `sha256=` and
the HMAC-SHA256 of the body, in hex. X-Jpu-Delivery is the same for all tries of one message, for who receives it twice.

Follows no redirect: what is posted goes to the host that was named. Reads no reply but its status.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import random
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.sections import Webhook

if TYPE_CHECKING:
    import httpx

ADDRESS, SECRET = "JPU_WEBHOOK", "JPU_WEBHOOK_SECRET"


@dataclass(frozen=True)
class Delivery:
    """What became of a message.

    Attributes:
        sent: Whether the webhook took it.
        tries: How often it was posted; 0 where no address is set, or none that can be used.
        status: The last HTTP status, None where there was none.
        error: Why it was not taken, without the address; "" where it was, or where there is nobody to tell.
    """

    sent: bool = False
    tries: int = 0
    status: int | None = None
    error: str = ""


def notify(message: Mapping[str, Any], settings: Webhook, *, chance: random.Random | None = None) -> Delivery:
    """Post a message, if there is an address to post it to.

    Args:
        message: What to say, ready for JSON.
        settings: How long and how often to try.
        chance: Source of the jitter of the waits.

    Returns:
        What became of it. Never raises: a run that went well must not fail for want of a listener.
    """
    address = os.environ.get(ADDRESS, "").strip()
    if not address:
        return Delivery()
    try:
        return _post(address, message, settings, chance or random.Random())
    except Exception as error:
        # Whatever it is, the run goes on; the message might quote the address, so only the kind of error is told.
        return Delivery(error=f"not sent ({type(error).__name__})")


def _post(address: str, message: Mapping[str, Any], settings: Webhook, chance: random.Random) -> Delivery:
    import httpx

    # Late: it comes with PyTorch.
    from jpu.retries import backoff, passes_by, retry_after

    url = httpx.URL(address)
    if url.scheme not in ("http", "https") or not url.host:
        return Delivery(error=f"{ADDRESS} is no http or https address")
    body = json.dumps(message, ensure_ascii=False, allow_nan=False, sort_keys=True).encode()
    headers = _headers(body)
    tries, found = 0, Delivery()
    with _unlogged(url), httpx.Client(timeout=settings.timeout_seconds, follow_redirects=False) as client:
        while True:
            tries += 1
            wait = 0.0
            try:
                # The body of the reply is not read: it may be of any size.
                with client.stream("POST", url, content=body, headers=headers) as reply:
                    status = reply.status_code
                    wait = retry_after(reply.headers.get("Retry-After"))
                if 200 <= status < 300:
                    return Delivery(True, tries, status)
                found = Delivery(False, tries, status, _refusal(status))
                if not passes_by(status) or wait > settings.patience_seconds:
                    return found
            except httpx.TransportError as error:
                found = Delivery(False, tries, None, _trouble(error))
            if tries > settings.retries:
                return found
            time.sleep(max(wait, backoff(tries, settings.backoff_seconds, chance)))


def _headers(body: bytes) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "User-Agent": "jpu", "X-Jpu-Delivery": str(uuid.uuid4())}
    secret = os.environ.get(SECRET, "").strip()
    if secret:
        digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        headers["X-Jpu-Signature-256"] = f"sha256={digest}"
    return headers


def _refusal(status: int) -> str:
    if 300 <= status < 400:
        return f"the webhook sends on to another address (status {status}); none is followed"
    return f"the webhook does not take it (status {status})"


def _trouble(error: httpx.TransportError) -> str:
    import httpx

    if isinstance(error, httpx.TimeoutException):
        return "no reply in time"
    return "no connection" if isinstance(error, httpx.ConnectError) else "the connection broke"


@contextmanager
def _unlogged(url: httpx.URL) -> Iterator[None]:
    """Keep the address out of httpx's own log, which names it in every line."""

    def elsewhere(record: logging.LogRecord) -> bool:
        return str(url) not in record.getMessage()

    log = logging.getLogger("httpx")
    log.addFilter(elsewhere)
    try:
        yield
    finally:
        log.removeFilter(elsewhere)
