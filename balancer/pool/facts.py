"""Facts: what the workers counted, in shared memory, without a lock.

A worker counts in plain attributes and copies them out a few times a second; one memory block per
worker, so every number has one writer. A reader adds the blocks up. A worker that is started in
the place of a dead one goes on from the block it finds, so totals never run backwards.

What those before a reload have counted stays in their blocks, which may be laid out otherwise: it is added by entity as
long as they are about, and put into one block of the new layout (`fold`) once they are gone.

A block is `Layout.size` octets: a head row, then a row for each entity in the order of `Layout.rows`.
A row is `len(COUNTERS)` native signed 64-bit integers; a backend's row is followed by its histograms.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field, fields
from functools import cached_property
from operator import attrgetter
from typing import Literal, NamedTuple

__all__ = [
    "BUCKETS", "COUNTERS", "GAUGES", "HISTOGRAMS", "Counters", "Elder", "Entity", "Layout",
    "Ledger", "Sums", "Totals", "fold", "forget_peaks", "let_go",
]  # fmt: skip

HISTOGRAMS = ("connect", "response", "total")
# Bucket i counts durations of i bits in microseconds: below 2**i us. 2**47 us is four years, past any session.
BUCKETS = 48


@dataclass(slots=True, eq=False)
class _Numbers:
    """A row, under the names of HAProxy's CSV where it has one. Times are sums of microseconds."""

    scur: int = 0  # current sessions; a server's are its requests in flight
    smax: int = 0
    stot: int = 0
    lbtot: int = 0  # chosen by the algorithm, not by a cookie
    bin: int = 0
    bout: int = 0
    dreq: int = 0
    dresp: int = 0
    ereq: int = 0  # requests refused as malformed
    econ: int = 0  # connections to servers that failed for good
    eresp: int = 0
    wretr: int = 0  # tries again at the same server
    wredis: int = 0  # tries again at another
    cli_abrt: int = 0
    srv_abrt: int = 0
    hrsp_1xx: int = 0
    hrsp_2xx: int = 0
    hrsp_3xx: int = 0
    hrsp_4xx: int = 0
    hrsp_5xx: int = 0
    hrsp_other: int = 0
    req_tot: int = 0
    conn_tot: int = 0  # connections accepted
    connect: int = 0  # connections to servers tried
    reuse: int = 0  # requests on a pooled server connection
    intercepted: int = 0  # answered by pybalancer itself
    dcon: int = 0
    dses: int = 0
    eint: int = 0  # our own faults
    qcur: int = 0
    qmax: int = 0
    comp_in: int = 0  # octets of content that were compressed,
    comp_out: int = 0  # what became of them,
    comp_byp: int = 0  # and those that were not, since it would have cost too much
    comp_rsp: int = 0  # responses that were compressed
    cache_lookups: int = 0
    cache_hits: int = 0
    cache_objects: int = 0  # there now,
    cache_octets: int = 0  # and what they take
    srv_icur: int = 0  # idle server connections
    lastsess: int = 0  # Unix time
    qtime: int = 0
    ctime: int = 0
    rtime: int = 0
    ttime: int = 0
    qtime_max: int = 0
    ctime_max: int = 0
    rtime_max: int = 0
    ttime_max: int = 0
    udp_dropped: int = 0  # datagrams that were no query, or that could not be sent on
    udp_late: int = 0  # answers that came when nobody waited any more
    udp_forged: int = 0  # answers with the wrong id or question
    log_dropped: int = 0
    tasks: int = 0  # of the process
    busy: int = 0  # microseconds that the worker ran, or waited for a processor, by the last flush
    obs_run: int = 0  # errors of an observed server since its last success
    obs_ok: int = 0  # when that was, in monotonic microseconds
    obs_peak: int = 0  # when the errors began that were too many in a row, likewise
    heartbeat: int = 0  # monotonic microseconds of the worker's last flush


@dataclass(slots=True, eq=False)
class Counters(_Numbers):
    """One entity's numbers, as plain attributes. Whoever changes them calls nothing: `Ledger` copies them out."""

    offset: int = 0
    dirty: bool = False
    # A server's idle connections, to be counted when the row is copied.
    idle: Sized = ()
    # Filled for backends only.
    connect_times: list[int] = field(default_factory=list)
    response_times: list[int] = field(default_factory=list)
    total_times: list[int] = field(default_factory=list)


COUNTERS = tuple(number.name for number in fields(_Numbers))
# Not carried over to the worker that follows a dead one: they tell of connections that died with it.
GAUGES = ("scur", "qcur", "cache_objects", "cache_octets", "srv_icur", "tasks", "heartbeat")
# Over workers the largest counts, not the sum.
_MAXIMA = frozenset(("lastsess", "qtime_max", "ctime_max", "rtime_max", "ttime_max", "heartbeat"))
# What a server served counts in its own row alone; a backend's holds what no server got, and what cannot be
# put together from its servers: sessions at one time, and its histograms.
_MAXIMA_OF_SERVERS = _MAXIMA - {"heartbeat"}
_OF_SERVERS = frozenset(COUNTERS) - _MAXIMA - {"scur", "smax", "qcur", "qmax"}
_COLUMNS_OF_MAXIMA = tuple((name, column) for column, name in enumerate(COUNTERS) if name in _MAXIMA)
_COLUMNS_OF_SERVERS = tuple((name, column) for column, name in enumerate(COUNTERS) if name in _OF_SERVERS)

# Of those before a reload and those after it the larger: they were never all there at one time.
_PEAKS = frozenset(("smax", "qmax"))
# What clearing the counters leaves: what is there now, and when something was last.
_KEPT = _PEAKS | _MAXIMA | frozenset(GAUGES)
_NUMBER = 8
_MOST = (1 << 63) - 1
_COLUMNS_OF_PEAKS = tuple(
    _NUMBER * column
    for column, name in enumerate(COUNTERS)
    if name in _PEAKS or (name in _MAXIMA and name.endswith("_max"))
)
_COLUMNS_OF_GAUGES = tuple(_NUMBER * COUNTERS.index(name) for name in GAUGES)

_ROW = struct.Struct(f"={len(COUNTERS)}q")
_HISTOGRAM = struct.Struct(f"={BUCKETS}q")
_values = attrgetter(*COUNTERS)


_histograms = attrgetter("connect_times", "response_times", "total_times")


class Entity(NamedTuple):
    """What a row counts for. `server` is empty for frontends, backends and the process itself."""

    kind: Literal["process", "frontend", "backend", "server"]
    proxy: str
    server: str = ""


@dataclass(frozen=True)
class Layout:
    """Where each entity's row stands in a block; the same for writers and readers of one configuration."""

    rows: tuple[Entity, ...]

    def __reduce__(self) -> tuple[type[Layout], tuple[tuple[Entity, ...]]]:
        """A reload pickles it, and a frozen value that is compiled cannot be put together field by field."""
        return Layout, (self.rows,)

    @staticmethod
    def of(frontends: Iterable[str], backends: Iterable[tuple[str, Iterable[str]]]) -> Layout:
        rows = [Entity("process", "")]
        rows += [Entity("frontend", name) for name in frontends]
        for name, servers in backends:
            rows.append(Entity("backend", name))
            rows += [Entity("server", name, server) for server in servers]
        return Layout(tuple(rows))

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        offsets, offset = [], 0
        for entity in self.rows:
            offsets.append(offset)
            offset += _ROW.size + (len(HISTOGRAMS) * _HISTOGRAM.size if entity.kind == "backend" else 0)
        return tuple(offsets)

    @cached_property
    def places(self) -> dict[Entity, int]:
        """Each entity's offset."""
        return dict(zip(self.rows, self.offsets, strict=True))

    @property
    def size(self) -> int:
        last = self.rows[-1].kind == "backend"
        return self.offsets[-1] + _ROW.size + (len(HISTOGRAMS) * _HISTOGRAM.size if last else 0)


class Ledger:
    """A worker's own block: hands out the counters of each entity and copies them to shared memory."""

    def __init__(self, block: memoryview, layout: Layout) -> None:
        self._block = block
        self._of: dict[Entity, Counters] = {}
        self.touched: list[Counters] = []
        """Server rows changed since the last flush; `Backend.take` adds to it."""
        self._always: list[Counters] = []
        for entity, offset in zip(layout.rows, layout.offsets, strict=True):
            counters = self._of[entity] = Counters(offset=offset)
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

    def cell(self, counters: Counters, name: str) -> memoryview:
        """Where one number stands, for what cannot wait for a flush; whoever writes it changes `counters` too."""
        start = counters.offset + _NUMBER * COUNTERS.index(name)
        return self._block[start : start + _NUMBER].cast("q")

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
            counters.srv_icur = len(counters.idle)
            _ROW.pack_into(block, counters.offset, *_values(counters))
            # Bytes of a session that goes on are counted without another `take`.
            if counters.scur or counters.srv_icur:
                self.touched.append(counters)
            else:
                counters.dirty = False

    def forget_peaks(self) -> None:
        """Maxima begin anew from what is there now."""
        for counters in self._of.values():
            counters.smax, counters.qmax = counters.scur, counters.qcur
            counters.qtime_max = counters.ctime_max = counters.rtime_max = counters.ttime_max = 0
            if not counters.dirty:
                counters.dirty = True
                self.touched.append(counters)


class Sums(NamedTuple):
    """One entity's numbers over all workers. Never changed once made, so whoever holds one may keep it."""

    counters: dict[str, int]
    histograms: dict[str, tuple[int, ...]]

    @staticmethod
    def read(blocks: Sequence[memoryview], layout: Layout) -> dict[Entity, Sums]:
        """Add up all workers' blocks, and to each backend's own row those of its servers."""
        return Totals(blocks, layout).sums

    @staticmethod
    def of(entity: Entity, blocks: Sequence[memoryview | bytes], layout: Layout) -> Sums:
        """Add up the rows of one entity."""
        offset = layout.places[entity]
        columns = list(zip(*[_ROW.unpack_from(block, offset) for block in blocks], strict=True))
        counters = dict(zip(COUNTERS, map(sum, columns), strict=True))
        for name, column in _COLUMNS_OF_MAXIMA:
            counters[name] = max(columns[column])
        histograms = {}
        if entity.kind == "backend":
            for i, name in enumerate(HISTOGRAMS):
                start = offset + _ROW.size + i * _HISTOGRAM.size
                parts = (_HISTOGRAM.unpack_from(block, start) for block in blocks)
                histograms[name] = tuple(map(sum, zip(*parts, strict=True)))
        return Sums(counters, histograms)


class Elder(NamedTuple):
    """Blocks of those before a reload, as they are laid out."""

    blocks: Sequence[memoryview]
    layout: Layout


# Of all servers that never served anybody: thousands of them share one.
_NOTHING = Sums(dict.fromkeys(COUNTERS, 0), {})
# Rows compared in one go when looking for those that changed.
_STRETCH = 64


class _Rows:
    """The rows of one layout over all blocks, kept up: what stood still since the last look costs next to nothing."""

    def __init__(self, blocks: Sequence[memoryview], layout: Layout) -> None:
        self._blocks = blocks
        self._layout = layout
        self._bounds = (*layout.offsets, layout.size)
        self._seen = [bytes(layout.size) for _ in blocks]
        self.sums: dict[Entity, Sums] = {}
        """Of all rows that were ever touched, each by itself."""

    def look(self) -> list[Entity]:
        """Bring `sums` up to date; what has changed since the last look."""
        rows: set[int] = set()
        for i, block in enumerate(self._blocks):
            now, before = bytes(block), self._seen[i]
            if now != before:
                rows.update(self._changed(before, now))
                self._seen[i] = now
        changed = [self._layout.rows[row] for row in sorted(rows)]
        for entity in changed:
            self.sums[entity] = Sums.of(entity, self._seen, self._layout)
        return changed

    def _changed(self, before: bytes, now: bytes) -> Iterator[int]:
        bounds = self._bounds
        last = len(bounds) - 1
        for first in range(0, last, _STRETCH):
            end = min(first + _STRETCH, last)
            if now[bounds[first] : bounds[end]] != before[bounds[first] : bounds[end]]:
                for row in range(first, end):
                    if now[bounds[row] : bounds[row + 1]] != before[bounds[row] : bounds[row + 1]]:
                        yield row


class Totals:
    """Everybody's numbers over all workers, kept up.

    `elders`: what others have counted before, or still count. What a server served that is no more is its backend's.
    `cleared`: a block of the same layout with what had been counted when the counters were cleared.
    """

    def __init__(
        self,
        blocks: Sequence[memoryview],
        layout: Layout,
        elders: Iterable[Elder] = (),
        cleared: memoryview | None = None,
    ) -> None:
        self._layout = layout
        self._cleared = cleared
        self._is_cleared = cleared is not None and any(cleared)
        self._rows = _Rows(blocks, layout)
        self._elders = [(_Rows(*elder), _heirs(elder.layout, layout)) for elder in elders]
        # Which rows of elders belong to one of ours.
        self._inherited: dict[Entity, list[tuple[_Rows, Entity]]] = {}
        for rows, heirs in self._elders:
            for entity, heir in heirs.items():
                self._inherited.setdefault(heir, []).append((rows, entity))
        # A backend's own row: what no server got.
        self._own: dict[Entity, Sums] = {}
        self._servers: dict[Entity, list[Entity]] = {}
        self._backend_of: dict[Entity, Entity] = {}
        self.sums: dict[Entity, Sums] = {}
        """As of the last look. A backend's are its own row with those of its servers added."""
        backend = layout.rows[0]
        nobody = [bytes(layout.size)]
        for entity in layout.rows:
            if entity.kind == "backend":
                backend = entity
                self._servers[backend] = []
                self._own[backend] = Sums.of(entity, nobody, layout)
            elif entity.kind == "server":
                self._servers[backend].append(entity)
                self._backend_of[entity] = backend
            self.sums[entity] = self._own.get(entity, _NOTHING)
        self.look()

    def look(self) -> list[Entity]:
        """Bring `sums` up to date. The entities whose own rows changed since the last look."""
        changed = dict.fromkeys(self._rows.look())
        for rows, heirs in self._elders:
            changed.update(dict.fromkeys(heirs[entity] for entity in rows.look() if entity in heirs))
        self._take(changed)
        return list(changed)

    def clear(self) -> None:
        """Count from nothing, from now on. Maxima are the workers' to forget."""
        assert self._cleared is not None
        for entity, offset in zip(self._layout.rows, self._layout.offsets, strict=True):
            sums = self._counted(entity)
            _ROW.pack_into(self._cleared, offset, *(0 if name in _KEPT else sums.counters[name] for name in COUNTERS))
            for i, times in enumerate(sums.histograms.values()):
                _HISTOGRAM.pack_into(self._cleared, offset + _ROW.size + i * _HISTOGRAM.size, *times)
        self._is_cleared = True
        self._take(self._layout.rows)

    def _take(self, changed: Iterable[Entity]) -> None:
        backends = set()
        for entity in changed:
            sums = self._row(entity)
            if entity.kind == "backend":
                self._own[entity] = sums
                backends.add(entity)
                continue
            self.sums[entity] = sums
            if entity.kind == "server":
                backends.add(self._backend_of[entity])
        for backend in backends:
            self.sums[backend] = self._with_servers(backend)

    def _row(self, entity: Entity) -> Sums:
        sums = self._counted(entity)
        if not self._is_cleared or self._cleared is None or sums is _NOTHING:
            return sums
        before = Sums.of(entity, [self._cleared], self._layout)
        return Sums(
            {name: number - before.counters[name] for name, number in sums.counters.items()},
            {
                name: tuple(now - then for now, then in zip(times, before.histograms[name], strict=True))
                for name, times in sums.histograms.items()
            },
        )

    def _counted(self, entity: Entity) -> Sums:
        """Since ever."""
        sums = self._rows.sums.get(entity)
        for rows, elder in self._inherited.get(entity, ()):
            more = rows.sums.get(elder)
            if more is not None:
                sums = _merged(sums if sums is not None else _nothing(entity), more, is_of_server=elder != entity)
        return sums if sums is not None else _nothing(entity)

    def _with_servers(self, backend: Entity) -> Sums:
        own = self._own[backend]
        rows = [sums.counters for server in self._servers[backend] if (sums := self.sums[server]) is not _NOTHING]
        if not rows:
            return own
        columns = list(zip(*(row.values() for row in rows), strict=True))
        counters = dict(own.counters)
        for name, column in _COLUMNS_OF_SERVERS:
            counters[name] += sum(columns[column])
        for name, column in _COLUMNS_OF_MAXIMA:
            if name in _MAXIMA_OF_SERVERS:
                counters[name] = max(counters[name], *columns[column])
        return Sums(counters, own.histograms)


def _nothing(entity: Entity) -> Sums:
    if entity.kind != "backend":
        return _NOTHING
    return Sums(_NOTHING.counters, dict.fromkeys(HISTOGRAMS, (0,) * BUCKETS))


def _heirs(before: Layout, layout: Layout) -> dict[Entity, Entity]:
    """Whose row goes on in which; a server's that is no more in its backend's, others' that are no more in none."""
    places = layout.places
    heirs = {}
    for entity in before.rows:
        heir = entity
        if entity not in places and entity.kind == "server":
            heir = Entity("backend", entity.proxy)
        if heir in places:
            heirs[entity] = heir
    return heirs


def _merged(sums: Sums, more: Sums, *, is_of_server: bool) -> Sums:
    """With what others have counted, before or beside; `is_of_server`: a server's, to be its backend's."""
    counters = dict(sums.counters)
    for name, number in more.counters.items():
        if is_of_server and name not in _OF_SERVERS and name not in _MAXIMA_OF_SERVERS:
            continue
        if name in _MAXIMA or name in _PEAKS:
            counters[name] = max(counters[name], number)
        else:
            counters[name] += number
    if is_of_server:
        return Sums(counters, sums.histograms)
    histograms = {
        name: tuple(map(sum, zip(times, more.histograms[name], strict=True))) for name, times in sums.histograms.items()
    }
    return Sums(counters, histograms)


def fold(block: memoryview, layout: Layout, elder: Elder) -> None:
    """Add to `block` for good what others have counted who count no more. Gauges are over with them."""
    rows = _Rows(*elder)
    heirs = _heirs(elder.layout, layout)
    for entity in rows.look():
        heir = heirs.get(entity)
        if heir is None:
            continue
        sums = _merged(Sums.of(heir, [block], layout), rows.sums[entity], is_of_server=heir != entity)
        counters = sums.counters | dict.fromkeys(GAUGES, 0)
        offset = layout.places[heir]
        _ROW.pack_into(block, offset, *(_bounded(counters[name]) for name in COUNTERS))
        for i, times in enumerate(sums.histograms.values()):
            _HISTOGRAM.pack_into(block, offset + _ROW.size + i * _HISTOGRAM.size, *map(_bounded, times))


def _bounded(number: int) -> int:
    """Whoever may count may write anything, and the sum of two is to be written too."""
    return min(max(number, -_MOST), _MOST)


def forget_peaks(block: memoryview, layout: Layout) -> None:
    """Of those who have ended: their maxima count no more."""
    for offset in layout.offsets:
        for column in _COLUMNS_OF_PEAKS:
            block[offset + column : offset + column + _NUMBER] = bytes(_NUMBER)


def let_go(block: memoryview, layout: Layout) -> None:
    """Of one whose writer is gone and is not replaced: its connections went with it."""
    for offset in layout.offsets:
        for column in _COLUMNS_OF_GAUGES:
            start = offset + column
            if any(block[start : start + _NUMBER]):
                block[start : start + _NUMBER] = bytes(_NUMBER)
