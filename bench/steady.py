"""Clients that are to lose nothing: whoever serves them, each request is answered, each connection lasts."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from customers import Ask, Line, Replies, query
from rogues import body_of, dns_reply, upgraded

__all__ = ["MIX", "Doors", "Steady", "Told"]

# Nobody waits longer than this for what takes milliseconds (seconds).
PATIENCE = 10.0
# A datagram is never lost on the loopback interface but by the balancer; a server answers at once.
UNTIL_LOST = 4.0
# What a long download takes from its line at a time, how often (seconds), and how much there is altogether: more than
# the buffers on its way hold, and than it takes in four minutes; or in a minute.
SIP, SIP_EVERY, DOWNLOAD, SHORT_DOWNLOAD = 10_000, 0.1, 24 << 20, 12 << 20
# Who reads so slowly is not to have the whole in the kernel's buffers.
ROOM = 65536
SHORT_LIFE = (0.5, 3.0)
_SIZES = (0, 100, 1000, 5000, 60_000)


@dataclass(frozen=True, slots=True)
class Doors:
    """Ports of the frontends."""

    plain: int
    rules: int
    tcp: int
    flow: int
    dns: int


@dataclass(slots=True)
class Told:
    """What clients did and saw."""

    counts: Counter[str] = field(default_factory=Counter)
    """By frontend and what: connections, requests, answers, switched, flows, datagrams."""
    done: Counter[str] = field(default_factory=Counter)
    """By kind of client: what came back as it should."""
    latencies: list[tuple[float, float]] = field(default_factory=list)
    """Of requests: when asked (monotonic seconds), and seconds until the answer was whole."""
    lost: list[str] = field(default_factory=list)
    """What must not be."""


class _Lost(Exception):
    """Something failed that was not to."""


@dataclass(slots=True)
class _Line(Line):
    """A line whose answers' heads are kept."""

    fields: Mapping[str, str] = field(default_factory=dict)

    async def _head(self) -> tuple[int, Mapping[str, str]]:
        # Not super(): a dataclass with slots is another class than its methods were made in.
        status, self.fields = await Line._head(self)
        return status, self.fields

    @property
    def is_over(self) -> bool:
        """We were told that this answer is the last."""
        return self.fields.get("connection", "").lower() == "close"


class Steady:
    """All of them. `begin` those that live long, then the others; `stop` ends all in order."""

    def __init__(self, doors: Doors, *, seed: int, is_short: bool = False) -> None:
        self.told = Told()
        self._doors = doors
        self._seed = seed
        self._download = SHORT_DOWNLOAD if is_short else DOWNLOAD
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()
        self._missing = 0
        self._have_begun = asyncio.Event()
        self._number = 0

    def begin(self, kinds: Mapping[str, int]) -> None:
        """So many of each kind."""
        for kind, many in kinds.items():
            for _ in range(many):
                self._number += 1
                self._missing += 1
                dice = random.Random(f"{self._seed}/{self._number}")
                self._tasks.append(asyncio.create_task(self._live(kind, dice)))

    async def until_all_have_begun(self, within: float) -> bool:
        """Each has had an answer."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._have_begun.wait(), within)
        return not self._missing

    async def stop(self) -> None:
        """They finish what they have begun."""
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _live(self, kind: str, dice: random.Random) -> None:
        is_there = False

        def well() -> None:
            nonlocal is_there
            self.told.done[kind] += 1
            if not is_there:
                is_there = True
                self._missing -= 1
                if not self._missing:
                    self._have_begun.set()

        while not self._stop.is_set():
            began = time.strftime("%H:%M:%S")
            try:
                await MIX[kind][0](self, dice, well)
            except Exception as error:  # whatever it is, it was not to be
                name = "" if isinstance(error, _Lost) else f"{type(error).__name__} "
                cause = f" ({error.__cause__!r})" if error.__cause__ is not None else ""
                self.told.lost.append(f"{kind}, begun {began}, at {time.strftime('%H:%M:%S')}: {name}{error}{cause}")
                await asyncio.sleep(0.2)

    async def _pause(self, seconds: float) -> None:
        """Or until the end."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    # What they are made of

    def _ask(self, dice: random.Random, fields: tuple[str, ...] = (), *, size: int | None = None) -> Ask:
        name = f"{dice.getrandbits(48):x}"
        method = dice.choice(("GET", "GET", "GET", "POST")) if size is None else "GET"
        body = body_of(name, dice.choice(_SIZES)) if method == "POST" else b""
        size = dice.choice(_SIZES) if size is None else size
        return Ask(name, method, size=size, framing=dice.choice(("length", "chunked")), body=body, fields=fields)

    async def _connect(self, door: str, *, room: int | None = None) -> _Line:
        sock = socket.socket()
        try:
            sock.setblocking(False)
            if room is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
            async with asyncio.timeout(PATIENCE):
                await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", getattr(self._doors, door)))
            reader, writer = await asyncio.open_connection(sock=sock, limit=room or 1 << 21)
        except BaseException:
            sock.close()
            raise
        self.told.counts[f"{door} connections"] += 1
        return _Line(reader, writer, "127.0.0.1", door == "tcp")

    async def _request(self, door: str, line: _Line, ask: Ask) -> None:
        """Asked and answered, or else it is lost."""
        asked = time.monotonic()
        self.told.counts[f"{door} requests"] += 1
        line.send(ask.octets())
        async with asyncio.timeout(PATIENCE):
            came = await line.answer(ask)
        if came != "whole":
            raise _Lost(f"{ask.method} was answered {came}")
        self.told.counts[f"{door} answers"] += 1
        self.told.latencies.append((asked, time.monotonic() - asked))

    # The kinds of clients

    async def keep_alive(self, dice: random.Random, well: Callable[[], None]) -> None:
        """Requests one after the other, with pauses, on a connection until it is told that this is the last."""
        line = await self._connect("plain")
        asked = 0
        try:
            while not self._stop.is_set() and not line.is_over:
                try:
                    await self._request("plain", line, self._ask(dice))
                except Exception as error:
                    raise _Lost(f"request {asked + 1} of a connection") from error
                asked += 1
                well()
                await self._pause(dice.expovariate(1 / 0.08))
        finally:
            line.writer.close()

    async def sticky(self, dice: random.Random, well: Callable[[], None]) -> None:
        """The same with a cookie: always at one server, over all connections."""
        cookie = served = ""
        while not self._stop.is_set():
            line = await self._connect("rules")
            try:
                while not self._stop.is_set() and not line.is_over:
                    await self._request("rules", line, self._ask(dice, (f"Cookie: {cookie}",) if cookie else ()))
                    given, server = line.fields.get("set-cookie", ""), line.fields["x-served-by"]
                    if not cookie:
                        if server.startswith("s"):
                            cookie, served = given.partition(";")[0], server
                    elif server != served or given:
                        raise _Lost(f"its server was {served}, and is {server}, with {given!r}")
                    well()
                    await self._pause(dice.expovariate(1 / 0.08))
            finally:
                line.writer.close()

    async def new_connection(self, dice: random.Random, well: Callable[[], None]) -> None:
        """A connection for each request."""
        door = dice.choice(("plain", "rules"))
        line = await self._connect(door)
        try:
            await self._request(door, line, self._ask(dice, ("Connection: close",)))
            async with asyncio.timeout(PATIENCE):
                if await line.reader.read(1):
                    raise _Lost("something behind the answer")
            well()
        finally:
            line.writer.close()
        await self._pause(dice.expovariate(1 / 0.05))

    async def through_tcp(self, dice: random.Random, well: Callable[[], None]) -> None:
        """A connection for a few requests through the TCP proxy."""
        line = await self._connect("tcp")
        try:
            for _ in range(dice.randrange(1, 4)):
                await self._request("tcp", line, self._ask(dice))
                well()
                await self._pause(dice.expovariate(1 / 0.05))
        finally:
            line.writer.close()

    async def websocket(
        self, dice: random.Random, well: Callable[[], None], *, door: str = "plain", is_short: bool = False
    ) -> None:
        """Talks until the end, or for some seconds."""
        line, name = await self._connect(door), f"{dice.getrandbits(48):x}"
        ends = time.monotonic() + (dice.uniform(*SHORT_LIFE) if is_short else 1e9)
        try:
            self.told.counts[f"{door} requests"] += 1
            line.send(
                f"GET /?id={name} HTTP/1.1\r\nHost: storm.test\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n".encode()
            )
            async with asyncio.timeout(PATIENCE):
                status, fields = await line._head()
            if status != 101 or fields["x-id"] != name:
                raise _Lost(f"answered {status} {fields.get('x-id')}")
            self.told.counts[f"{door} switched"] += 1
            said = 0
            while not self._stop.is_set() and time.monotonic() < ends:
                data = dice.randbytes(dice.choice((1, 10, 1000, 20_000)))
                line.send(data)
                try:
                    async with asyncio.timeout(PATIENCE):
                        back = await line.reader.readexactly(len(data))
                except Exception as error:
                    raise _Lost(f"it ended after {said} messages") from error
                if back != upgraded(name, data):
                    raise _Lost("other octets came back")
                said += 1
                well()
                await self._pause(dice.expovariate(1 / 0.3))
            line.end()
            async with asyncio.timeout(PATIENCE):
                if await line.reader.read(1):
                    raise _Lost("something behind the end")
        finally:
            line.writer.close()

    async def short_websocket(self, dice: random.Random, well: Callable[[], None]) -> None:
        """Talks for some seconds."""
        await self.websocket(dice, well, is_short=True)

    async def stream(self, dice: random.Random, well: Callable[[], None]) -> None:
        """Talks through the TCP proxy until the end."""
        await self.websocket(dice, well, door="tcp")

    async def download(self, dice: random.Random, well: Callable[[], None]) -> None:
        """Takes a little at a time until the end, then the rest."""
        line = await self._connect("plain", room=ROOM)
        try:
            ask = self._ask(dice, size=self._download)
            sips = _Line(_Sips(line.reader, self._stop, well), line.writer, "127.0.0.1", is_tcp=False)  # type: ignore[arg-type]
            self.told.counts["plain requests"] += 1
            line.send(ask.octets())
            came = await sips.answer(ask)
            if came != "whole":
                raise _Lost(f"answered {came}")
            self.told.counts["plain answers"] += 1
            await self._stop.wait()
        finally:
            line.writer.close()

    async def flow(self, dice: random.Random, well: Callable[[], None]) -> None:
        """Datagrams from one port until the end."""
        await self._ask_names("flow", dice, well, many=1 << 30)

    async def names(self, dice: random.Random, well: Callable[[], None]) -> None:
        """DNS queries, some from each port."""
        await self._ask_names("dns", dice, well, many=dice.randrange(1, 20))

    async def _ask_names(self, door: str, dice: random.Random, well: Callable[[], None], *, many: int) -> None:
        replies: asyncio.Queue[bytes] = asyncio.Queue()
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: Replies(replies), remote_addr=("127.0.0.1", getattr(self._doors, door))
        )
        self.told.counts[f"{door} flows"] += 1
        try:
            for asked in range(many):
                if self._stop.is_set():
                    break
                name = f"ok.{dice.getrandbits(48):x}.storm.test"
                octets = query(dice.randrange(65536), name)
                self.told.counts[f"{door} datagrams"] += 1
                transport.sendto(octets)
                try:
                    async with asyncio.timeout(UNTIL_LOST):
                        reply = await replies.get()
                except TimeoutError:
                    raise _Lost(f"no answer to datagram {asked + 1} of a port") from None
                if reply != dns_reply(octets, name):
                    raise _Lost(f"another answer, {reply!r}")
                well()
                await self._pause(dice.expovariate(1 / 0.03))
        finally:
            transport.close()


class _Sips:
    """A reader that takes its time until `hurry` is set."""

    def __init__(self, reader: asyncio.StreamReader, hurry: asyncio.Event, well: Callable[[], None]) -> None:
        self._reader = reader
        self._hurry = hurry
        self._well = well
        self.readuntil = reader.readuntil

    async def readexactly(self, count: int) -> bytes:
        parts = []
        while count:
            async with asyncio.timeout(PATIENCE):
                part = await self._reader.readexactly(min(count, SIP))
            count -= len(part)
            parts.append(part)
            if not self._hurry.is_set():
                self._well()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._hurry.wait(), SIP_EVERY)
        return b"".join(parts)


_Kind = Callable[[Steady, random.Random, Callable[[], None]], Awaitable[None]]
# By name: what they do, and how many of them there are among 64.
MIX: dict[str, tuple[_Kind, int]] = {
    "keep-alive": (Steady.keep_alive, 12),
    "sticky": (Steady.sticky, 6),
    "new connection": (Steady.new_connection, 12),
    "tcp": (Steady.through_tcp, 4),
    "short websocket": (Steady.short_websocket, 6),
    "dns": (Steady.names, 4),
    "websocket": (Steady.websocket, 6),
    "stream": (Steady.stream, 4),
    "download": (Steady.download, 4),
    "flow": (Steady.flow, 6),
}
