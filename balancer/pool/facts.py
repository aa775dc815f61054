"""Facts: what the workers counted, in shared memory, without a lock.

A worker counts in plain attributes and copies them out a few times a second; one memory block per
worker, so every number has one writer. A reader adds the blocks up. A worker that is started in
the place of a dead one goes on from the block it finds, so totals never run backwards.

A block is `Layout.size` octets: a head row, then a row for each entity in the order of `Layout.rows`.
A row is `len(COUNTERS)` native signed 64-bit integers; a backend's row is followed by its histograms.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal, NamedTuple

__all__ = ["BUCKETS", "COUNTERS", "GAUGES", "HISTOGRAMS", "Counters", "Entity", "Layout", "Ledger", "Sums"]

# The names of HAProxy's CSV where it has one. Times are sums of microseconds, `lastsess` is Unix time.
COUNTERS = (
    "scur", "smax", "stot", "lbtot", "bin", "bout", "dreq", "dresp", "ereq", "econ", "eresp", "wretr", "wredis",
    "cli_abrt", "srv_abrt", "hrsp_1xx", "hrsp_2xx", "hrsp_3xx", "hrsp_4xx", "hrsp_5xx", "hrsp_other", "req_tot",
    "conn_tot", "connect", "reuse", "intercepted", "dcon", "dses", "eint", "qcur", "qmax", "srv_icur", "lastsess",
    "qtime", "ctime", "rtime", "ttime", "qtime_max", "ctime_max", "rtime_max", "ttime_max",
    "udp_dropped", "udp_late", "udp_forged", "log_dropped", "heartbeat",
)  # fmt: skip
# Not carried over to the worker that follows a dead one: they tell of connections that died with it.
GAUGES = ("scur", "qcur", "srv_icur", "heartbeat")
# Added up over workers by maximum, not by sum.
_MAXIMA = frozenset(("lastsess", "qtime_max", "ctime_max", "rtime_max", "ttime_max", "heartbeat"))

HISTOGRAMS = ("connect", "response", "total")
# Bucket i counts durations of i bits in microseconds: below 2**i us. 2**35 us is nine hours.
BUCKETS = 36

_ROW = struct.Struct(f"={len(COUNTERS)}q")
_HISTOGRAM = struct.Struct(f"={BUCKETS}q")
_values = attrgetter(*COUNTERS)


class Entity(NamedTuple):
    """What a row counts for. `server` is empty for frontends, backends and the process itself."""

    kind: Literal["process", "frontend", "backend", "server"]
    proxy: str
    server: str = ""


@dataclass(frozen=True)
class Layout:
    """Where each entity's row stands in a block; the same for writers and readers of one configuration."""

    rows: tuple[Entity, ...]

    @staticmethod
    def of(frontends: Iterable[str], backends: Iterable[tuple[str, Iterable[str]]]) -> Layout:
        rows = [Entity("process", "")]
        rows += [Entity("frontend", name) for name in frontends]
        for name, servers in backends:
            rows.append(Entity("backend", name))
            rows += [Entity("server", name, server) for server in servers]
        return Layout(tuple(rows))

    @property
    def offsets(self) -> tuple[int, ...]:
        offsets, offset = [], 0
        for entity in self.rows:
            offsets.append(offset)
            offset += _ROW.size + (len(HISTOGRAMS) * _HISTOGRAM.size if entity.kind == "backend" else 0)
        return tuple(offsets)

    @property
    def size(self) -> int:
        last = self.rows[-1].kind == "backend"
        return self.offsets[-1] + _ROW.size + (len(HISTOGRAMS) * _HISTOGRAM.size if last else 0)


class Counters:
    """One entity's numbers, as plain attributes. Whoever changes them calls nothing: `Ledger` copies them out."""

    __slots__ = (*COUNTERS, "connect_times", "dirty", "offset", "response_times", "total_times")

    def __init__(self, offset: int = 0) -> None:
        self.offset = offset
        self.dirty = False
        for name in COUNTERS:
            setattr(self, name, 0)
        # Filled for backends only.
        self.connect_times: list[int] = []
        self.response_times: list[int] = []
        self.total_times: list[int] = []


_histograms = attrgetter("connect_times", "response_times", "total_times")


class Ledger:
    """A worker's own block: hands out the counters of each entity and copies them to shared memory."""

    def __init__(self, block: memoryview, layout: Layout) -> None:
        self._block = block
        self._of: dict[Entity, Counters] = {}
        self.touched: list[Counters] = []
        """Server rows changed since the last flush; `Backend.take` adds to it."""
        self._always: list[Counters] = []
        for entity, offset in zip(layout.rows, layout.offsets, strict=True):
            counters = self._of[entity] = Counters(offset)
            for name, value in zip(COUNTERS, _ROW.unpack_from(block, offset), strict=True):
                setattr(counters, name, 0 if name in GAUGES else value)
            if entity.kind == "backend":
                for i, times in enumerate(_histograms(counters)):
                    times += _HISTOGRAM.unpack_from(block, offset + _ROW.size + i * _HISTOGRAM.size)
            if entity.kind != "server":
                self._always.append(counters)
            elif counters.smax:
                self.touched.append(counters)
                counters.dirty = True
        self.flush()

    def __getitem__(self, entity: Entity) -> Counters:
        return self._of[entity]

    def flush(self) -> None:
        """Copy what changed to shared memory."""
        block = self._block
        for counters in self._always:
            _ROW.pack_into(block, counters.offset, *_values(counters))
            for i, times in enumerate(_histograms(counters)):
                if times:
                    _HISTOGRAM.pack_into(block, counters.offset + _ROW.size + i * _HISTOGRAM.size, *times)
        touched, self.touched[:] = self.touched[:], []
        for counters in touched:
            _ROW.pack_into(block, counters.offset, *_values(counters))
            # Bytes of a session that goes on are counted without another `take`.
            if counters.scur or counters.srv_icur:
                self.touched.append(counters)
            else:
                counters.dirty = False


class Sums(NamedTuple):
    """One entity's numbers over all workers."""

    counters: dict[str, int]
    histograms: dict[str, tuple[int, ...]]

    @staticmethod
    def read(blocks: Sequence[memoryview], layout: Layout) -> dict[Entity, Sums]:
        """Add up all workers' blocks."""
        sums = {}
        for entity, offset in zip(layout.rows, layout.offsets, strict=True):
            columns = zip(*(_ROW.unpack_from(block, offset) for block in blocks), strict=True)
            counters = {
                name: max(column) if name in _MAXIMA else sum(column)
                for name, column in zip(COUNTERS, columns, strict=True)
            }
            histograms = {}
            if entity.kind == "backend":
                for i, name in enumerate(HISTOGRAMS):
                    start = offset + _ROW.size + i * _HISTOGRAM.size
                    parts = (_HISTOGRAM.unpack_from(block, start) for block in blocks)
                    histograms[name] = tuple(map(sum, zip(*parts, strict=True)))
            sums[entity] = Sums(counters, histograms)
        return sums
