"""A large file from S3: taken up again where it broke off, and put in place only when its checksum is right.

What has come so far lies beside the target as `.NAME.part`, with a note of the version that it is of. The checksum is
the SHA-256 that our uploads leave on the object, else an ETag that is an MD5; an object in parts that another tool has
sent has neither, and is compared by its size alone.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

from jpu import files
from jpu.errors import InfrastructureError, JpuError, StorageError
from tasks.storage.base import MEBIBYTE, Changed, Progress
from tasks.storage.s3_upload import DIGEST

_MD5 = re.compile(r'"([0-9a-f]{32})"')


def download(
    client: Any,
    bucket: str,
    key: str,
    path: Path,
    *,
    errors: Callable[[str], AbstractContextManager[None]],
    tries: int,
    progress: Progress | None = None,
) -> None:
    """Bring an object here.

    Args:
        client: boto3's client.
        bucket: The bucket.
        key: The key.
        path: Target; replaced when everything is there.
        errors: Turns boto3's errors into ours; called with the key.
        tries: How often a broken connection is taken up again before it is an error.
        progress: Called with bytes so far and in all.

    Raises:
        DataError: There is no such object.
        InfrastructureError: The server cannot be reached, or what came is damaged; what is whole of it stays.
        StorageError: The target cannot be written.
    """
    with errors(key):
        head = client.head_object(Bucket=bucket, Key=key)
    part = path.with_name(f".{path.name}.part")
    note = path.with_name(f".{path.name}.part.json")
    size, tag = int(head["ContentLength"]), str(head["ETag"])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _is_of(note, tag):
            part.unlink(missing_ok=True)
            files.write_json(note, {"etag": tag})
        for left in reversed(range(tries)):
            try:
                with errors(key):
                    _fetch(client, bucket, key, part, tag, size, progress)
                break
            except Changed:
                note.unlink(missing_ok=True)
                raise
            except InfrastructureError:
                if not left:
                    raise
        if _damaged(part, head):
            part.unlink()
            raise InfrastructureError(
                "what came is not what the server keeps", where=f"s3://{bucket}/{key}", mend="Run again."
            )
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        note.unlink()
    except OSError as error:
        raise StorageError(
            f"cannot be written ({error.strerror or error})", where=str(path), mend="Check the disk, and run again."
        ) from error


def _fetch(client: Any, bucket: str, key: str, part: Path, tag: str, size: int, progress: Progress | None) -> None:
    with open(part, "ab") as file:
        done = file.tell()
        if done > size:
            file.truncate(0)
            done = 0
        if done == size:
            return
        answer = client.get_object(Bucket=bucket, Key=key, IfMatch=tag, Range=f"bytes={done}-")
        with closing(answer["Body"]) as body:
            for chunk in body.iter_chunks(MEBIBYTE):
                file.write(chunk)
                done += len(chunk)
                if progress:
                    progress(done, size)
    if done < size:
        raise InfrastructureError("the transfer broke off", where=f"s3://{bucket}/{key}", mend="Run again.")


def _is_of(note: Path, tag: str) -> bool:
    try:
        return bool(files.read_json(note)["etag"] == tag)
    except (JpuError, KeyError, TypeError):
        return False


def _damaged(part: Path, head: dict[str, Any]) -> bool:
    expected, kind = head["Metadata"].get(DIGEST), "sha256"
    if not expected and (found := _MD5.fullmatch(str(head["ETag"]))) and not head.get("SSEKMSKeyId"):
        expected, kind = found[1], "md5"
    if not expected:
        return part.stat().st_size != head["ContentLength"]
    with open(part, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest() != expected
