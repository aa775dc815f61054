"""By the client's address: a client stays with its server while the servers stay the same."""

from __future__ import annotations

from typing import ClassVar, Literal

from balancer.algorithms.base import C
from balancer.algorithms.table import HashTable

__all__ = ["Source"]


class Source(HashTable[C]):
    """HAProxy's `balance source`; the key is the packed address, without the port."""

    needs: ClassVar[Literal["", "source", "uri"]] = "source"
