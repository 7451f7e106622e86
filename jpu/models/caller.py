"""One request to a chat-completions server: sent with its key, tried again where that may help, its failure told.

The key is read from the environment when it is sent and is kept nowhere else: not in an object, an error or a log line.
"""

from __future__ import annotations

import os
import random
import threading
import time
from dataclasses import dataclass
from typing import Any

import httpx

from jpu.errors import InfrastructureError, JpuError, ModelError, SettingsError
from jpu.models.replies import filtered, named, read_reply
from jpu.retries import backoff, passes_by, retry_after

_LARGEST_REPLY = 8 * 1024**2


@dataclass(frozen=True)
class _Trouble:
    """A try that failed: with what, whether another may do better, and how long the server asks to wait for it."""

    error: JpuError
    passing: bool = False
    wait: float = 0.0


@dataclass(frozen=True)
class Caller:
    """Asks one server for completions.

    Attributes:
        address: Address of the server, up to and with the version.
        model: The model's name on it, for messages.
        key_variable: Environment variable that holds the API key.
        timeout: Seconds that one try may take, from the request to the end of its reply.
        retries: Further tries after one that failed in a way that may pass by.
        first_backoff: Longest wait before the second try, in seconds; doubled for each one after it.
        patience: Longest wait that a server may ask for, in seconds; one that asks for more is given up.
    """

    address: str
    model: str
    key_variable: str
    timeout: float
    retries: int
    first_backoff: float
    patience: float

    def headers(self) -> dict[str, str]:
        """Headers of every request, the key among them where there is one.

        Raises:
            SettingsError: The key cannot be sent in a header.
        """
        # Packed replies could unpack to far more than the bound on their size.
        headers = {"Accept-Encoding": "identity"}
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            return headers
        if not (key.isascii() and key.isprintable()):
            raise SettingsError(
                "the API key holds characters that cannot be sent",
                where=self.key_variable,
                mend="Set the variable to the key alone.",
            )
        return {**headers, "Authorization": f"Bearer {key}"}

    def ask(self, client: httpx.Client, body: dict[str, Any], chance: random.Random, stop: threading.Event) -> str:
        """One completion.

        Args:
            client: With the headers above.
            body: The request.
            chance: Source of the jitter of the waits.
            stop: Set by the first request that fails for good: the others end then, with "", which nobody reads.

        Raises:
            SettingsError: The key is missing or not accepted.
            ModelError: What is asked is not there, or what comes back is no completion.
            InfrastructureError: The server cannot be reached or keeps failing.
        """
        tries = 0
        while not stop.is_set():
            tries += 1
            found = self._try(client, body)
            if isinstance(found, str):
                return found
            if not found.passing or tries > self.retries or found.wait > self.patience:
                stop.set()
                raise found.error
            stop.wait(max(found.wait, backoff(tries, self.first_backoff, chance)))
        return ""

    def _try(self, client: httpx.Client, body: dict[str, Any]) -> str | _Trouble:
        """One request: the completion, or what went wrong."""
        deadline = time.monotonic() + self.timeout
        data = bytearray()
        try:
            with client.stream("POST", f"{self.address}/chat/completions", json=body) as response:
                for chunk in response.iter_bytes():
                    data += chunk
                    if len(data) > _LARGEST_REPLY:
                        return _Trouble(
                            ModelError(
                                f"the server's reply is larger than {_LARGEST_REPLY >> 20} MiB",
                                where=self.address,
                                mend="Check that the address is that of an OpenAI-compatible server.",
                            )
                        )
                    # The client's own timeouts are for silence; a server that drips would never run into them.
                    if time.monotonic() > deadline:
                        return self._passing(f"no whole reply in {self.timeout:g} s")
        except httpx.TimeoutException:
            return self._passing(f"no reply in {self.timeout:g} s")
        except httpx.ConnectError as error:
            return self._passing(f"no connection ({str(error)[:120] or 'refused'})")
        except httpx.HTTPError as error:
            return self._passing(f"the connection broke ({type(error).__name__})")
        if response.status_code != 200:
            return self._refused(response, bytes(data))
        try:
            return read_reply(bytes(data), where=self.address)
        except ModelError as error:
            return _Trouble(error)

    def _passing(self, what: str, wait: float = 0.0) -> _Trouble:
        if wait > self.patience:
            what += f"; it asks to wait {wait:.0f} s"
        mend = "Check that the server runs and can be reached, or run again later, with less concurrency."
        return _Trouble(InfrastructureError(what, where=self.address, mend=mend), passing=True, wait=wait)

    def _refused(self, response: httpx.Response, data: bytes) -> str | _Trouble:
        """What a status other than 200 means."""
        status, code = response.status_code, named(data)
        if status == 400 and filtered(data):
            return ""
        if passes_by(status):
            what = "too many requests" if status == 429 else "the server fails"
            return self._passing(f"{what}: status {status}{code}", retry_after(response.headers.get("Retry-After")))
        if status in (401, 403):
            if os.environ.get(self.key_variable, "").strip():
                mend = f"Set {self.key_variable} to a key that may use the model {self.model!r}."
            else:
                mend = f"The environment variable {self.key_variable} is not set: put the key there."
            return _Trouble(
                SettingsError(f"the server does not let us in: status {status}", where=self.address, mend=mend)
            )
        if status == 404:
            what = f"no model {self.model!r}, or no chat completions at all: status 404{code}"
            mend = "Check the model's name and the address; it usually ends in /v1."
        elif 300 <= status < 400:
            what = f"the server sends on to another address: status {status}"
            mend = "Give that address: a key is not carried after a redirect."
        else:
            what = f"the server does not take the request: status {status}{code}"
            mend = (
                "Check the model's name, the length of the prompts, and whether the server takes max_tokens and seed."
            )
        return _Trouble(ModelError(what, where=self.address, mend=mend))
