"""From an address to a store."""

from __future__ import annotations

import re
from pathlib import Path

from jpu.data.fetch import shown
from jpu.errors import SettingsError
from tasks.storage.base import Store
from tasks.storage.folder import Folder
from tasks.storage.patience import Patience

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def open_store(location: str, *, patience: Patience | None = None) -> Store:
    """The store at `s3://bucket/prefix`, or in a local folder. Nothing is asked of a server yet.

    Raises:
        SettingsError: Neither of the two, no such folder, or credentials in the address.
    """
    scheme, found, rest = location.partition("://")
    if not found:
        folder = Path(location)
        if not folder.is_dir():
            raise SettingsError("no such folder", where=location, mend="Make it, or mend the path.")
        return Folder(folder)
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or "@" in bucket or not _BUCKET.fullmatch(bucket):
        raise SettingsError(
            "neither a folder nor s3://bucket/prefix",
            where=shown(location),
            mend="Write s3://bucket/prefix; keys and endpoint come from the environment (AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL) or from the profile of the AWS tools.",
        )
    # Imported here: boto3 takes a third of a second.
    from tasks.storage.s3 import Bucket

    return Bucket(bucket, prefix.strip("/"), patience or Patience())
