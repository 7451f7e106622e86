"""What lies in the inbox: files to be taken in, and those that are left alone because they are not whole yet."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import get_args

from tasks.inbox.report import Kind
from tasks.storage import Entry, Store

KINDS: tuple[Kind, ...] = get_args(Kind)
TAKEN, QUARANTINE = "taken", "quarantine"
_UNFINISHED = (".part", ".partial", ".tmp", ".temp", ".crdownload", ".filepart", ".swp", "~")
_PLAIN_NAME = re.compile(r"[\w][\w .,()+=@-]{0,199}")
_UNSAFE = re.compile(r"[^\w.()+=@-]+")


@dataclass(frozen=True)
class Arrival:
    """A file of the inbox.

    Attributes:
        entry: As the store lists it.
        kind: The folder that it lies in.
        waits: Why it is left alone, "" where it is to be taken in.
    """

    entry: Entry
    kind: Kind
    waits: str = ""

    @property
    def name(self) -> str:
        """Its name as it may be shown and stored anywhere: no path, no control characters."""
        return f"{self.kind}/{_safe(self.entry.name.removeprefix(self.kind + '/'))}"

    @property
    def named_well(self) -> bool:
        """Whether its name is that of an ordinary file."""
        return bool(_PLAIN_NAME.fullmatch(self.entry.name.removeprefix(self.kind + "/")))


def arrivals(store: Store, *, settle_seconds: float, now: float | None = None) -> Iterator[Arrival]:
    """The files of the inbox, by kind and name.

    Args:
        store: The inbox.
        settle_seconds: A file that changed later than so many seconds ago may still be written; 0 for no wait. An
            S3 object is whole once it can be seen.
        now: Seconds since the epoch.
    """
    now = time.time() if now is None else now
    for kind in KINDS:
        for entry in store.list(kind):
            settled = store.always_whole or abs(now - entry.changed) >= settle_seconds
            yield Arrival(entry, kind, _waits(entry.name.removeprefix(f"{kind}/"), entry, settled))


def destination(arrival: Arrival, folder: str, sha256: str) -> str:
    """Where a file is moved to: a name of its contents, so that none takes another's place."""
    name = PurePosixPath(arrival.name)
    mark = (sha256 or hashlib.sha256(arrival.entry.name.encode("utf-8", "surrogatepass")).hexdigest())[:12]
    return f"{folder}/{arrival.kind}/{name.stem}-{mark}{name.suffix}"


def _waits(name: str, entry: Entry, settled: bool) -> str:
    if name.lower().endswith(_UNFINISHED):
        return "its name says that it is not whole yet"
    if name.startswith(".") and _PLAIN_NAME.fullmatch(name[1:]):
        return "hidden"
    if "/" in name:
        return "in a folder below: only files directly in templates/, behaviors/ and benign/ are read"
    if not entry.plain:
        return ""
    if entry.size == 0:
        return "empty so far"
    return "" if settled else "still being written"


def _safe(name: str) -> str:
    """A name of letters, digits and a few signs."""
    cleaned = _UNSAFE.sub("_", name).strip("._")
    return cleaned[:120] or "unnamed"
