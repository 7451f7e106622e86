from __future__ import annotations

import copy

import pytest

from jpu import errors
from jpu.errors import DataError, JpuError


def test_message_says_what_where_and_mend() -> None:
    error = DataError("no placeholder", where="a.jsonl line 3", mend="Add one. Nothing was written.")
    assert str(error) == "a.jsonl line 3: no placeholder\nAdd one. Nothing was written."
    assert str(DataError("no placeholder")) == "no placeholder"


def test_every_error_has_an_exit_code_of_its_own_and_only_infrastructure_is_retried() -> None:
    kinds = JpuError.__subclasses__()
    assert {kind.exit_code for kind in kinds} == set(range(2, 10))
    assert [kind for kind in kinds if kind.retryable] == [errors.InfrastructureError]


@pytest.mark.parametrize("kind", JpuError.__subclasses__())
def test_an_error_is_copied_whole(kind: type[JpuError]) -> None:
    # By the protocol that also takes an exception from one process to another.
    error = kind("what", where="where", mend="mend")
    again = copy.copy(error)
    assert (type(again), again.where, again.mend, str(again)) == (kind, "where", "mend", str(error))
