"""Consistent hashing by Maglev's lookup table: a change of one server moves about its own keys only.

D. Eisenbud et al., Maglev: A Fast and Reliable Software Network Load Balancer, NSDI 2016, section 3.4. Each
server has its own order of preference over all slots and takes, whenever it is its turn, the first
that is still free. With weights it has its turn as often as round robin would have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from itertools import islice
from typing import Generic, cast

from balancer.algorithms.base import C
from balancer.algorithms.roundrobin import RoundRobin

__all__ = ["SIZES", "MaglevTable"]

# (servers, slots): the table's size by the number of servers; primes, so that every step visits every slot.
# A server's part is exact to about one slot: with 100 slots a server, to 1 %. The last size is the paper's
# smaller one. It takes some 50 ms to fill and 512 KiB to hold, and more would stop a worker for too long:
# with 5 000 servers each has 13 or 14 slots. A server whose share is below one slot may have none.
SIZES = ((50, 5003), (200, 20011), (2**31, 65537))


class MaglevTable(Generic[C]):
    """Fills tables. Their size is the same whichever servers are up, or else all keys would move: it follows
    `configured`, the number of servers in the configuration (the most seen, where none is given), by `sizes`."""

    def __init__(self, configured: int = 0, *, sizes: Sequence[tuple[int, int]] = SIZES) -> None:
        self._configured = configured
        self._sizes = sizes
        self._preferences: dict[str, tuple[int, int]] = {}

    def __call__(self, servers: Sequence[C], usual: Sequence[C] = ()) -> list[C]:
        """`usual`: who would have slots if all could serve, `servers` among them: then only the slots of those that
        cannot are dealt out anew, and no other moves."""
        self._configured = max(self._configured, len(servers), len(usual))
        size = next(slots for most, slots in self._sizes if self._configured <= most)
        table: list[C | None] = [None] * size
        self._fill(table, usual or servers)
        if usual:
            serving = set(servers)
            table = [server if server in serving else None for server in table]
            self._fill(table, servers)
        return cast("list[C]", table)

    def _fill(self, table: list[C | None], servers: Sequence[C]) -> None:
        """What is free in it."""
        size = len(table)
        places = {server: [*self._preference(server.name)] for server in servers}
        for place in places.values():
            place[:] = place[0] % size, place[1] % (size - 1) + 1
        turns: RoundRobin[C] = RoundRobin()
        turns.rebuild(servers)
        for server in islice(iter(turns.pick, None), table.count(None)):
            place = places[server]
            slot, step = place
            while table[slot] is not None:
                slot += step
                if slot >= size:
                    slot -= size
            table[slot] = server
            place[0] = slot

    def _preference(self, name: str) -> tuple[int, int]:
        """Where a server begins and how far it steps, before they are fitted to the size."""
        known = self._preferences.get(name)
        if known is None:
            digest = blake2b(name.encode(), digest_size=16).digest()
            known = self._preferences[name] = int.from_bytes(digest[:8]), int.from_bytes(digest[8:])
        return known
