"""What each client address has lately taken: counted over all workers, without a lock, in a table of bounded size.

    table ── block 0 … block N-1     one per worker, in shared memory, written by that worker alone
    block ── set 0 … set M-1         a source's entry is in the set that a keyed hash of its address gives
    set   ── slot 0 … slot 15

A worker counts in its own block and adds what it finds of the same source in the others'. As it writes before it
reads, of two workers that count at one time at least one sees both.

Rates are counted as HAProxy's freq_ctr does: in windows of a period's length. Of the window before, that part counts
that is not yet a period ago, as if spread evenly. All blocks have the same windows, so sums over them are exact.

A set that is full forgets the source of longest ago, never one that has connections; where all have, a new one goes
uncounted. Sources that share a set cannot be made up by anybody who does not know the key.
"""

from __future__ import annotations

import hashlib
import ipaddress
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

from balancer.pool import shared

__all__ = [
    "CONNECTIONS", "ERRORS", "REQUESTS", "Block", "Found", "Geometry", "Place", "Row", "Table", "forget", "key_of",
    "rows",
]  # fmt: skip

CONNECTIONS, REQUESTS, ERRORS = range(3)
"""The rates of an entry."""

_RATES = 3
_WAYS = 16
_TAG, _KEY, _NUMBER, _RATE = struct.Struct("@q"), struct.Struct("@16s"), struct.Struct("@I"), struct.Struct("@3I")
_ALL = struct.Struct(f"@{_WAYS}I")
# Ended, in microseconds, and used.
_HEAD = struct.Struct("@2Q")
_ROOM = 64
# More than any key; and what is left of a number below it are 63 bits.
_PRIME, _SPARE = (1 << 130) - 5, 67
_MAPPED = bytes(10) + b"\xff\xff"
# Stamps are tenths of a second: of a source seen earlier in the same tenth nobody can say it is of longer ago.
_STAMPS = 10

# Tag, first slot of the set, slot in one's own block (-1: there is no room). A bare tuple: there is one per request.
Place: TypeAlias = tuple[bytes, int, int]


class Geometry(NamedTuple):
    """What all blocks of a table have in common. Two tables of one geometry can be read as one."""

    size: int
    """Entries of a block."""
    prefix: int
    """Leading bits of an IPv6 address that count."""
    periods: tuple[float, float, float]
    """Of each rate, in seconds; 0 for one that is not counted."""

    @property
    def slots(self) -> int:
        return -(-self.size // _WAYS) * _WAYS

    @property
    def octets(self) -> int:
        return _ROOM + self.slots * (_TAG.size + _KEY.size + 2 * _NUMBER.size + _RATES * _RATE.size)

    @property
    def horizon(self) -> float:
        """Seconds after which nothing is left of a source that does nothing."""
        return 2 * max(self.periods)


class _Places:
    """Where a block's columns begin."""

    __slots__ = ("connections", "keys", "rates", "stamps", "tags")

    def __init__(self, slots: int) -> None:
        self.tags = _ROOM
        self.keys = self.tags + _TAG.size * slots
        self.connections = self.keys + _KEY.size * slots
        self.stamps = self.connections + _NUMBER.size * slots
        rates = self.stamps + _NUMBER.size * slots
        self.rates = tuple(rates + which * _RATE.size * slots for which in range(_RATES))


class Block:
    """The memory that one worker counts in. Pages that nobody has written to take no memory."""

    __slots__ = ("geometry", "octets")

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.octets = shared.allocate(geometry.octets)

    def end(self, now: float, *, for_good: bool) -> None:
        """Its writer has died: so have its connections. `for_good`: nobody takes its place."""
        ended, used = _HEAD.unpack_from(self.octets)
        if used:
            slots = self.geometry.slots
            start = _Places(slots).connections
            self.octets[start : start + _NUMBER.size * slots] = bytes(_NUMBER.size * slots)
        if for_good:
            _HEAD.pack_into(self.octets, 0, ended or max(int(now * 1e6), 1), used)

    def is_over(self, now: float) -> bool:
        """Whether nothing that it says counts any more."""
        ended = _HEAD.unpack_from(self.octets)[0]
        return bool(ended) and ended * 1e-6 + self.geometry.horizon <= now


def key_of(address: bytes, prefix: int) -> bytes:
    """A source's 16 octets: those of an address (4 or 16 octets), of IPv6 as far as it counts."""
    if len(address) == 4:
        return _MAPPED + address
    if prefix == 64:
        return address[:8] + b"\0\0\0\0\0\0\0\1"
    if prefix == 128:
        return address
    number = int.from_bytes(address, "big") >> (128 - prefix) << (128 - prefix)
    # The last bit keeps ::/64 from looking like none.
    return (number | 1).to_bytes(16, "big")


def _text(key: bytes, prefix: int) -> str:
    if key.startswith(_MAPPED):
        return str(ipaddress.IPv4Address(key[12:]))
    if prefix == 128:
        return str(ipaddress.IPv6Address(key))
    number = int.from_bytes(key, "big") >> (128 - prefix) << (128 - prefix)
    return f"{ipaddress.IPv6Address(number)}/{prefix}"


class Table:
    """A worker's view: writes to `own`, reads `others`. Times are monotonic seconds of one clock for all.

    `secret` keys the hash, which is the same in all processes that have it. It is one of a universal family (Carter and
    Wegman, 1979): whoever does not know the key cannot make up sources that collide more often than chance has it.
    """

    __slots__ = (
        "_factor", "_octets", "_others", "_periods", "_places", "_sets", "_summand", "forgotten", "geometry", "others",
        "secret",
    )  # fmt: skip

    def __init__(self, secret: bytes, own: Block, others: Sequence[Block]) -> None:
        self.secret = secret
        digest = hashlib.blake2b(secret, digest_size=32).digest()
        self._factor, self._summand = (int.from_bytes(part, "big") for part in (digest[:16], digest[16:]))
        self.geometry = own.geometry
        self.others = [block for block in others if block.geometry == own.geometry]
        self._octets = own.octets
        self._others = tuple(block.octets for block in self.others)
        self._periods = own.geometry.periods
        self._places = _Places(own.geometry.slots)
        self._sets = own.geometry.slots // _WAYS
        self.forgotten = 0
        """Sources that counted still when they had to make room, or that there was no room for."""
        _HEAD.pack_into(own.octets, 0, 0, 1)

    def tidy(self, now: float) -> None:
        """Look no more at blocks of before a reload that are over; to be called now and then."""
        left = [block for block in self.others if not block.is_over(now)]
        if len(left) < len(self.others):
            self.others = left
            self._others = tuple(block.octets for block in left)

    def place(self, address: bytes, now: float) -> Place:
        """The entry of a source (its address packed), made if there is none."""
        key = key_of(address, self.geometry.prefix)
        number = (self._factor * int.from_bytes(key, "big") + self._summand) % _PRIME >> _SPARE or 1
        tag = _TAG.pack(number)
        first = number % self._sets * _WAYS
        octets, places = self._octets, self._places
        start = places.tags + 8 * first
        at = octets.find(tag, start, start + 8 * _WAYS)
        slot = first + (at - start >> 3) if at >= 0 else self._insert(first, tag, key, now)
        if at >= 0:
            _NUMBER.pack_into(octets, places.stamps + 4 * slot, int(now * _STAMPS))
        return tag, first, slot

    def _insert(self, first: int, tag: bytes, key: bytes, now: float) -> int:
        octets, places = self._octets, self._places
        stamps = _ALL.unpack_from(octets, places.stamps + 4 * first)
        connections = _ALL.unpack_from(octets, places.connections + 4 * first)
        free = [(stamp, way) for way, stamp in enumerate(stamps) if not connections[way]]
        if not free:
            self.forgotten += 1
            return -1
        stamp, way = min(free)
        if stamp and stamp / _STAMPS + self.geometry.horizon > now:
            self.forgotten += 1
        slot = first + way
        # Nobody is to find the new source's tag with the old one's numbers.
        _TAG.pack_into(octets, places.tags + 8 * slot, 0)
        for start in places.rates:
            _RATE.pack_into(octets, start + 12 * slot, 0, 0, 0)
        _NUMBER.pack_into(octets, places.stamps + 4 * slot, int(now * _STAMPS))
        octets[places.keys + 16 * slot : places.keys + 16 * slot + 16] = key
        octets[places.tags + 8 * slot : places.tags + 8 * slot + 8] = tag
        return slot

    def enter(self, place: Place) -> None:
        """The source has a connection more. Until `leave` its entry stays where it is."""
        slot = place[2]
        if slot >= 0:
            at = self._places.connections + 4 * slot
            _NUMBER.pack_into(self._octets, at, _NUMBER.unpack_from(self._octets, at)[0] + 1)

    def leave(self, place: Place, now: float) -> None:
        """A connection less."""
        slot = place[2]
        if slot >= 0:
            at = self._places.connections + 4 * slot
            _NUMBER.pack_into(self._octets, at, max(_NUMBER.unpack_from(self._octets, at)[0] - 1, 0))
            _NUMBER.pack_into(self._octets, self._places.stamps + 4 * slot, int(now * _STAMPS))

    def connections(self, place: Place) -> int:
        """The source's connections, of all workers."""
        tag, first, slot = place
        if slot < 0:
            return 0
        start = self._places.connections
        number: int = _NUMBER.unpack_from(self._octets, start + 4 * slot)[0]
        tags = self._places.tags + 8 * first
        for octets in self._others:
            at = octets.find(tag, tags, tags + 8 * _WAYS)
            if at >= 0:
                number += _NUMBER.unpack_from(octets, start + 4 * (first + (at - tags >> 3)))[0]
        return number

    def hit(self, place: Place, which: int, now: float) -> float:
        """Count one more of a rate; what the rate is now, in events per period, of all workers. 0 where the source
        is not counted."""
        slot = place[2]
        if slot < 0:
            return 0.0
        at = self._places.rates[which] + 12 * slot
        octets = self._octets
        current, previous, last = _RATE.unpack_from(octets, at)
        window = int(now / self._periods[which])
        if last == window:
            current += 1
        elif last == window - 1:
            previous, current = current, 1
        else:
            previous, current = 0, 1
        # The window is written last: between, there is too little rather than too much to read.
        _RATE.pack_into(octets, at, current, previous, window)
        return self.rate(place, which, now)

    def rate(self, place: Place, which: int, now: float) -> float:
        """The same without counting."""
        tag, first, slot = place
        if slot < 0:
            return 0.0
        period, start = self._periods[which], self._places.rates[which]
        window = int(now / period)
        current, previous, last = _RATE.unpack_from(self._octets, start + 12 * slot)
        if last != window:
            current, previous = (0, current) if last == window - 1 else (0, 0)
        tags = self._places.tags + 8 * first
        for octets in self._others:
            at = octets.find(tag, tags, tags + 8 * _WAYS)
            if at >= 0:
                more, before, last = _RATE.unpack_from(octets, start + 12 * (first + (at - tags >> 3)))
                if last == window:
                    current += more
                    previous += before
                elif last == window - 1:
                    previous += more
                elif last == window + 1:
                    # Its clock was read a moment after ours.
                    current += more + before
        return float(current + previous * (1.0 - (now / period - window)))


class Row(NamedTuple):
    """What a table says of one source."""

    source: str
    """An address, or a network of IPv6."""
    connections: int
    rates: tuple[int, int, int]
    idle: float
    """Seconds since it was last looked up."""
    entry: int
    """A number of its own."""


Found: TypeAlias = list[tuple[Block, int]]
"""Where a source's entries are: blocks and slots."""


def rows(blocks: Sequence[Block], now: float) -> Iterator[tuple[Row, Found] | None]:
    """All sources of a table (blocks of one geometry) that count, in no order. None now and then, for the reader to do
    something else meanwhile."""
    if not blocks:
        return
    geometry = blocks[0].geometry
    places = _Places(geometry.slots)
    nothing = bytes(8 * _WAYS)
    for first in range(0, geometry.slots, _WAYS):
        if first % (_WAYS * 64) == 0:
            yield None
        found: dict[bytes, list[tuple[Block, int]]] = {}
        start = places.tags + 8 * first
        for block in blocks:
            tags = block.octets[start : start + 8 * _WAYS]
            if tags != nothing:
                for way in range(_WAYS):
                    tag = tags[8 * way : 8 * way + 8]
                    if any(tag):
                        found.setdefault(tag, []).append((block, first + way))
        for entries in found.values():
            row = _row(entries, places, geometry, now)
            if row.connections or any(row.rates):
                yield row, entries


def forget(entries: Found) -> None:
    """Nothing has come of this source lately; what connections it has it has still.

    The workers go on to count meanwhile, and one that has just read what it is about to add to writes that back:
    whoever wants to be sure forgets it again a moment later.
    """
    for block, slot in entries:
        for start in _Places(block.geometry.slots).rates:
            _RATE.pack_into(block.octets, start + _RATE.size * slot, 0, 0, 0)


def _row(entries: Sequence[tuple[Block, int]], places: _Places, geometry: Geometry, now: float) -> Row:
    connections = stamp = 0
    rates = [0.0, 0.0, 0.0]
    for block, slot in entries:
        octets = block.octets
        connections += _NUMBER.unpack_from(octets, places.connections + 4 * slot)[0]
        stamp = max(stamp, _NUMBER.unpack_from(octets, places.stamps + 4 * slot)[0])
        for which, period in enumerate(geometry.periods):
            if period:
                window = int(now / period)
                left = 1.0 - (now / period - window)
                current, previous, last = _RATE.unpack_from(octets, places.rates[which] + 12 * slot)
                if last >= window:
                    rates[which] += current + previous * left
                elif last == window - 1:
                    rates[which] += current * left
    block, slot = entries[0]
    key = block.octets[places.keys + 16 * slot : places.keys + 16 * slot + 16]
    return Row(
        _text(key, geometry.prefix),
        connections,
        (int(rates[0]), int(rates[1]), int(rates[2])),
        max(now - stamp / _STAMPS, 0.0),
        slot,
    )
