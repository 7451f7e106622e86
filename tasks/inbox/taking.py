"""Take in what lies in the inbox.

In this order, so that a kill at any point neither loses nor doubles a record: what is good is written into data/inbox/,
under the digest of the file it came in; DVC pins the data; only then are the files of the inbox moved. A file that is
found again with its digest in data/inbox/ was taken in before: it is only moved.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jpu import files
from jpu.data.schemas import Template
from jpu.errors import DataError
from tasks import additions
from tasks.inbox.arrivals import QUARANTINE, TAKEN, Arrival, arrivals, destination
from tasks.inbox.examine import DUPLICATES, examine, refused
from tasks.inbox.known import Known, read_known
from tasks.inbox.report import FileReport, Problem, Taking
from tasks.inbox.versioning import versioned
from tasks.repository import data_hash
from tasks.settings import Settings
from tasks.sources import Collection, read_data
from tasks.storage import Changed, Store
from tasks.storage.base import MEBIBYTE

Say = Callable[[str], None]


def take_in(store: Store, settings: Settings, *, dry_run: bool = False, say: Say = lambda _: None) -> Taking:
    """Write what is good into data/inbox/, and have DVC pin it. Nothing is moved in the inbox: see `put_away`.

    Works in the current folder, whose data have to be in place.

    Args:
        store: The inbox.
        settings: Sections `inbox` and `data`, and the seed.
        dry_run: Only look: write nothing.
        say: Called with a line a file.

    Raises:
        DataError: The data were changed by hand, or cannot be read.
        InfrastructureError: The inbox cannot be reached, or another taking-in runs; worth another try.
        SettingsError: No such inbox, or no access to it.
        StorageError: data/ cannot be written.
    """
    if dry_run:
        return _taking(store, _take(store, settings, say, write=False), data_hash(), data_hash())
    with versioned() as version:
        taken = _take(store, settings, say, write=True)
        after = version.pin()
    return _taking(store, taken, version.before, after)


def put_away(store: Store, taking: Taking) -> None:
    """Move what was taken in to `taken/`, and what was refused to `quarantine/`, with a `.reason.json` beside it.

    What was moved already, or changed since, is passed over.

    Raises:
        InfrastructureError: The inbox cannot be reached; worth another try.
        SettingsError: No right to move.
        StorageError: The inbox cannot be written to.
    """
    reports = {(file.name, file.tag): file for file in taking.files if file.outcome != "waits"}
    for arrival in arrivals(store, settle_seconds=0):
        report = reports.get((arrival.name, arrival.entry.tag))
        if report is None:
            continue
        kept = report.outcome in {"taken", "known"}
        target = destination(arrival, TAKEN if kept else QUARANTINE, report.sha256)
        if not kept:
            reason = json.dumps(report.as_dict(), indent=2, sort_keys=True, ensure_ascii=False)
            store.put(f"{target}.reason.json", (reason + "\n").encode("utf-8"))
        try:
            store.move(arrival.entry, target)
        except Changed:
            # Somebody wrote a newer one: that is for the next taking-in.
            continue


@dataclass(frozen=True)
class _Taken:
    """The reports, what the data have now, and the families that they had."""

    files: list[FileReport]
    known: Known
    families: frozenset[str]


def _take(store: Store, settings: Settings, say: Say, *, write: bool) -> _Taken:
    own = read_data(settings.data, seed=settings.seed)
    known = read_known(own)
    families = frozenset(known.families)
    reports: list[FileReport] = []
    read = 0
    for arrival in arrivals(store, settle_seconds=settings.inbox.settle_seconds):
        if arrival.waits:
            report = _waits(arrival, arrival.waits)
        elif read >= settings.inbox.max_files:
            report = _waits(arrival, f"over max_files ({settings.inbox.max_files}): for the next taking-in")
        else:
            read += 1
            report = _file(store, arrival, own, known, settings, write=write)
        reports.append(report)
        say(f"inbox: {report.name}: {report.outcome}")
    return _Taken(reports, known, families)


def _file(
    store: Store, arrival: Arrival, own: Collection, known: Known, settings: Settings, *, write: bool
) -> FileReport:
    """One file: read, examined, and what is good of it written."""
    name, kind, tag = arrival.name, arrival.kind, arrival.entry.tag
    problem = _unreadable(arrival)
    if problem is not None:
        return FileReport(name, kind, "quarantined", tag=tag, problems=[problem])
    try:
        data = store.read(arrival.entry, max_bytes=settings.inbox.max_mib * MEBIBYTE)
    except Changed:
        return _waits(arrival, "still being written")
    except DataError as error:
        if "larger" not in error.what:
            return _waits(arrival, "taken away by somebody else")
        mend = "Split the file, or raise inbox.max_mib in params.yaml."
        return FileReport(name, kind, "quarantined", tag=tag, problems=[refused(name, "size", error.what, mend)])
    digest = files.sha256(data)
    path = additions.INBOX / kind / f"{digest[:32]}.jsonl"
    if path.is_file():
        # Taken in before, and not moved, or sent once more. The reasons for what is not in it are found again.
        _, problems = examine(name, kind, data, read_known(own, without=path), settings)
        return FileReport(name, kind, "partly" if _bad(problems) else "known", digest, tag, problems=problems)
    records, problems = examine(name, kind, data, known, settings)
    if records and write:
        files.write_jsonl(path, records)
    known.grow(records)
    if not records:
        return FileReport(name, kind, "quarantined" if _bad(problems) else "known", digest, tag, problems=problems)
    return FileReport(name, kind, "partly" if _bad(problems) else "taken", digest, tag, "", records, problems)


def _unreadable(arrival: Arrival) -> Problem | None:
    """What is wrong before the file is opened."""
    if not arrival.entry.plain:
        return refused(arrival.name, "link", "a link or a device, not a file", "Put the file itself there.")
    if not arrival.named_well:
        return refused(arrival.name, "name", "a name that is a path, or has other than plain characters", "Rename it.")
    return None


def _bad(problems: Sequence[Problem]) -> bool:
    """Whether there is more to them than records that are known."""
    return any(problem.reason not in DUPLICATES for problem in problems)


def _waits(arrival: Arrival, why: str) -> FileReport:
    return FileReport(arrival.name, arrival.kind, "waits", tag=arrival.entry.tag, why=why)


def _taking(store: Store, taken: _Taken, before: str, after: str) -> Taking:
    accepted = {r.family for file in taken.files for r in file.accepted if isinstance(r, Template)}
    measured = {template.family for template in taken.known.templates if template.split != "train"}
    return Taking(
        source=store.where,
        files=taken.files,
        before=before,
        after=after,
        new_families=sorted(accepted - taken.families),
        unmeasured=sorted(accepted - taken.families - measured),
    )
