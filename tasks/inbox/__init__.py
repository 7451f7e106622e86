"""The inbox: new templates and behaviors, taken into the data, versioned, or put into quarantine with the reason.

An inbox is a folder or an S3 prefix with the folders `templates/`, `behaviors/` and `benign/`. `take_in` writes what is
good into data/inbox/ and lets DVC pin it; `put_away` then moves the files, to `taken/` or `quarantine/` beside those
folders. Until they are moved, taking them in again does nothing twice; a caller that wants the data committed first
puts away after that.
"""

from __future__ import annotations

from tasks.inbox.report import FileReport, Problem, Taking
from tasks.inbox.source import open_inbox
from tasks.inbox.taking import put_away, take_in

__all__ = ["FileReport", "Problem", "Taking", "open_inbox", "put_away", "take_in"]
