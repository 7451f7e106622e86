"""A webhook on a real server: what arrives, what is tried again, and what never leaves."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from tasks.notify import Delivery, notify
from tasks.sections import Webhook

QUICK = Webhook(timeout_seconds=2.0, retries=2, backoff_seconds=0.01, patience_seconds=1.0)
TOKEN = "hook-token-4711"
MESSAGE = {"text": "jpu sandbox: §4 stays", "gates": {"passed": 3}}


class Listener(ThreadingHTTPServer):
    """Answers with the statuses it is given, the last one for ever, and keeps what it was sent."""

    daemon_threads = True

    def __init__(self, *statuses: int, headers: dict[str, str] | None = None, silent: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses, self.headers, self.silent = list(statuses), headers or {}, silent
        self.received: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/services/{TOKEN}?key={TOKEN}"


class Handler(BaseHTTPRequestHandler):
    server: Listener

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        listener = self.server
        listener.received.append((self.path, dict(self.headers), body))
        time.sleep(listener.silent)
        self.send_response(listener.statuses.pop(0) if len(listener.statuses) > 1 else listener.statuses[0])
        for name, value in listener.headers.items():
            self.send_header(name, value)
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def listen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Listener]]:
    started: list[Listener] = []

    def start(*statuses: int, **options: Any) -> Listener:
        listener = Listener(*statuses, **options)
        Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        started.append(listener)
        monkeypatch.setenv("JPU_WEBHOOK", listener.address)
        return listener

    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "JPU_WEBHOOK", "JPU_WEBHOOK_SECRET"):
        monkeypatch.delenv(name, raising=False)
    yield start
    for listener in started:
        listener.shutdown()
        listener.server_close()


def test_without_an_address_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JPU_WEBHOOK", raising=False)
    assert notify(MESSAGE, QUICK) == Delivery(sent=False, tries=0, status=None, error="")
    monkeypatch.setenv("JPU_WEBHOOK", "  ")
    assert notify(MESSAGE, QUICK) == Delivery()


@pytest.mark.parametrize("status", [200, 202, 204])
def test_a_message_arrives_as_json(listen: Callable[..., Listener], status: int) -> None:
    listener = listen(status)
    assert notify(MESSAGE, QUICK) == Delivery(sent=True, tries=1, status=status)
    ((path, headers, body),) = listener.received
    assert path == f"/services/{TOKEN}?key={TOKEN}" and json.loads(body) == MESSAGE
    assert headers["Content-Type"] == "application/json" and "X-Jpu-Signature-256" not in headers


def test_the_body_is_signed_where_there_is_a_secret(
    listen: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = listen(200)
    monkeypatch.setenv("JPU_WEBHOOK_SECRET", "a shared secret")
    assert notify(MESSAGE, QUICK).sent
    _, headers, body = listener.received[0]
    wanted = hmac.new(b"a shared secret", body, hashlib.sha256).hexdigest()
    assert headers["X-Jpu-Signature-256"] == f"sha256={wanted}"
    assert b"a shared secret" not in body and "a shared secret" not in str(headers)


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_may_pass_by_is_tried_again_under_the_same_number(listen: Callable[..., Listener], status: int) -> None:
    listener = listen(status, status, 200)
    assert notify(MESSAGE, QUICK) == Delivery(sent=True, tries=3, status=200)
    assert len({headers["X-Jpu-Delivery"] for _, headers, _ in listener.received}) == 1
    notify(MESSAGE, QUICK)
    assert len({headers["X-Jpu-Delivery"] for _, headers, _ in listener.received}) == 2


def test_tries_are_bounded(listen: Callable[..., Listener]) -> None:
    listener = listen(503)
    found = notify(MESSAGE, QUICK)
    assert found == Delivery(False, 3, 503, "the webhook does not take it (status 503)")
    assert len(listener.received) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 410, 413])
def test_what_will_not_pass_by_is_not_tried_again(listen: Callable[..., Listener], status: int) -> None:
    listener = listen(status)
    assert notify(MESSAGE, QUICK) == Delivery(False, 1, status, f"the webhook does not take it (status {status})")
    assert len(listener.received) == 1


def test_a_wait_that_is_asked_for_is_kept(listen: Callable[..., Listener]) -> None:
    listen(429, 200, headers={"Retry-After": "0.3"})
    begun = time.monotonic()
    assert notify(MESSAGE, QUICK).tries == 2
    assert time.monotonic() - begun >= 0.3


def test_a_wait_that_is_too_long_is_not(listen: Callable[..., Listener]) -> None:
    listen(429, headers={"Retry-After": "3600"})
    begun = time.monotonic()
    assert notify(MESSAGE, QUICK) == Delivery(False, 1, 429, "the webhook does not take it (status 429)")
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(listen: Callable[..., Listener], status: int) -> None:
    elsewhere = listen(200)
    listener = listen(status, headers={"Location": elsewhere.address})
    found = notify(MESSAGE, QUICK)
    assert found == Delivery(
        False, 1, status, f"the webhook sends on to another address (status {status}); none is followed"
    )
    assert len(listener.received) == 1 and elsewhere.received == []


def test_silence_and_absence_are_reported(listen: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch) -> None:
    listen(200, silent=0.5)
    hasty = QUICK.model_copy(update={"timeout_seconds": 0.1, "retries": 1})
    assert notify(MESSAGE, hasty) == Delivery(False, 2, None, "no reply in time")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        monkeypatch.setenv("JPU_WEBHOOK", f"http://127.0.0.1:{held.getsockname()[1]}/{TOKEN}")
        assert notify(MESSAGE, QUICK) == Delivery(False, 3, None, "no connection")


def test_a_server_that_hangs_up_is_reported(monkeypatch: pytest.MonkeyPatch, listen: Callable[..., Listener]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            for _ in range(3):
                server.accept()[0].close()

        Thread(target=hang_up, daemon=True).start()
        monkeypatch.setenv("JPU_WEBHOOK", f"http://127.0.0.1:{server.getsockname()[1]}/{TOKEN}")
        assert notify(MESSAGE, QUICK) == Delivery(False, 3, None, "the connection broke")


@pytest.mark.parametrize("address", [f"ftp://host/{TOKEN}", f"file:///{TOKEN}", f"host/{TOKEN}", "http://", TOKEN])
def test_an_address_that_cannot_be_used_is_reported(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("JPU_WEBHOOK", address)
    assert notify(MESSAGE, QUICK) == Delivery(error="JPU_WEBHOOK is no http or https address")


@pytest.mark.parametrize(
    ("address", "message", "error"),
    [
        (f"http://127.0.0.1:{TOKEN}/", MESSAGE, "not sent (InvalidURL)"),
        ("http://127.0.0.1:1/", {"kl": float("nan")}, "not sent (ValueError)"),
        ("http://127.0.0.1:1/", {"kl": object()}, "not sent (TypeError)"),
    ],
)
def test_nothing_is_raised(monkeypatch: pytest.MonkeyPatch, address: str, message: dict[str, Any], error: str) -> None:
    monkeypatch.setenv("JPU_WEBHOOK", address)
    assert notify(message, QUICK) == Delivery(error=error)


@pytest.mark.parametrize("status", [200, 302, 404, 503])
def test_the_address_is_in_no_log_and_no_report(
    listen: Callable[..., Listener], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("JPU_WEBHOOK_SECRET", "a shared secret")
    listen(status)
    with caplog.at_level(logging.DEBUG):
        found = notify(MESSAGE, QUICK)
    assert any(record.name.startswith("httpcore") for record in caplog.records)
    assert TOKEN not in caplog.text and TOKEN not in repr(found)
    assert "a shared secret" not in caplog.text + repr(found)


def test_other_requests_are_still_logged(
    listen: Callable[..., Listener], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx

    listener = listen(200)
    notify(MESSAGE, QUICK)
    with caplog.at_level(logging.INFO):
        httpx.post(listener.address, content=b"")
    assert TOKEN in caplog.text
