"""Prefect's server as an ASGI application that answers to its own names only.

Prefect checks no Host header. A page in a browser here, whose name is made to point at 127.0.0.1, would be answered
as if it came from the server itself; it has no login, but it need not get that far.
"""

from __future__ import annotations

import os

from prefect.server.api.server import create_app
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp

from flows.stack.orchestration import ALLOWED_HOSTS


def application() -> ASGIApp:
    """Prefect's API and pages for the names in `ALLOWED_HOSTS` (without ports, commas between)."""
    return TrustedHostMiddleware(create_app(final=True), os.environ[ALLOWED_HOSTS].split(","), www_redirect=False)
