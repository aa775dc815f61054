"""What has been made out before, to be had again for a look-up: bounded by the memory that it takes.

Only what comes again is kept. Of what comes for the first time no more than a hash is noted, so that heads that differ
each time (an address or a number in them, a client that makes them up) neither take memory nor drive out the others.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

__all__ = ["Recall"]

# Of what came but once, so many are noted: more than are kept, for two may share a place.
_NOTED: Final = 2048
# A key, its place in the table and what is kept under it, besides their octets.
_EACH: Final = 1024

_K = TypeVar("_K")
_V = TypeVar("_V")


class Recall(Generic[_K, _V]):
    """At most `octets` of them, each with a share for what it is made of. Look things up in `kept`, which stays the
    same dictionary."""

    __slots__ = ("_left", "_noted", "_octets", "kept")

    def __init__(self, octets: int) -> None:
        self.kept: dict[_K, _V] = {}
        self._octets = octets
        self._left = octets
        self._noted: list[int] = [0] * _NOTED

    def keep(self, mark: int, key: _K, value: _V, octets: int) -> None:
        """`value`, all of whose forms together have so many octets, if `mark` (a hash of what makes it) has been here
        lately. Forgets everything when there is too much: what is asked for often is soon back."""
        place = mark % _NOTED
        if self._noted[place] != mark:
            self._noted[place] = mark
            return
        size = _EACH + octets
        if size > self._left:
            self.kept.clear()
            self._left = self._octets
        if key not in self.kept:
            self._left -= size
        self.kept[key] = value
