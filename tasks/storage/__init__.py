"""Files that may be in a folder or in an S3 bucket, by one small interface.

What DVC and MLflow keep in S3 they read and write themselves; this is for what the project touches directly: the
inbox, presence checks, large files that are sent in parts.
"""

from __future__ import annotations

from tasks.storage.base import Changed, Entry, Store
from tasks.storage.opened import open_store
from tasks.storage.patience import Patience

__all__ = ["Changed", "Entry", "Patience", "Store", "open_store"]
