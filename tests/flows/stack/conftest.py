"""The real services, started once for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.services import Services, open_folder, running_services


@pytest.fixture(scope="package")
def services() -> Iterator[Services]:
    """Up for as long as there are tests."""
    with open_folder() as folder, running_services(folder) as services:
        yield services
