"""Clients that do to a balancer whatever clients do, and look at every answer: is it theirs, and is it whole?"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from rogues import DOINGS, body_of, checksum, dns_reply, upgraded

__all__ = ["KINDS", "Ask", "Crowd", "Line", "Ports", "Replies", "Tally", "query"]

# Nobody waits longer than this (seconds) for what was asked: all of the balancer's timeouts together are shorter.
PATIENCE = 25.0
_RESET = struct.pack("ii", 1, 0)
_PIECE = 8192
_SIZES = (0, 1, 100, 1000, 5000, 65536, 200_000, 1 << 20)
_SIZE_WEIGHTS = (2, 2, 8, 4, 4, 2, 1, 0.6)
# What servers do: mostly what they should.
_DOING_WEIGHTS = {"ok": 30.0, "never": 0.3, "hang": 0.5}
# A balancer's own answers to a request that is well made; others mean that it took it for something else.
_OWN = frozenset((429, 502, 503, 504))
_GARBAGE = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xa5" * 200,
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
    b"GET  /  HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\r\n\r\n\r\n\x00",
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 300 + b"\r\n",
)


@dataclass(frozen=True, slots=True)
class Ports:
    """Where to connect to. Those of `http` and `tcp` lead to the same servers, the last of `http` by way of a cache."""

    http: tuple[int, ...]
    tcp: int
    dns: int
    flow: int


@dataclass(slots=True)
class Tally:
    """What became of all that was asked."""

    whole: Counter[str] = field(default_factory=Counter)
    """By kind of client: answers that were right to the last octet."""
    own: Counter[str] = field(default_factory=Counter)
    """The balancer's own answers, by kind and status."""
    packed: int = 0
    """Answers that came compressed."""
    cut: Counter[str] = field(default_factory=Counter)
    """By kind: the connection ended before the answer did."""
    left: Counter[str] = field(default_factory=Counter)
    """By kind: we went before the end."""
    plain: Counter[str] = field(default_factory=Counter)
    """What became of requests that ask for nothing special: whole, own or cut."""
    wrong: list[str] = field(default_factory=list)
    """What must not be."""


class _Wrong(Exception):
    """An answer that must not be."""


class _Cut(Exception):
    """The connection ended too early."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, and all that is known of the answer."""

    name: str
    method: str = "GET"
    doing: str = "ok"
    size: int = 0
    framing: str = "length"
    body: bytes = b""
    is_chunked: bool = False
    fields: tuple[str, ...] = ()
    is_text: bool = False
    is_shared: bool = False
    """May it be kept, and given to others?"""

    def octets(self) -> bytes:
        target = f"/?id={self.name}&do={self.doing}&size={self.size}&as={self.framing}"
        if self.is_text:
            target += "&type=text"
        if self.is_shared:
            target += "&keep=10"
        lines = [f"{self.method} {target} HTTP/1.1", "Host: soak.test", *self.fields]
        payload = self.body
        if self.is_chunked:
            lines.append("Transfer-Encoding: chunked")
            payload = b"".join(
                b"%x\r\n%b\r\n" % (len(part), part)
                for part in (self.body[at : at + 5000] for at in range(0, len(self.body), 5000))
            )
            payload += b"0\r\n\r\n"
        elif self.body or self.method in ("POST", "PUT"):
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode() + payload


@dataclass(slots=True)
class Line:
    """A connection to the balancer."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    source: str
    is_tcp: bool
    packed: int = 0
    """Answers that came compressed."""

    def leave(self, *, reset: bool) -> None:
        """Go at once."""
        sock = self.writer.get_extra_info("socket")
        if reset and sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.writer.transport.abort()

    def send(self, octets: bytes) -> None:
        """To whoever may be gone: reading tells."""
        if not self.writer.is_closing():
            self.writer.write(octets)

    def end(self) -> None:
        """Send no more."""
        if not self.writer.is_closing():
            self.writer.write_eof()

    async def answer(self, ask: Ask) -> str:
        """Read the answer to `ask`: "whole", or the status of an answer of the balancer's own.

        Raises _Cut where it ends too early and _Wrong where it is not the one.
        """
        try:
            status, fields = await self._head()
        except (asyncio.IncompleteReadError, OSError) as error:
            raise _Cut from error
        name = fields.get("x-id")
        if name is None:
            if self.is_tcp:
                if ask.doing == "garbage":
                    raise _Cut
                raise _Wrong(f"{ask}: an answer without a name")
            if status == 200 and ask.doing == "garbage":
                # Some begins well.
                if ask.method != "HEAD":
                    await self._body(ask, fields)
                    raise _Wrong(f"{ask}: garbage passed as an answer")
                raise _Cut
            if status not in _OWN and not (status == 408 and ask.doing == "ok"):
                raise _Wrong(f"{ask}: answered {status}")
            with contextlib.suppress(asyncio.IncompleteReadError, OSError):
                await self._body(ask, fields)
            return str(status)
        if name != ask.name:
            raise _Wrong(f"{ask}: got the answer to {name!r}")
        got = fields["x-got"] if ask.doing == "early" else f"{ask.method} {checksum(ask.body)}"
        if fields["x-got"] != got:
            raise _Wrong(f"{ask}: the server got {fields['x-got']}, not {got}")
        if not self.is_tcp and not ask.is_shared and fields["x-saw"] != self.source:
            raise _Wrong(f"{ask}: the server was told of {fields['x-saw']!r}, not {self.source}")
        try:
            body = await self._body(ask, fields)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise _Cut from error
        wanted = b"" if ask.method == "HEAD" else body_of(ask.name, ask.size)
        if fields.get("content-encoding") == "gzip" and ask.method != "HEAD":
            self.packed += 1
            unpacking = zlib.decompressobj(31)
            body = unpacking.decompress(body)
            if not unpacking.eof and ask.framing != "close":
                raise _Wrong(f"{ask}: compressed content that is not whole")
        if body != wanted:
            if ask.framing == "close" and wanted.startswith(body):
                raise _Cut
            raise _Wrong(f"{ask}: a body of {len(body)} octets that is not the one")
        return "whole"

    async def _head(self) -> tuple[int, Mapping[str, str]]:
        while True:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            start, *lines = head.rstrip("\r\n").split("\r\n")
            version, _, rest = start.partition(" ")
            if version != "HTTP/1.1" or not rest[:3].isdigit():
                if self.is_tcp:
                    raise _Cut
                raise _Wrong(f"an answer that begins {start[:60]!r}")
            status = int(rest[:3])
            if status >= 200 or status == 101:
                return status, {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines)}

    async def _body(self, ask: Ask, fields: Mapping[str, str]) -> bytes:
        if ask.method == "HEAD":
            return b""
        if fields.get("transfer-encoding"):
            parts = []
            while True:
                line = await self.reader.readuntil(b"\r\n")
                size = int(line, 16)
                part = await self.reader.readexactly(size + 2)
                if not size:
                    return b"".join(parts)
                parts.append(part[:-2])
        if "content-length" in fields:
            return await self.reader.readexactly(int(fields["content-length"]))
        return await self.reader.read(-1)


class Crowd:
    """Clients that come and go, each by what its own dice say."""

    def __init__(self, ports: Ports, *, seed: int, clients: int, pause: float) -> None:
        self.tally = Tally()
        self._ports = ports
        self._clients = clients
        self._pause = pause
        self._dice = [random.Random(f"{seed}/{number}") for number in range(clients)]
        self._count = 0

    async def visit(self, seconds: float) -> None:
        """All of them, for so long; at the end they leave wherever they are."""
        tasks = [asyncio.create_task(self._client(dice)) for dice in self._dice]
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    async def _client(self, dice: random.Random) -> None:
        names, weights = list(KINDS), [weight for _, weight in KINDS.values()]
        while True:
            (kind,) = dice.choices(names, weights)
            try:
                async with asyncio.timeout(PATIENCE):
                    await KINDS[kind][0](self, kind, dice)
            except TimeoutError:
                self.tally.wrong.append(f"{kind}: no end within {PATIENCE:g} s")
            except _Wrong as error:
                self.tally.wrong.append(f"{kind}: {error}")
            except (_Cut, OSError, asyncio.IncompleteReadError):
                self.tally.cut[kind] += 1
            await asyncio.sleep(dice.expovariate(1 / self._pause))

    # What they are made of

    def _name(self) -> str:
        self._count += 1
        return f"n{self._count}"

    def _ask(self, dice: random.Random, *, is_tcp: bool = False, fields: tuple[str, ...] = ()) -> Ask:
        doings = [doing for doing in DOINGS if not (is_tcp and doing in ("unasked", "interim"))]
        (doing,) = dice.choices(doings, [_DOING_WEIGHTS.get(doing, 1.0) for doing in doings])
        (size,) = dice.choices(_SIZES, _SIZE_WEIGHTS)
        if doing == "unasked":
            size = min(size, 1000)
        method = dice.choice(("GET", "GET", "GET", "HEAD", "POST", "PUT"))
        name = self._name()
        body = b""
        if method in ("POST", "PUT"):
            body = body_of(name, dice.choices(_SIZES, _SIZE_WEIGHTS)[0])
        framing = dice.choices(("length", "chunked", "close"), (4, 2, 0.3))[0]
        is_chunked = bool(body) and dice.random() < 0.3
        is_text = dice.random() < 0.3
        if is_text:
            fields = (*fields, "Accept-Encoding: gzip")
        return Ask(name, method, doing, size, framing, body, is_chunked, fields, is_text)

    @contextlib.asynccontextmanager
    async def _line(
        self, dice: random.Random, *, is_tcp: bool = False, room: int | None = None, port: int = 0
    ) -> AsyncIterator[Line]:
        port = port or (self._ports.tcp if is_tcp else dice.choice(self._ports.http))
        source = f"127.0.0.{dice.randrange(2, 10)}"
        sock = socket.socket()
        try:
            sock.setblocking(False)
            if room is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
            sock.bind((source, 0))
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
            reader, writer = await asyncio.open_connection(sock=sock, limit=room or 1 << 21)
        except BaseException:
            sock.close()
            raise
        line = Line(reader, writer, source, is_tcp)
        try:
            yield line
        except BaseException:
            line.leave(reset=dice.random() < 0.5)
            raise
        line.writer.close()

    async def _judge(self, kind: str, line: Line, ask: Ask) -> bool:
        """Read an answer and count it. Whether another may be asked for on this connection."""
        is_plain = ask.doing == "ok" and ask.framing != "close"
        packed = line.packed
        try:
            came = await line.answer(ask)
        except _Cut:
            if is_plain:
                self.tally.plain["cut"] += 1
            raise
        if is_plain:
            self.tally.plain["whole" if came == "whole" else "own"] += 1
        if came == "whole":
            self.tally.whole[kind] += 1
            self.tally.packed += line.packed - packed
        else:
            self.tally.own[f"{kind} {came}"] += 1
        return came == "whole" and ask.framing != "close" and ask.doing not in ("close", "drop", "early")

    # The kinds of clients

    async def keep_alive(self, kind: str, dice: random.Random, *, is_tcp: bool = False) -> None:
        """Requests one after the other."""
        async with self._line(dice, is_tcp=is_tcp) as line:
            for _ in range(dice.randrange(1, 20)):
                ask = self._ask(dice, is_tcp=is_tcp)
                line.send(ask.octets())
                if not await self._judge(kind, line, ask):
                    return
                if dice.random() < 0.2:
                    await asyncio.sleep(dice.random() * 0.1)

    async def new_connection(self, kind: str, dice: random.Random, *, is_tcp: bool = False) -> None:
        """One request; behind its answer there is nothing."""
        ask = self._ask(dice, is_tcp=is_tcp, fields=("Connection: close",))
        async with self._line(dice, is_tcp=is_tcp) as line:
            line.send(ask.octets())
            if await self._judge(kind, line, ask) and (more := await line.reader.read(100)):
                raise _Wrong(f"{ask}: {more!r} behind the answer")

    async def shared(self, kind: str, dice: random.Random) -> None:
        """What many ask for, and the balancer may keep."""
        async with self._line(dice, port=self._ports.http[-1]) as line:
            for _ in range(dice.randrange(1, 20)):
                number = dice.randrange(100)
                fields = ("Accept-Encoding: gzip",) if dice.random() < 0.5 else ()
                size, framing = _SIZES[number % 7], ("length", "chunked")[number % 2]
                ask = Ask(f"s{number}", size=size, framing=framing, fields=fields, is_text=True, is_shared=True)
                line.send(ask.octets())
                if not await self._judge(kind, line, ask):
                    return

    async def through_tcp(self, kind: str, dice: random.Random) -> None:
        """The same through a TCP proxy."""
        await dice.choice((self.keep_alive, self.new_connection))(kind, dice, is_tcp=True)

    async def half_closed(self, kind: str, dice: random.Random) -> None:
        """Done with sending before the answer comes."""
        is_tcp = dice.random() < 0.3
        ask = self._ask(dice, is_tcp=is_tcp)
        async with self._line(dice, is_tcp=is_tcp) as line:
            line.send(ask.octets())
            line.end()
            await self._judge(kind, line, ask)

    async def pipelined(self, kind: str, dice: random.Random) -> None:
        """Many requests at once; their answers come in order."""
        asks = [self._ask(dice) for _ in range(dice.randrange(2, 20))]
        async with self._line(dice) as line:
            sending = asyncio.create_task(_send(line, b"".join(ask.octets() for ask in asks), dice, pause=0.0))
            try:
                for ask in asks:
                    if not await self._judge(kind, line, ask):
                        return
            finally:
                await _ended(sending)

    async def expecting(self, kind: str, dice: random.Random) -> None:
        """Waits to be told to go on, or does not."""
        ask = self._ask(dice, fields=("Expect: 100-continue",))
        async with self._line(dice) as line:
            head, blank, body = ask.octets().partition(b"\r\n\r\n")
            line.send(head + blank)
            await asyncio.sleep(dice.choice((0.0, 0.05)))
            line.send(body)
            await self._judge(kind, line, ask)

    async def upgrade(self, kind: str, dice: random.Random) -> None:
        """A tunnel that one of the ends closes."""
        is_tcp, name = dice.random() < 0.3, self._name()
        ends = dice.choice((-1, dice.randrange(1, 50_000)))
        async with self._line(dice, is_tcp=is_tcp) as line:
            line.send(
                f"GET /?id={name}&ends={ends} HTTP/1.1\r\nHost: soak.test\r\n"
                "Connection: upgrade\r\nUpgrade: echo\r\n\r\n".encode()
            )
            status, fields = await line._head()
            if status != 101:
                if status not in _OWN:
                    raise _Wrong(f"upgrade {name}: answered {status}")
                self.tally.own[f"{kind} {status}"] += 1
                return
            if fields["x-id"] != name:
                raise _Wrong(f"upgrade {name}: got the tunnel of {fields['x-id']}")
            sent = 0
            for _ in range(dice.randrange(1, 15)):
                data = dice.randbytes(dice.choice((1, 10, 1000, 20_000)))
                sent += len(data)
                line.send(data)
                wanted = upgraded(name, data)
                if 0 <= ends <= sent:
                    wanted = wanted[: len(data) - (sent - ends)]
                if await line.reader.readexactly(len(wanted)) != wanted:
                    raise _Wrong(f"upgrade {name}: other octets came back")
                if 0 <= ends <= sent:
                    break
                if dice.random() < 0.2:
                    await asyncio.sleep(dice.random() * 0.2)
            else:
                if dice.random() < 0.3:
                    self.tally.left[kind] += 1
                    line.leave(reset=dice.random() < 0.5)
                    return
                line.end()
            with contextlib.suppress(ConnectionResetError):
                if more := await line.reader.read(100):
                    raise _Wrong(f"upgrade {name}: {more!r} behind the end")
            self.tally.whole[kind] += 1

    async def leaving(self, kind: str, dice: random.Random) -> None:
        """Goes after so many octets of the request, or of the answer."""
        is_tcp = dice.random() < 0.3
        asks = [self._ask(dice, is_tcp=is_tcp) for _ in range(dice.randrange(1, 4))]
        octets = b"".join(ask.octets() for ask in asks)
        async with self._line(dice, is_tcp=is_tcp) as line:
            if dice.random() < 0.5:
                octets = octets[: dice.randrange(len(octets) + 1)]
                left = 0
            else:
                left = dice.randrange(1, sum(ask.size for ask in asks) + 300)
            sending = asyncio.create_task(_send(line, octets, dice, pause=0.0))
            try:
                if not left:
                    await _ended(sending, cancel=False)
                    if dice.random() < 0.3:
                        line.end()
                        left = 1 << 30
                while left > 0 and (data := await line.reader.read(min(left, 65536))):
                    left -= len(data)
            finally:
                await _ended(sending)
            self.tally.left[kind] += 1
            line.leave(reset=dice.random() < 0.5)

    async def slow_reader(self, kind: str, dice: random.Random) -> None:
        """Reads a little at a time, and sometimes nothing more."""
        is_tcp, name = dice.random() < 0.3, self._name()
        size = dice.choice((100_000, 1 << 20))
        ask = Ask(name, size=size, framing=dice.choice(("length", "chunked")))
        async with self._line(dice, is_tcp=is_tcp, room=16384) as line:
            line.send(ask.octets())
            if dice.random() < 0.3:
                await asyncio.sleep(dice.random() * 5)
                self.tally.left[kind] += 1
                line.leave(reset=dice.random() < 0.5)
                return
            slow = Line(_Slow(line.reader, dice), line.writer, line.source, is_tcp)  # type: ignore[arg-type]
            await self._judge(kind, slow, ask)

    async def slow_writer(self, kind: str, dice: random.Random) -> None:
        """Writes a little at a time, and sometimes nothing more."""
        name = self._name()
        ask = Ask(name, "POST", body=body_of(name, dice.choice((0, 100, 100_000))), is_chunked=dice.random() < 0.5)
        octets = ask.octets()
        async with self._line(dice) as line:
            if dice.random() < 0.3:
                # The balancer is to tell it that it has waited for long enough, or to close.
                line.send(octets[: dice.randrange(1, 50)])
                said = await line.reader.read(-1)
                if said and not said.startswith(b"HTTP/1.1 408 "):
                    raise _Wrong(f"a slow head was answered {said[:40]!r}")
                self.tally.own[f"{kind} {'408' if said else 'closed'}"] += 1
                return
            sending = asyncio.create_task(_send(line, octets, dice, pause=1.0))
            try:
                await self._judge(kind, line, ask)
            finally:
                await _ended(sending)

    async def garbage(self, kind: str, dice: random.Random) -> None:
        """What is no request gets an answer that says so, or none."""
        async with self._line(dice) as line:
            line.send(dice.choice(_GARBAGE))
            said = await line.reader.read(-1)
            status = said[9:12].decode("latin-1")
            if said and status not in ("400", "408", "414", "431", "501", "505", "503", "502"):
                raise _Wrong(f"garbage was answered {said[:40]!r}")
            self.tally.own[f"{kind} {status or 'closed'}"] += 1

    async def silent(self, kind: str, dice: random.Random) -> None:
        """Connects and says nothing, for as long as it may."""
        async with self._line(dice, is_tcp=dice.random() < 0.3) as line:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(dice.random() * 6):
                    await line.reader.read(-1)
            self.tally.left[kind] += 1

    async def names(self, kind: str, dice: random.Random) -> None:
        """DNS queries, some of which the server loses, or answers twice, or wrongly."""
        is_flow = dice.random() < 0.3
        loop = asyncio.get_running_loop()
        replies: asyncio.Queue[bytes] = asyncio.Queue()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: Replies(replies), remote_addr=("127.0.0.1", self._ports.flow if is_flow else self._ports.dns)
        )
        try:
            for _ in range(dice.randrange(1, 10)):
                doing = dice.choices(("ok", "lost", "forged", "garbage", "twice"), (20, 1, 1, 1, 1))[0]
                if is_flow:
                    doing = "ok"
                name = f"{doing}.{self._name()}.soak.test"
                octets = query(dice.randrange(65536), name)
                transport.sendto(octets)
                try:
                    async with asyncio.timeout(2.0):
                        reply = await replies.get()
                except TimeoutError:
                    # The server is dead, or lost it; who asks goes on with another port.
                    self.tally.cut[kind] += 1
                    return
                if reply[3] & 15 == 2:
                    # SERVFAIL: no server left.
                    self.tally.own[f"{kind} SERVFAIL"] += 1
                elif reply != dns_reply(octets, name):
                    raise _Wrong(f"{name}: another answer, {reply!r}")
                else:
                    self.tally.whole[kind] += 1
        finally:
            transport.close()


class Replies(asyncio.DatagramProtocol):
    """Datagrams that came, into a queue."""

    def __init__(self, queue: asyncio.Queue[bytes]) -> None:
        self._queue = queue

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002
        self._queue.put_nowait(data)


class _Slow:
    """A reader with pauses."""

    def __init__(self, reader: asyncio.StreamReader, dice: random.Random) -> None:
        self._reader = reader
        self._pause = dice.choice((0.001, 0.01))
        self.readuntil = reader.readuntil

    async def readexactly(self, count: int) -> bytes:
        parts = []
        while count:
            part = await self._reader.readexactly(min(count, _PIECE))
            count -= len(part)
            parts.append(part)
            await asyncio.sleep(self._pause)
        return b"".join(parts)


async def _send(line: Line, octets: bytes, dice: random.Random, *, pause: float) -> None:
    """In pieces, as far as the balancer takes them; over about `pause` seconds."""
    pieces = dice.randrange(1, 12)
    cuts = [*sorted(dice.randrange(len(octets) + 1) for _ in range(pieces)), len(octets)]
    at = 0
    for cut in cuts:
        line.send(octets[at:cut])
        await line.writer.drain()
        at = cut
        await asyncio.sleep(pause / pieces)


async def _ended(task: asyncio.Task[None], *, cancel: bool = True) -> None:
    """Wait for a sender, whose failure the reader sees too."""
    if cancel:
        task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()


def query(number: int, name: str) -> bytes:
    """A DNS query for an address."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + labels + b"\x00" + struct.pack("!2H", 1, 1)


# By name: what they do, and how many of them there are among all.
KINDS: dict[str, tuple[Callable[[Crowd, str, random.Random], Awaitable[None]], float]] = {
    "keep-alive": (Crowd.keep_alive, 10),
    "new connection": (Crowd.new_connection, 10),
    "shared": (Crowd.shared, 6),
    "tcp": (Crowd.through_tcp, 6),
    "half-closed": (Crowd.half_closed, 3),
    "pipelined": (Crowd.pipelined, 4),
    "expecting": (Crowd.expecting, 2),
    "upgrade": (Crowd.upgrade, 4),
    "leaving": (Crowd.leaving, 12),
    "slow reader": (Crowd.slow_reader, 3),
    "slow writer": (Crowd.slow_writer, 2),
    "garbage": (Crowd.garbage, 3),
    "silent": (Crowd.silent, 1),
    "dns": (Crowd.names, 6),
}
