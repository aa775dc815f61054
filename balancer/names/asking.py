"""Asking name servers: over UDP, over TCP what does not fit, and the next one where one does not answer.

Each query has a socket of its own, connected, so that the kernel chooses its port at random and takes answers of that
one name server alone (RFC 5452); its id is random too, and what does not answer it is not even looked at.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from balancer.addr import Address
from balancer.config.resolvers import NameServer, Resolvers
from balancer.names.answer import Answer, Kind, Query, Status, read

__all__ = ["RESOLV_CONF", "Asking", "Tally", "resolv_conf"]

RESOLV_CONF = Path("/etc/resolv.conf")
_LARGEST_RESOLV_CONF = 1 << 20
_DNS_PORT = 53
_LARGEST = 65535
# Datagrams that are no answer, read in one go before others get their turn, and in all.
_IN_ONE_GO, _MOST_STRAYS = 16, 10_000
# Aliases that are followed where an answer does not say what is behind them.
_MOST_ALIASES = 8
_SECONDS_BETWEEN_LOOKS = 5.0


@dataclass(slots=True)
class Tally:
    """What came of asking one name server, under HAProxy's names."""

    sent: int = 0
    snd_error: int = 0
    valid: int = 0
    update: int = 0
    """Servers that moved for its answer."""
    cname: int = 0
    cname_error: int = 0
    any_err: int = 0
    nx: int = 0
    timeout: int = 0
    refused: int = 0
    other: int = 0
    invalid: int = 0
    too_big: int = 0
    truncated: int = 0
    """Answers that were asked for again over TCP."""
    outdated: int = 0
    """Datagrams that were no answer to the question."""


@dataclass
class _Asked:
    name: str
    server: NameServer
    tally: Tally = field(default_factory=Tally)
    has_edns: bool = True


def resolv_conf(text: str) -> list[NameServer]:
    """The name servers of resolv.conf(5); lines that make no sense are none."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            host, _, _ = words[1].partition("%")
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with suppress(OSError, ValueError, UnicodeError):
                socket.inet_pton(family, host)
                found.append(NameServer(Address(words[1], _DNS_PORT)))
    return list(dict.fromkeys(found))


class Asking:
    """The name servers of one section."""

    def __init__(
        self,
        name: str,
        config: Resolvers,
        *,
        say: Callable[[str], None] = lambda _: None,
        path: Path = RESOLV_CONF,
        clock: Callable[[], float],
    ) -> None:
        """`say` is told what is wrong with `path`, once."""
        self.name = name
        self._config = config
        self._say = say
        self._path = path
        self._clock = clock
        self._looked = -_SECONDS_BETWEEN_LOOKS
        self._stamp: tuple[int, int, int] | None = None
        self._written = [_Asked(each, server) for each, server in config.written.items()]
        self._asked = list(self._written)
        self._first = 0
        """The one that answered last."""
        self.by = name
        """Who gave the last answer: section and name server."""
        self.look()

    @property
    def tallies(self) -> list[tuple[str, Tally]]:
        """By name server."""
        return [(each.name, each.tally) for each in self._asked]

    def look(self) -> None:
        """Whether resolv.conf names others by now; from time to time."""
        if not self._config.is_of_host or self._clock() - self._looked < _SECONDS_BETWEEN_LOOKS:
            return
        self._looked = self._clock()
        try:
            found = self._path.stat()
            stamp = found.st_ino, found.st_mtime_ns, found.st_size
            if stamp == self._stamp:
                return
            with self._path.open(encoding="utf-8", errors="replace") as file:
                servers = resolv_conf(file.read(_LARGEST_RESOLV_CONF))
            self._stamp = stamp
        except OSError as error:
            if self._stamp != (0, 0, 0):
                self._say(f"resolvers {self.name}: cannot read {self._path}: {error.strerror}")
            self._stamp = (0, 0, 0)
            return
        if not servers:
            self._say(f"resolvers {self.name}: {self._path} names no name server")
        old = {each.server: each for each in self._asked}
        new = [old.get(each) or _Asked(each.address.host, each) for each in servers]
        written = {each.server for each in self._written}
        self._asked = self._written + [each for each in new if each.server not in written]
        self._first = 0

    async def ask(self, name: str, kind: Kind) -> tuple[Answer, Tally | None]:
        """What there is of that kind, and whose answer it is; raises nothing but CancelledError."""
        self.look()
        answer, of = await self._ask_all(name, kind)
        for _ in range(_MOST_ALIASES):
            if not answer.alias:
                break
            behind, of = await self._ask_all(answer.alias, kind)
            ttl = min(answer.ttl, behind.ttl) if answer.ttl else behind.ttl
            answer = behind._replace(ttl=ttl, has_alias=True)
        return answer, of

    async def _ask_all(self, name: str, kind: Kind) -> tuple[Answer, Tally | None]:
        """Each in turn, until one knows."""
        asked = self._asked
        if not asked:
            return Answer(Status.TIMEOUT), None
        worst = Answer(Status.TIMEOUT)
        first = self._first
        for turn in range(max(self._config.resolve_retries, 1) + len(asked) - 1):
            at = (first + turn) % len(asked)
            one = asked[at]
            try:
                answer = await self._ask_one(one, name, kind)
            except ValueError:
                return Answer(Status.INVALID), None
            _count(one.tally, answer)
            if answer.status in (Status.VALID, Status.NX):
                if asked is self._asked:
                    self._first = at
                self.by = f"{self.name}/{one.name}"
                return answer, one.tally
            if answer.status is not Status.TIMEOUT or worst.status is Status.TIMEOUT:
                worst = answer
            if answer.status is not Status.TIMEOUT and turn >= len(asked) - 1:
                # All of them have refused.
                break
        return worst, None

    async def _ask_one(self, one: _Asked, name: str, kind: Kind) -> Answer:
        payload = self._config.accepted_payload_size if one.has_edns else None
        query = Query.of(name, kind, secrets.randbelow(1 << 16), payload=payload)
        one.tally.sent += 1
        try:
            async with asyncio.timeout(self._config.timeout.retry):
                answer = Answer(Status.TRUNCATED)
                if not one.server.is_tcp:
                    answer = await _over_udp(one, query)
                    one.tally.truncated += answer.status is Status.TRUNCATED
                if answer.status is Status.TRUNCATED:
                    answer = await _over_tcp(one, query)
        except TimeoutError:
            return Answer(Status.TIMEOUT)
        except OSError as error:
            if error.errno in (errno.ECONNREFUSED, errno.ECONNRESET):
                # Nobody is there; that is no answer.
                return Answer(Status.TIMEOUT)
            one.tally.snd_error += 1
            return Answer(Status.TIMEOUT)
        if answer.status is Status.NO_EDNS and one.has_edns:
            one.has_edns = False
            return await self._ask_one(one, name, kind)
        return answer if answer.status not in (Status.NO_EDNS, Status.TRUNCATED) else Answer(Status.OTHER)


def _count(tally: Tally, answer: Answer) -> None:
    name = str(answer.status)
    setattr(tally, name, getattr(tally, name) + 1)
    if answer.has_alias:
        tally.cname += 1
        tally.cname_error += answer.status is not Status.VALID


async def _over_udp(one: _Asked, query: Query) -> Answer:
    address = one.server.address
    with socket.socket(address.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
        sock.connect(address.sockaddr)
        sock.send(query.octets)
        for number in range(1, _MOST_STRAYS):
            octets = await _received(sock)
            answer = read(octets, query)
            if answer is not None:
                return answer
            one.tally.outdated += 1
            if number % _IN_ONE_GO == 0:
                await asyncio.sleep(0)
    return Answer(Status.INVALID)


async def _received(sock: socket.socket) -> bytes:
    while True:
        try:
            return sock.recv(_LARGEST)
        except BlockingIOError:
            await _readable(sock)


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock.fileno(), _set, ready)
    try:
        await ready
    finally:
        loop.remove_reader(sock.fileno())


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _over_tcp(one: _Asked, query: Query) -> Answer:
    """RFC 7766: the message's length comes before it."""
    address = one.server.address
    loop = asyncio.get_running_loop()
    with socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
        await loop.sock_connect(sock, address.sockaddr)
        await loop.sock_sendall(sock, len(query.octets).to_bytes(2) + query.octets)
        size = int.from_bytes(await _exactly(loop, sock, 2))
        answer = read(await _exactly(loop, sock, size), query)
    return answer if answer is not None else Answer(Status.INVALID)


async def _exactly(loop: asyncio.AbstractEventLoop, sock: socket.socket, size: int) -> bytes:
    """OSError where less comes."""
    octets = b""
    while len(octets) < size:
        part = await loop.sock_recv(sock, size - len(octets))
        if not part:
            raise OSError(errno.ECONNRESET, "the connection ended")
        octets += part
    return octets
