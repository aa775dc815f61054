"""The kernel's table of connections: of it only those that our rules translated are counted, listed, deleted.

Each question has a socket of its own: one that is not asked to its end leaves nothing behind for the next.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from balancer.errors import StartError
from balancer.kernel.ctnetlink import (
    ACTIVE,
    COUNTED,
    NUMBERS,
    TOLD,
    End,
    Entry,
    Flow,
    Shapes,
    deletion,
    numbers,
    of_processors,
    of_table,
    packed,
    packed_end,
    parse,
    split,
    translated,
    untranslated,
)
from balancer.kernel.plan import Service

__all__ = ["Conntrack", "Index", "Load", "Usage"]

_NETLINK_NETFILTER = 12
# The kernel fills at most 32 KiB at a time.
_CHUNK = 65536
# A deletion is repeated until nothing is found: a packet that had passed the old rules may have made an entry anew.
_ROUNDS = 3
# Of what differs in a table, so much is judged once; few differ where all is ours.
_KNOWN = 10000
# It went by itself; it is in a flow table, out of reach.
_VANISHED = {-errno.ENOENT, -errno.EBUSY}


class Load(NamedTuple):
    """Connections as `ipvsadm -L` counts them."""

    active: int = 0
    """TCP: being set up, or established."""
    inactive: int = 0
    """TCP: being closed, or closed and not forgotten yet. UDP: all."""


class Usage(NamedTuple):
    """How full the table is, with everybody's connections in it."""

    entries: int
    maximum: int
    evicted: int
    """Connections that were forgotten before their time, to make room."""
    dropped: int
    """Packets that were, there being no room."""


class Index:
    """Which frontend a connection belongs to."""

    def __init__(self, services: Iterable[Service]) -> None:
        self._frontends: dict[tuple[bytes, ...], str] = {}
        families = set()
        for service in services:
            families.add(service.family)
            number, port = NUMBERS[service.protocol], service.port.to_bytes(2, "big")
            if service.address:
                self._frontends[number, port, packed(service.address)] = service.frontend
                continue
            # The same port of addresses that are not this host's may be translated by others: the servers tell.
            for target in service.targets:
                self._frontends[number, port, *packed_end((target.address, target.port))] = service.frontend
        self.families = sorted(families)
        self._own = dict(self._frontends)

    def add(self, former: Index) -> None:
        """What that one knew by itself, where it is nobody's now."""
        self._frontends = former._own | self._own

    def find(self, entry: Entry) -> str | None:
        """None: somebody else's."""
        if not entry.is_translated:
            return None
        of_address = self._frontends.get((entry.number, entry.port, entry.address))
        if of_address is not None:
            return of_address
        return self._frontends.get((entry.number, entry.port, entry.server, entry.server_port))


class _Strays:
    """Which connections to services are not as their rules would have them."""

    def __init__(self, services: Iterable[Service], former: Mapping[str, Iterable[End]]) -> None:
        self._servers: dict[tuple[bytes, ...], set[tuple[bytes, bytes]]] = defaultdict(set)
        families = set()
        for service in services:
            families.add(service.family)
            # No connection is to the address of zeros: it stands for all of this host's.
            address = packed(service.address or ("::" if service.family == 6 else "0.0.0.0"))
            of = NUMBERS[service.protocol], service.port.to_bytes(2, "big"), address
            self._servers[of] |= {packed_end((target.address, target.port)) for target in service.targets}
            if former and service.protocol == "tcp":
                self._servers[of] |= {packed_end(end) for end in former.get(service.backend, ())}
        self.families = sorted(families)
        self._are_own: dict[bytes, bool] = {}

    def has(self, entry: Entry) -> bool:
        servers = self._servers.get((entry.number, entry.port, entry.address))
        if servers is None:
            servers = self._servers.get((entry.number, entry.port, bytes(len(entry.address))))
            if servers is None or not self._is_own(entry.address):
                return False
        if entry.zone:
            return False
        if entry.is_translated:
            return (entry.server, entry.server_port) not in servers
        # TCP needs no help: a SYN opens a connection anew.
        return entry.number == NUMBERS["udp"]

    def _is_own(self, address: bytes) -> bool:
        """Is it this host's?"""
        if address not in self._are_own:
            self._are_own[address] = _is_own(address)
        return self._are_own[address]


def _is_own(address: bytes) -> bool:
    """The source of what goes to an address of this host is that address."""
    family = socket.AF_INET6 if len(address) == 16 else socket.AF_INET
    text = socket.inet_ntop(family, address)
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect((text, 9))
        except OSError:
            return False
        return bool(probe.getsockname()[0] == text)


class Conntrack:
    """This network namespace's. StartError where the kernel has none, or does not let us look."""

    def __init__(self) -> None:
        try:
            self.usage()
        except PermissionError as error:
            raise StartError("to see the kernel's table of connections takes CAP_NET_ADMIN") from error
        except OSError as error:
            hint = "try `modprobe nf_conntrack_netlink`"
            raise StartError(f"the kernel does not show its table of connections ({error.strerror}); {hint}") from error

    def usage(self) -> Usage:
        """OSError when the kernel does not say."""
        return Usage(*_sums(of_table()), *_sums(of_processors()))

    def counts(self, services: Iterable[Service]) -> dict[tuple[str, End], Load]:
        """Connections by frontend and server, those to former servers with them; nothing for who has none.

        About 3 µs for each entry of the table, nearly all of it the kernel's. OSError when it does not say.
        """
        index = Index(services)
        found: dict[tuple[str, End], list[int]] = defaultdict(lambda: [0, 0])
        for family in index.families:
            for entry, number in _tally(family):
                frontend = index.find(entry)
                if frontend is not None:
                    found[frontend, entry.target][entry.word not in ACTIVE] += number
        return {key: Load(*numbers) for key, numbers in found.items()}

    def flows(self, services: Iterable[Service]) -> Iterator[Flow]:
        """All connections of these services, at more or less one moment. OSError when the kernel does not say."""
        index = Index(services)
        for family in index.families:
            shapes = Shapes(TOLD[family])
            for chunk, messages in _dump(translated(family)):
                for at, length in messages:
                    shape = shapes.of(chunk, at, length)
                    entry = shape.entry(shape.read(chunk, at)) or parse(chunk[at : at + length], shapes.wanted)
                    if index.find(entry) is not None:
                        yield entry.flow

    def delete(
        self,
        protocol: Literal["tcp", "udp"],
        server: End,
        service: Service | None = None,
        *,
        gone: Callable[[Flow], object] | None = None,
    ) -> int:
        """Forget what was translated to `server`, and nothing else; how many there were.

        `service`: of that one only, with `server` among its targets. None: whoever's rules did it. Each is shown to
        `gone`. To be called when the rules do not lead there any more: the next packet is one of a new connection.
        OSError when the kernel refuses.
        """
        total = 0
        for _ in range(_ROUNDS):
            deleted = 0
            for flow in _delete(protocol, server, service):
                deleted += 1
                if gone is not None:
                    gone(flow)
            total += deleted
            if not deleted:
                break
        return total

    def sweep(self, services: Iterable[Service], former: Mapping[str, Iterable[End]] = MappingProxyType({})) -> int:
        """Forget what no rules of these services make, but which would pass them by; how many there were.

        That is what leads to servers that are none of theirs any more, and datagrams that began when the rules were
        not there, as long as their clients go on. `former`: by backend, where its servers were until they moved, and
        TCP connections go on. To be called when the rules are there. OSError when the kernel refuses.
        """
        strays = _Strays(services, former)
        total = 0
        for family in strays.families:
            for request in (translated(family), untranslated(family, NUMBERS["udp"])):
                for _ in range(_ROUNDS):
                    deleted = _sweep(strays, family, request)
                    total += deleted
                    if not deleted:
                        break
        return total


def _sweep(strays: _Strays, family: int, request: bytes) -> int:
    """Once over the table; how many were there to be deleted."""
    shapes = Shapes(COUNTED[family])
    known: dict[tuple[bytes, ...], bool] = {}
    deleted = 0
    with _socket() as orders:
        for chunk, messages in _dump(request):
            batch = []
            for at, length in messages:
                shape = shapes.of(chunk, at, length)
                read = shape.read(chunk, at)
                is_stray = known.get(read)
                if is_stray is None:
                    entry = shape.entry(read)
                    is_stray = strays.has(entry or parse(chunk[at : at + length], shapes.wanted))
                    if entry is not None and len(known) < _KNOWN:
                        known[read] = is_stray
                if is_stray:
                    batch.append(chunk[at : at + length])
            if batch:
                deleted += len(batch) - len(_order(orders, family, batch))
    return deleted


def _sums(request: bytes) -> list[int]:
    """Numbers of the table, over all messages that answer."""
    found = []
    for chunk, messages in _dump(request):
        found += [each for at, length in messages if (each := numbers(chunk[at : at + length])) is not None]
    if not found:
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
    return [sum(column) for column in zip(*found, strict=True)]


def _tally(family: int) -> Iterator[tuple[Entry, int]]:
    """What differs in what is counted, and how often."""
    shapes = Shapes(COUNTED[family])
    for chunk, messages in _dump(translated(family)):
        for at, length in messages:
            shape = shapes.of(chunk, at, length)
            read = shape.read(chunk, at)
            try:
                shape.tally[read] += 1
            except KeyError:
                if shape.entry(read) is None:
                    yield parse(chunk[at : at + length], shapes.wanted), 1
                else:
                    shape.tally[read] = 1
    for shape in shapes.values():
        for read, number in shape.tally.items():
            if (entry := shape.entry(read)) is not None:
                yield entry, number


def _delete(protocol: Literal["tcp", "udp"], server: End, service: Service | None) -> Iterator[Flow]:
    """Once over the table; those that were there to be deleted."""
    family: Literal[4, 6] = 6 if ":" in server[0] else 4
    number, aim = NUMBERS[protocol], packed_end(server)
    index = None if service is None else Index([service])
    origin = packed_end((service.address, service.port)) if service is not None and service.address else None
    with _socket() as orders:
        for chunk, messages in _dump(translated(family, number, aim, origin)):
            # A kernel before 5.8 knows no filters and tells all, later ones those of all servers of IPv6.
            likely = [chunk[at : at + length] for at, length in messages if aim[0] in chunk[at : at + length]]
            batch = []
            for message in likely:
                entry = parse(message, TOLD[family])
                if (
                    entry.is_translated
                    and entry.number == number
                    and (entry.server, entry.server_port) == aim
                    and (index is None or index.find(entry) is not None)
                ):
                    batch.append((message, entry.flow))
            if batch:
                refused = _order(orders, family, [message for message, _ in batch])
                yield from (flow for sequence, (_, flow) in enumerate(batch) if sequence not in refused)


def _order(orders: socket.socket, family: int, messages: list[bytes]) -> set[int]:
    """Have these deleted; the positions of those that had gone already. OSError when the kernel refuses."""
    last = len(messages) - 1
    texts = [deletion(message, family, at, is_last=at == last) for at, message in enumerate(messages)]
    orders.send(b"".join(texts))
    vanished = set()
    is_over = False
    while not is_over:
        _, results = split(orders.recv(_CHUNK))
        for sequence, result in results:
            if result in _VANISHED:
                vanished.add(sequence)
            elif result:
                raise OSError(-result, os.strerror(-result))
            is_over = sequence == last
    return vanished


def _socket() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)


def _dump(request: bytes) -> Iterator[tuple[bytes, list[tuple[int, int]]]]:
    """The messages that answer, as they come: where they begin, and their lengths. OSError when the kernel refuses."""
    with _socket() as asked:
        asked.send(request)
        is_over = False
        while not is_over:
            chunk = asked.recv(_CHUNK)
            messages, results = split(chunk)
            for _, result in results:
                if result < 0:
                    raise OSError(-result, os.strerror(-result))
                is_over = True
            yield chunk, messages
