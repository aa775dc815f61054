"""One lab for all tests that leave it as they found it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.directors import Cluster
from tests.lab.lab import Lab
from tests.lab.space import why_not


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    if why_not():
        pytest.skip(why_not())
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def directors() -> Iterator[Cluster]:
    """Of a lab of their own, for those who leave it as it comes."""
    with Lab() as lab:
        cluster = Cluster(lab)
        yield cluster
        cluster.holders.close()
