"""One lab for all tests that leave it as they found it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.lab.lab import Lab


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("only root can make the lab's namespaces")
    with Lab() as lab:
        yield lab
