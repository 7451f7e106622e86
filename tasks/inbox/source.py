"""Where the inbox is: JPU_INBOX, else params.yaml."""

from __future__ import annotations

import os

from jpu.errors import SettingsError
from tasks.sections import InboxSettings
from tasks.storage import Store, open_store

VARIABLE = "JPU_INBOX"


def open_inbox(settings: InboxSettings, source: str = "") -> Store:
    """The inbox as a store.

    Args:
        settings: Section `inbox`.
        source: Comes before the environment and the section.

    Raises:
        SettingsError: None is named, or what is named is neither a folder nor an S3 address.
    """
    chosen = source or os.environ.get(VARIABLE, "") or settings.source
    if not chosen:
        raise SettingsError(
            "no inbox is named",
            where="params.yaml, key inbox.source",
            mend=f"Write a folder or s3://bucket/prefix there, set {VARIABLE}, or give --source.",
        )
    return open_store(chosen)
