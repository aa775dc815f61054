"""How an answer of the web server is coded: as it is, or with gzip where it is large, dull and asked for so."""

from __future__ import annotations

import re
import zlib
from collections.abc import Generator
from contextlib import closing

__all__ = ["encoded", "takes_gzip", "zipped"]

_NOT_AT_ALL = re.compile(r"q\s*=\s*0(\.0*)?")


def encoded(pieces: Generator[str, None, None]) -> Generator[bytes, None, None]:
    """As UTF-8. `pieces` are closed with it."""
    with closing(pieces):
        for piece in pieces:
            yield piece.encode("utf-8", "replace")


def zipped(pieces: Generator[str, None, None]) -> Generator[bytes, None, None]:
    """RFC 1952. The fastest level: what is left of metrics is a twentieth. Many pieces come out empty."""
    zipper = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    with closing(pieces):
        for piece in pieces:
            yield zipper.compress(piece.encode("utf-8", "replace"))
    yield zipper.flush()


def takes_gzip(field: str) -> bool:
    """Whether Accept-Encoding names it (RFC 9110 section 12.5.3). Who takes just anything is not asked for work."""
    for coding in field[:1000].lower().split(","):
        name, _, weight = (part.strip() for part in coding.partition(";"))
        if name in ("gzip", "x-gzip"):
            return not _NOT_AT_ALL.fullmatch(weight)
    return False
