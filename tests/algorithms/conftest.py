"""Servers as the algorithms see them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest


@dataclass
class Load:
    scur: int = 0


@dataclass(eq=False)
class Candidate:
    name: str
    index: int
    weight: int = 1
    counters: Load = field(default_factory=Load)

    def __repr__(self) -> str:
        return self.name


@pytest.fixture(scope="session")
def servers() -> Callable[..., list[Candidate]]:
    """servers("abc") and servers("abc", 5, 1, 1) are a, b and c; servers(3) are s0, s1, s2."""

    def make(names: str | int, *weights: int) -> list[Candidate]:
        given = [f"s{i}" for i in range(names)] if isinstance(names, int) else names
        weighted = zip(given, weights or [1] * len(given), strict=True)
        return [Candidate(name, index, weight) for index, (name, weight) in enumerate(weighted)]

    return make
