"""Regular expressions that an operator wrote, applied to octets that anybody may send.

They are RE2's (github.com/google/re2/wiki/Syntax): whatever comes, a search takes time in proportion to its length.
In exchange there is no look-around and no reference back to a group within the expression.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import re2

__all__ = ["Match", "Regex", "compile_regex"]

# For the program and its states, in each process; ordinary expressions take some KiB.
_MOST_MEMORY = 1 << 20


class Match(Protocol):
    """A place where an expression fits."""

    def start(self, group: int = 0) -> int: ...
    def end(self, group: int = 0) -> int: ...
    def group(self, group: int = 0) -> bytes | None: ...
    def groups(self, default: bytes | None = None) -> Sequence[bytes | None]: ...


class Regex(Protocol):
    """A compiled expression."""

    @property
    def groups(self) -> int: ...
    @property
    def search(self) -> Callable[[bytes], Match | None]: ...


def compile_regex(pattern: str) -> Regex:
    """Compile; ValueError says what is wrong."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MOST_MEMORY
    options.encoding = re2.Options.Encoding.LATIN1
    try:
        compiled: Regex = re2.compile(pattern.encode(), options)
    except re2.error as error:
        why = error.args[0]
        raise ValueError(why.decode("utf-8", "replace") if isinstance(why, bytes) else str(why)) from None
    return compiled
