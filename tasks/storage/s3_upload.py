"""A large file to S3 in parts: checked one by one, sent several at a time, and taken up again where it broke off.

The server knows which parts it has (ListMultipartUploads, ListParts); a note beside the repository says what file they
are of. A part counts as sent if the server's ETag of it is the MD5 of our bytes, or the ETag that it gave us for those
bytes: servers that encrypt with keys of their own make other ETags. Where the note is lost, the first of the two
still finds them.

Does not guard against two processes that send different files to one key: the last to complete stays.
"""

from __future__ import annotations

import base64
import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from jpu import files
from jpu.errors import DataError, InfrastructureError, JpuError, StorageError
from tasks.storage.base import MEBIBYTE, Progress, gone
from tasks.storage.s3_errors import code_of

DIGEST = "sha256"
PART = 8 * MEBIBYTE
"""Bytes of a part, and the size up to which a file is sent as a whole."""
_MOST_PARTS = 9000
_AT_ONCE = 4

Errors = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Part:
    """A part of a file, as it is compared and sent."""

    number: int
    size: int
    md5: str
    crc32: str


@dataclass
class Note:
    """What an unfinished upload is of: its id, the file's SHA-256, and the ETag of each part that was acknowledged."""

    upload: str
    sha256: str
    etags: dict[str, str] = field(default_factory=dict)


class Transfer:
    """One key that a file is sent to.

    Args:
        client: boto3's client.
        bucket: The bucket.
        key: The key.
        state: Folder for the note.
        errors: Turns boto3's errors into ours; called with the key.
    """

    def __init__(self, client: Any, bucket: str, key: str, state: Path, errors: Errors) -> None:
        self.client = client
        self.bucket = bucket
        self.key = key
        self.errors = errors
        name = hashlib.sha256(f"{bucket}/{key}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
        self.note = state / f"{name}.json"

    @property
    def where(self) -> str:
        """The address."""
        return f"s3://{self.bucket}/{self.key}"

    def upload(self, path: Path, progress: Progress | None = None) -> None:
        """Send the file; nothing where the key holds it already.

        Raises:
            DataError: There is no such file.
            StorageError: It cannot be read.
            InfrastructureError: The server cannot be reached, the transfer was damaged, or the file changed meanwhile;
                the parts that arrived stay, for another try.
        """
        if not path.is_file():
            raise gone(str(path))
        try:
            self._upload(path, progress)
        except OSError as error:
            raise StorageError(
                f"cannot be read ({error.strerror or error})", where=str(path), mend="Check the file and its rights."
            ) from error

    def abort(self) -> int:
        """Give up every unfinished upload of the key; returns how many there were."""
        found = self._unfinished()
        for upload in found:
            self._abort(upload)
        self._forget()
        return len(found)

    def _upload(self, path: Path, progress: Progress | None) -> None:
        before = _version(path)
        digest = _sha256(path)
        size = path.stat().st_size
        if self._holds(digest, size):
            self._forget()
            return
        if size <= PART:
            self._send_whole(path, digest)
        else:
            self._send_parts(path, digest, size, progress)
        if _version(path) != before:
            raise InfrastructureError(
                "changed while it was sent", where=str(path), mend="Run again when it is written."
            )
        if not self._holds(digest, size):
            raise InfrastructureError(
                "what the server keeps is not what was sent", where=self.where, mend="Run again: it is sent anew."
            )
        self._forget()
        if progress:
            progress(size, size)

    def _send_whole(self, path: Path, digest: str) -> None:
        data = files.read_bytes(path)
        with self.errors(self.key):
            self.client.put_object(
                Bucket=self.bucket,
                Key=self.key,
                Body=data,
                ChecksumSHA256=base64.b64encode(hashlib.sha256(data).digest()).decode(),
                Metadata={DIGEST: digest},
            )

    def _send_parts(self, path: Path, digest: str, size: int, progress: Progress | None) -> None:
        length = max(PART, -(-size // _MOST_PARTS // MEBIBYTE) * MEBIBYTE)
        note = self._resumed(digest) or self._begun(digest)
        there = self._parts(note.upload)
        done: dict[int, tuple[str, Part]] = {}
        sent = 0

        def send(part: Part, data: bytes) -> tuple[str, Part]:
            with self.errors(self.key):
                answer = self.client.upload_part(
                    Bucket=self.bucket,
                    Key=self.key,
                    UploadId=note.upload,
                    PartNumber=part.number,
                    Body=data,
                    ChecksumCRC32=part.crc32,
                )
            return str(answer["ETag"]), part

        def finish(waiting: set[Future[tuple[str, Part]]]) -> None:
            nonlocal sent
            for future in waiting:
                etag, part = future.result()
                done[part.number] = etag, part
                note.etags[str(part.number)] = etag
                self._keep(note)
                sent += part.size
                if progress:
                    progress(sent, size)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            flying: set[Future[tuple[str, Part]]] = set()
            try:
                for part, data in _cut(path, length):
                    etag, held = there.get(part.number, ("", 0))
                    if held == part.size and etag and etag in {f'"{part.md5}"', note.etags.get(str(part.number))}:
                        done[part.number] = etag, part
                        sent += part.size
                        continue
                    if len(flying) >= _AT_ONCE:
                        ready, flying = wait(flying, return_when=FIRST_COMPLETED)
                        finish(ready)
                    flying.add(pool.submit(send, part, data))
                finish(wait(flying).done)
            except BaseException:
                # What arrived in the meantime need not be sent again.
                for future in wait(flying).done:
                    if not future.cancelled() and future.exception() is None:
                        finish({future})
                raise
        self._complete(note, [done[number] for number in sorted(done)])

    def _complete(self, note: Note, parts: list[tuple[str, Part]]) -> None:
        named = [{"PartNumber": part.number, "ETag": etag, "ChecksumCRC32": part.crc32} for etag, part in parts]
        with self.errors(self.key):
            try:
                self.client.complete_multipart_upload(
                    Bucket=self.bucket, Key=self.key, UploadId=note.upload, MultipartUpload={"Parts": named}
                )
            except ClientError as error:
                # An answer that was lost, and boto3 asked again: the caller looks whether the object is there.
                if code_of(error) != "NoSuchUpload":
                    raise

    def _resumed(self, digest: str) -> Note | None:
        """The unfinished upload to go on with: the one of the note, else the newest."""
        open_ones = self._unfinished()
        try:
            kept = files.read_json(self.note)
            note = Note(str(kept["upload"]), str(kept["sha256"]), {str(k): str(v) for k, v in kept["etags"].items()})
        except (JpuError, KeyError, TypeError, AttributeError):
            return Note(open_ones[-1], digest) if open_ones else None
        if note.sha256 == digest:
            return note if note.upload in open_ones else None
        if note.upload in open_ones:
            # Of a file that is not to be sent any more; storage of its parts would be paid for.
            self._abort(note.upload)
        return None

    def _begun(self, digest: str) -> Note:
        with self.errors(self.key):
            begun = self.client.create_multipart_upload(
                Bucket=self.bucket, Key=self.key, ChecksumAlgorithm="CRC32", Metadata={DIGEST: digest}
            )
        note = Note(str(begun["UploadId"]), digest)
        self._keep(note)
        return note

    def _unfinished(self) -> list[str]:
        """Ids of the key's unfinished uploads, oldest first."""
        with self.errors(self.key):
            pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=self.key)
            found = [u for page in pages for u in page.get("Uploads", ()) if u["Key"] == self.key]
        return [str(u["UploadId"]) for u in sorted(found, key=lambda u: u["Initiated"])]

    def _parts(self, upload: str) -> dict[int, tuple[str, int]]:
        """Number → ETag and size of the parts that the server has."""
        with self.errors(self.key):
            pages = self.client.get_paginator("list_parts").paginate(Bucket=self.bucket, Key=self.key, UploadId=upload)
            return {p["PartNumber"]: (str(p["ETag"]), int(p["Size"])) for page in pages for p in page.get("Parts", ())}

    def _holds(self, digest: str, size: int) -> bool:
        try:
            with self.errors(self.key):
                head = self.client.head_object(Bucket=self.bucket, Key=self.key)
        except DataError:
            return False
        return bool(head["ContentLength"] == size and head["Metadata"].get(DIGEST) == digest)

    def _abort(self, upload: str) -> None:
        with self.errors(self.key):
            try:
                self.client.abort_multipart_upload(Bucket=self.bucket, Key=self.key, UploadId=upload)
            except ClientError as error:
                if code_of(error) != "NoSuchUpload":
                    raise

    def _keep(self, note: Note) -> None:
        files.write_json(self.note, {"upload": note.upload, "sha256": note.sha256, "etags": note.etags})

    def _forget(self) -> None:
        self.note.unlink(missing_ok=True)


def _cut(path: Path, length: int) -> Iterator[tuple[Part, bytes]]:
    with open(path, "rb") as file:
        number = 0
        while data := file.read(length):
            number += 1
            crc = base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
            yield Part(number, len(data), hashlib.md5(data, usedforsecurity=False).hexdigest(), crc), data


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(path: Path) -> tuple[int, int, int]:
    info = os.stat(path)
    return info.st_ino, info.st_size, info.st_mtime_ns
