"""A prefix of an S3 bucket as a store."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from jpu.errors import DataError, InfrastructureError
from tasks.storage import s3_download, s3_upload
from tasks.storage.base import Entry, Progress, gone, too_large
from tasks.storage.patience import Patience
from tasks.storage.s3_client import CONNECTIONS, endpoint, make_client
from tasks.storage.s3_errors import code_of, s3_errors

# Where it is noted, beside the server's own list of parts, what an unfinished upload is of.
UPLOADS = Path(".jpu/uploads")


class Bucket:
    """The objects under a prefix.

    Args:
        bucket: The bucket.
        prefix: The prefix, without a slash at its ends; may be empty.
        patience: Time limits and tries.
        state: Folder for notes on unfinished uploads.
    """

    always_whole = True

    def __init__(self, bucket: str, prefix: str, patience: Patience, state: Path = UPLOADS) -> None:
        self.bucket = bucket
        self.prefix = prefix
        self.patience = patience
        self.state = state
        self._found = False

    @property
    def where(self) -> str:
        """The prefix as an address."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @cached_property
    def client(self) -> Any:
        """boto3's client, made when it is first needed."""
        with s3_errors(self.bucket, self.prefix):
            return make_client(self.patience)

    def list(self, folder: str) -> Iterator[Entry]:
        """The objects under a folder, also deeper ones, page by page."""
        prefix = self._key(folder) + "/"
        with self._errors(prefix):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
            for page in pages:
                for item in page.get("Contents", ()):
                    # A key that ends in a slash is how consoles show an empty folder.
                    if not item["Key"].endswith("/"):
                        name = folder + "/" + item["Key"].removeprefix(prefix)
                        yield Entry(name, item["Size"], item["LastModified"].timestamp(), item["ETag"])

    def read(self, entry: Entry, *, max_bytes: int) -> bytes:
        """The contents of exactly this version. Raises Changed or DataError."""
        key = self._key(entry.name)
        with self._errors(key):
            answer = self.client.get_object(Bucket=self.bucket, Key=key, IfMatch=entry.tag)
            with closing(answer["Body"]) as body:
                if answer["ContentLength"] > max_bytes:
                    raise too_large(f"s3://{self.bucket}/{key}", max_bytes)
                data: bytes = body.read()
        if len(data) != answer["ContentLength"]:
            raise InfrastructureError("the transfer broke off", where=f"s3://{self.bucket}/{key}", mend="Try again.")
        return data

    def put(self, name: str, data: bytes) -> None:
        """Write an object, with its SHA-256 for the server to check."""
        self._exists()
        with self._errors(self._key(name)):
            digest = hashlib.sha256(data)
            self.client.put_object(
                Bucket=self.bucket,
                Key=self._key(name),
                Body=data,
                ChecksumSHA256=base64.b64encode(digest.digest()).decode(),
                Metadata={s3_upload.DIGEST: digest.hexdigest()},
            )

    def move(self, entry: Entry, name: str) -> None:
        """Copy on the server, compare, delete the old one; each only if it is still the version that was listed."""
        source, target = self._key(entry.name), self._key(name)
        try:
            with self._errors(source):
                self.client.copy_object(
                    Bucket=self.bucket,
                    Key=target,
                    CopySource={"Bucket": self.bucket, "Key": source},
                    CopySourceIfMatch=entry.tag,
                )
        except DataError:
            if self.present([name]):
                return
            raise gone(f"s3://{self.bucket}/{source}") from None
        with self._errors(target):
            copy = self.client.head_object(Bucket=self.bucket, Key=target)
        if copy["ContentLength"] != entry.size or not (copy["ETag"] == entry.tag or self._same(source, target)):
            raise InfrastructureError(
                "the copy is not what was copied",
                where=f"s3://{self.bucket}/{target}",
                mend="Try again; nothing is lost.",
            )
        with self._errors(source):
            self.client.delete_object(Bucket=self.bucket, Key=source, IfMatch=entry.tag)

    def present(self, names: Iterable[str]) -> set[str]:
        """Which of these objects there are: one request each, many at a time."""
        self._exists()
        client = self.client

        def there(name: str) -> str | None:
            key = self._key(name)
            with self._errors(key):
                try:
                    client.head_object(Bucket=self.bucket, Key=key)
                except ClientError as error:
                    if code_of(error) in {"404", "NoSuchKey", "NotFound"}:
                        return None
                    raise
            return name

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            return {name for name in pool.map(there, names) if name is not None}

    def upload(self, path: Path, name: str, *, progress: Progress | None = None) -> None:
        """Send a file in parts, each with its checksum; parts that are there already are not sent again."""
        self._exists()
        self._transfer(name).upload(path, progress)

    def abort(self, name: str) -> int:
        """Give up every unfinished upload of this name, and what was sent of it; returns how many there were."""
        return self._transfer(name).abort()

    def download(self, name: str, path: Path, *, progress: Progress | None = None) -> None:
        """Bring an object here, whole or not at all, checked against its checksum."""
        key = self._key(name)
        s3_download.download(
            self.client, self.bucket, key, path, errors=self._errors, tries=self.patience.attempts, progress=progress
        )

    def _transfer(self, name: str) -> s3_upload.Transfer:
        return s3_upload.Transfer(self.client, self.bucket, self._key(name), self.state, self._errors)

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def _errors(self, key: str) -> Any:
        return s3_errors(self.bucket, key, endpoint=endpoint(self.client))

    def _exists(self) -> None:
        """Some servers make a bucket that is written to; a misspelt name must not become one."""
        if self._found:
            return
        try:
            with self._errors(""):
                self.client.head_bucket(Bucket=self.bucket)
        except DataError:
            missing = ClientError({"Error": {"Code": "NoSuchBucket"}}, "HeadBucket")
            with s3_errors(self.bucket):
                raise missing from None
        self._found = True

    def _same(self, first: str, second: str) -> bool:
        """Whether two objects hold the same bytes: an ETag says nothing where they were sent or sealed differently."""
        digests = []
        for key in (first, second):
            digest = hashlib.sha256()
            with self._errors(key):
                for chunk in self.client.get_object(Bucket=self.bucket, Key=key)["Body"].iter_chunks():
                    digest.update(chunk)
            digests.append(digest.digest())
        return digests[0] == digests[1]
