"""Records of stages, sent over a local socket to the flow that runs them.

The flow has MLflow open; opening it again in every stage would cost two to four seconds each. A stage connects to
the socket in JPU_TRACKER and sends one JSON object a line, `{"call": ..., "args": {...}}`; the flow answers with
`{"value": ...}` or `{"error": ...}`. A connection that breaks off before `finish` belongs to a stage that was
killed: its run ends FAILED at once.

The socket is a file under .jpu/, readable by its owner only, with a relative name (such names are limited to
about 100 bytes), so stages must run at the repository root, as DVC does.
"""

from __future__ import annotations

import json
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from jpu import errors
from jpu.errors import InfrastructureError, JpuError
from tasks.recorders import Recorder
from tasks.redaction import describe

FOLDER = Path(".jpu")
_CALLS = frozenset({"batch", "inputs", "artifact", "register", "finish"})


class RelayRecorder:
    """A stage's end: the same calls as every recorder, sent to the flow.

    Raises:
        InfrastructureError: The flow does not answer.
    """

    def __init__(self, address: str, tags: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(address)
        except OSError as error:
            self._socket.close()
            raise _gone(error) from error
        self._stream = self._socket.makefile("rwb")
        self.run_id: str | None = self._call("open", tags=dict(tags))

    def batch(
        self,
        *,
        metrics: Sequence[Sequence[Any]] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Send metrics, parameters and tags."""
        self._call("batch", metrics=[list(row) for row in metrics], params=params, tags=tags)

    def inputs(self, paths: Sequence[str]) -> dict[str, str]:
        """Have the flow hash and record files or folders."""
        return dict(self._call("inputs", paths=list(paths)))

    def artifact(self, path: str, folder: str) -> None:
        """Have the flow copy a file or folder."""
        self._call("artifact", path=path, folder=folder)

    def register(self) -> str | None:
        """Have the flow register the hardened model."""
        number = self._call("register")
        return None if number is None else str(number)

    def finish(self, status: str) -> None:
        """End the run, and the connection."""
        self._call("finish", status=status)
        self._stream.close()
        self._socket.close()

    def _call(self, call: str, **arguments: Any) -> Any:
        with self._lock:
            try:
                self._stream.write(json.dumps({"call": call, "args": arguments}).encode() + b"\n")
                self._stream.flush()
                answer = json.loads(self._stream.readline() or b"null")
            except (OSError, ValueError) as error:
                raise _gone(error) from error
        if answer is None:
            raise _gone(None)
        if "error" in answer:
            kind = getattr(errors, str(answer.get("kind")), InfrastructureError)
            raise kind(answer["error"], where=answer.get("where"), mend=answer.get("mend", ""))
        return answer["value"]


class Relay:
    """The flow's end: serves stages in threads of its own until closed.

    Args:
        open_run: Makes the recorder of a new run from its tags.
    """

    def __init__(self, open_run: Callable[[Mapping[str, str]], Recorder]) -> None:
        FOLDER.mkdir(exist_ok=True)
        for left in FOLDER.glob("tracker-*.sock"):
            if not _alive(left):
                left.unlink(missing_ok=True)
        self.address = str(FOLDER / f"tracker-{os.getpid()}.sock")
        self.made: dict[str, str] = {}
        self._open_run = open_run
        mask = os.umask(0o177)
        try:
            self._server = _Server(self.address, self)
        finally:
            os.umask(mask)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving and remove the socket."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        Path(self.address).unlink(missing_ok=True)

    def open_run(self, tags: Mapping[str, str]) -> Recorder:
        """Open a stage's run, and remember its id by stage in `made`."""
        recorder = self._open_run(tags)
        if recorder.run_id:
            self.made[tags.get("jpu.stage", "")] = recorder.run_id
        return recorder


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: str, relay: Relay) -> None:
        self.relay = relay
        super().__init__(address, _Handler)


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        recorder: Recorder | None = None
        finished = False
        try:
            for line in self.rfile:
                recorder, answer = self._answer(recorder, json.loads(line))
                finished = finished or "finish" in answer
                self.wfile.write(json.dumps(answer).encode() + b"\n")
        except OSError:
            # The stage was killed in the middle of a line; what follows is the same as at its end.
            pass
        finally:
            if recorder is not None and not finished:
                with suppress(JpuError):
                    recorder.batch(tags={"jpu.error": "the stage's process ended without a word"})
                    recorder.finish("FAILED")

    def _answer(self, recorder: Recorder | None, message: Any) -> tuple[Recorder | None, dict[str, Any]]:
        call, arguments = message["call"], message["args"]
        try:
            if call == "open":
                recorder = self.server.relay.open_run(arguments["tags"])
                return recorder, {"value": recorder.run_id}
            if recorder is None or call not in _CALLS:
                return recorder, {"error": f"no such call: {call}"}
            answer = {"value": getattr(recorder, call)(**arguments)}
            return recorder, answer | ({"finish": True} if call == "finish" else {})
        except JpuError as error:
            kind = type(error).__name__
            return recorder, {"error": error.what, "where": error.where, "mend": error.mend, "kind": kind}
        except Exception as error:
            # The stage waits for an answer; without one it would only learn that the flow has gone.
            return recorder, {"error": describe(error)}


def _alive(left: Path) -> bool:
    number = left.stem.removeprefix("tracker-")
    try:
        os.kill(int(number), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        pass
    return True


def _gone(error: Exception | None) -> InfrastructureError:
    reason = f" ({error})" if error else ""
    return InfrastructureError(
        f"the flow that keeps the stage's record does not answer{reason}",
        where=os.environ.get("JPU_TRACKER"),
        mend="Start the stage again through `jpu harden`, or unset JPU_TRACKER.",
    )
