"""Every error that the project raises on purpose.

JpuError                    base; says what is wrong, where, and the mend
├── SettingsError       2   params.yaml or the environment
├── DataError           3   a file that was read: its format or its contents
├── ModelError          4   a model or adapter folder
├── SubjectError        5   the subject does not refuse directly, or does not leak under attack
├── BudgetError         6   a utility, time or memory budget that cannot be kept
├── StorageError        7   a file that could not be written or opened
├── InfrastructureError 8   a server, a network, a lock; worth another try
└── StageError          9   a stage that was run in a process of its own and failed

The number is the exit code of a stage that ends with the error. Code 1 is left to Python: a bug.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar


class JpuError(Exception):
    """An error with a place and a mend, shown to the user without a traceback.

    Args:
        what: What is wrong, as a sentence that starts in lower case.
        where: The file, with line, row or key, that it was found in.
        mend: What to do about it, as full sentences. Ends with "Nothing was written." where that is true.
    """

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, what: str, *, where: str | None = None, mend: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.mend = mend

    def __str__(self) -> str:
        """The message as it is shown: `where: what`, then the mend on a line of its own."""
        headline = f"{self.where}: {self.what}" if self.where else self.what
        return f"{headline}\n{self.mend}" if self.mend else headline

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep `where` and `mend` when the error crosses a process boundary."""
        return partial(type(self), where=self.where, mend=self.mend), (self.what,)


class SettingsError(JpuError):
    """`params.yaml`, an option or an environment variable is not usable."""

    exit_code = 2


class DataError(JpuError):
    """A data file is missing, malformed, or fails an expectation."""

    exit_code = 3


class ModelError(JpuError):
    """A model or adapter folder is missing, corrupted, or not of the kind that is needed."""

    exit_code = 4


class SubjectError(JpuError):
    """The subject does not refuse direct requests, or does not leak under attack: nothing to harden."""

    exit_code = 5


class BudgetError(JpuError):
    """A budget (utility, time, memory) does not allow what was asked."""

    exit_code = 6


class StorageError(JpuError):
    """A file or folder cannot be written or opened: full disk, rights, read-only file system."""

    exit_code = 7


class InfrastructureError(JpuError):
    """A server, network or lock failed in a way that may pass by itself."""

    exit_code = 8
    retryable = True


class StageError(JpuError):
    """A stage that ran in a process of its own failed."""

    exit_code = 9
