"""Every client gets the answer to its own request or none: many at once, and each side leaves at any octet.

Each request carries a number of its own, in target, field and content, and so does its answer. Clients leave after
every octet of a request and of a response, servers after every octet of theirs, in the middle of those that go well,
which share the same connections to the servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.proxy.rig import PATIENCE, Origin, http, rig, run, until

CLIENTS = 64
# How the answer is framed.
LENGTH, CHUNKS = b"length", b"chunks"


@dataclass(frozen=True)
class Job:
    """One request: who leaves, and after how many octets of which message."""

    number: int
    method: bytes = b"GET"
    framing: bytes = LENGTH
    who: str = ""
    of: str = ""
    octets: int = 0
    late: bool = False

    @property
    def id(self) -> bytes:
        return b"%06d" % self.number

    @property
    def request(self) -> bytes:
        plan = b"/".join([self.framing, *([b"late"] if self.late else [])])
        if self.who == "server":
            plan += b"/%b-%d" % (self.of.encode(), self.octets)
        body = b"" if self.method == b"GET" else self.id * 4
        head = b"%b /%b/%b HTTP/1.1\r\nHost: t\r\nX-Id: %b\r\n" % (self.method, self.id, plan, self.id)
        if not body:
            return head + b"\r\n"
        if self.framing == LENGTH:
            return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(body)

    @property
    def response(self) -> bytes:
        return response(self.id, self.framing)


def response(id_: bytes, framing: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nX-Id: %b\r\n" % id_
    if framing == LENGTH:
        return head + b"Content-Length: 18\r\n\r\n" + id_ * 3
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(id_ * 3)


def chunks(data: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (data[:5], data[5:])) + b"0\r\n\r\n"


def jobs() -> Iterator[Job]:
    """In an order that is the same each time."""
    kinds: list[dict[str, Any]] = []
    for method in (b"GET", b"POST"):
        for framing in (LENGTH, CHUNKS):
            usual = {"method": method, "framing": framing}
            sample = Job(0, **usual)
            kinds += (
                {**usual, "who": "client", "of": "request", "octets": n} for n in range(1, len(sample.request) + 1)
            )
            kinds += (
                {**usual, "who": "client", "of": "response", "octets": n} for n in range(len(sample.response) + 1)
            )
            kinds += (
                {**usual, "who": "server", "of": "response", "octets": n} for n in range(len(sample.response) + 1)
            )
            if method == b"POST":
                # A server that leaves before the body leaves after the head: it comes in one piece.
                head = len(sample.request.partition(b"\r\n\r\n")[0]) + 4
                kinds += (
                    {**usual, "who": "server", "of": "request", "octets": n}
                    for n in range(head, len(sample.request) + 1)
                )
            kinds += [usual, {**usual, "late": True}] * 150
    random.Random(1).shuffle(kinds)
    for number, kind in enumerate(kinds):
        yield Job(number, **kind)


class Server(Origin):
    """What it answers is in the target; whatever does not belong together is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed: list[bytes] = []
        self.open: set[asyncio.StreamWriter] = set()

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._serve(reader, writer):
                pass
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        self.open.discard(writer)

    async def stop(self) -> None:
        await super().stop()
        for writer in self.open:
            reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        line, *fields = head.split(b"\r\n")
        method, target, _ = line.split(b" ")
        _, id_, framing, *plan = target.split(b"/")
        leaves, _, octets = plan[-1].partition(b"-") if plan else (b"", b"", b"")
        if leaves == b"request":
            await reader.readexactly(max(0, int(octets) - len(head)))
            reset(writer)
            return False
        body = b""
        if b"Transfer-Encoding: chunked" in fields:
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
        elif method == b"POST":
            body = await reader.readexactly(24)
        if b"X-Id: " + id_ not in fields or body != (b"" if method == b"GET" else id_ * 4):
            self.mixed.append(head + body)
        if b"late" in plan:
            await asyncio.sleep(0.003)
        answer = response(id_, framing)
        if leaves == b"response":
            writer.write(answer[: int(octets)])
            if int(octets) % 2:
                return False
            await asyncio.sleep(0)
            reset(writer)
            return False
        # In two pieces, cut at an octet that is another each time.
        cut = int(id_) % len(answer)
        writer.write(answer[:cut])
        await asyncio.sleep(0)
        writer.write(answer[cut:])
        return True


def reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Client:
    """Does its jobs on one connection as long as that lasts, then on the next."""

    def __init__(self, port: int, outcomes: Counter[str]) -> None:
        self._port = port
        self._outcomes = outcomes
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def do(self, job: Job, following: Job | None) -> None:
        """A job; `following`, if any, is sent right behind it."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        if job.who == "client" and job.of == "request":
            writer.write(job.request[: job.octets])
            await self._pause(job)
            return await self._leave(job)
        half = len(job.request) - (job.number % 20 if job.method == b"POST" else 0)
        writer.write(job.request[:half])
        await asyncio.sleep(0)
        writer.write(job.request[half:] + (following.request if following else b""))
        if job.who == "client":
            got = b""
            with contextlib.suppress(asyncio.IncompleteReadError):
                got = await reader.readexactly(job.octets)
            assert job.response.startswith(got) or got.startswith(b"HTTP/1.1 502 "), (job, got)
            self._outcomes[f"left after {len(got) > 0}"] += 1
            return await self._leave(job)
        for asked in (job, following):
            if asked is not None and self._streams is not None:
                await self._answer(asked)
        return None

    async def _pause(self, job: Job) -> None:
        for _ in range(job.number % 4):
            await asyncio.sleep(0)

    async def _answer(self, job: Job) -> None:
        """The whole answer, or a 502, or the beginning of the answer and the end of the connection."""
        assert self._streams is not None
        reader, _ = self._streams
        got = b""
        is_over = False
        while got != job.response and not is_over:
            try:
                part = await reader.read(1)
            except ConnectionError:
                part = b""
            got += part
            is_over = not part
            if got.startswith(b"HTTP/1.1 502 ") and got.endswith(b"</html>\n"):
                # Of a page of ours nothing belongs to anybody.
                assert job.who == "server" or job.method == b"POST", job
                self._outcomes["502"] += 1
                if b"\r\nconnection: close\r\n" in got:
                    await self._leave(job)
                return
            assert job.response.startswith(got) or b"HTTP/1.1 502 ".startswith(got[:13]), (job, got)
        if is_over:
            assert job.who == "server" or job.method == b"POST" or not got, (job, got)
            self._outcomes["cut"] += 1
            await self._leave(job)
        else:
            self._outcomes["answered"] += 1

    async def _leave(self, job: Job) -> None:
        assert self._streams is not None
        _, writer = self._streams
        self._streams = None
        if job.number % 2:
            reset(writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    def end(self) -> None:
        if self._streams is not None:
            reset(self._streams[1])


@pytest.mark.parametrize("reuse", ["always", "safe", "never"])
def test_every_answer_is_the_answer_to_the_request_before_it(reuse):
    async def main():
        servers = [Server(), Server()]
        async with rig(http(2, backend={"http_reuse": reuse, "retries": 1}), servers) as it:
            outcomes: Counter[str] = Counter()
            waiting = jobs()

            async def client() -> None:
                one = Client(it.port(), outcomes)
                try:
                    for job in waiting:
                        # Pipelined, some of them.
                        following = next(waiting, None) if not job.who and job.number % 3 == 0 else None
                        if following is not None and following.who == "client":
                            following = Job(following.number)
                        async with asyncio.timeout(PATIENCE):
                            await one.do(job, following)
                finally:
                    one.end()

            async with asyncio.TaskGroup() as clients:
                for _ in range(CLIENTS):
                    clients.create_task(client())
            assert not any(server.mixed for server in servers)
            await it.at_rest()
            assert it.server().reuse + it.server("s1").reuse > 500
            assert outcomes["answered"] > 800 and outcomes["cut"] > 100 and outcomes["502"] > 100, outcomes
        await until(lambda: not any(server.open for server in servers), "the servers have heard of it")

    run(main)
