"""By the requested path: a resource is served by one server, which makes the best of its cache."""

from __future__ import annotations

from typing import ClassVar, Literal

from balancer.algorithms.base import C
from balancer.algorithms.table import HashTable

__all__ = ["Uri", "path"]


def path(target: bytes) -> bytes:
    """The path of a request target (RFC 9112 section 3.2) without its query, so that `http://host/a?b` and
    `/a` are one resource. `*` and CONNECT's `host:port` are taken whole."""
    whole = target.partition(b"?")[0]
    if whole[:1] == b"/":
        return whole
    scheme, separator, rest = whole.partition(b"://")
    return b"/" + rest.partition(b"/")[2] if separator and scheme else whole


class Uri(HashTable[C]):
    """HAProxy's `balance uri` with its defaults; the key is the request target as received."""

    needs: ClassVar[Literal["", "source", "uri"]] = "uri"

    def pick(self, key: bytes = b"", avoid: C | None = None) -> C | None:
        return super().pick(path(key), avoid)
