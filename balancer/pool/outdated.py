"""What the caches of other workers must forget: each worker tells it, and all read it before they look anything up.

    told    how many each worker has told, one number each: one comparison says whether there is any news
    rings   the latest of each, the oldest overwritten

A worker writes to its own ring alone, first what, then that there is more. Who has missed some forgets everything. What
is told is a number that stands for it, the same in all processes.
"""

from __future__ import annotations

from balancer.pool import shared

__all__ = ["Outdated", "Voice"]

# Of a native signed 64-bit integer.
_NUMBER = 8
# Told in a row while another worker looks nothing up.
_LATEST = 256


class Outdated:
    """One cache's, for so many workers at a time (slots of the limits, daemon.limits)."""

    __slots__ = ("rings", "told")

    def __init__(self, slots: int) -> None:
        # Pages that nobody has written to take no memory.
        numbers = memoryview(shared.allocate(_NUMBER * slots * (1 + _LATEST))).cast("q")
        self.told = numbers[:slots]
        self.rings = [numbers[slots + _LATEST * i : slots + _LATEST * (i + 1)] for i in range(slots)]


class Voice:
    """A worker's part in it. What was told before it came does not concern it: its cache is empty."""

    __slots__ = ("_outdated", "_seen", "_slot")

    def __init__(self, outdated: Outdated, slot: int) -> None:
        self._outdated = outdated
        self._slot = slot
        self._seen = outdated.told.tobytes()

    def tell(self, number: int) -> None:
        """The others are to forget it."""
        told, slot = self._outdated.told, self._slot
        count = told[slot]
        self._outdated.rings[slot][count % _LATEST] = number
        told[slot] = count + 1

    def heard(self) -> tuple[int, ...] | None:
        """What there is to forget since the last time; None: everything."""
        outdated = self._outdated
        now = outdated.told.tobytes()
        if now == self._seen:
            return ()
        before, self._seen = memoryview(self._seen).cast("q"), now
        found: list[int] = []
        for slot, count in enumerate(memoryview(now).cast("q")):
            since = before[slot]
            if slot == self._slot or count == since:
                continue
            ring = outdated.rings[slot]
            found += [ring[i % _LATEST] for i in range(max(since, count - _LATEST), count)]
            # As many again may have been told while we read.
            if outdated.told[slot] - since >= _LATEST:
                return None
        return tuple(found)
