#!/usr/bin/env python3
"""`rogues.py HTTP-PORT DNS-PORT`: does to a balancer whatever servers do. HTTP, an upgrade to an echo, DNS.

The request says how it is to be answered, in its query: `/?id=7-1&do=ok&size=100&as=chunked`. An answer names the id
in its head and is made of it, so that whoever gets another's sees it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import uvloop

__all__ = ["DOINGS", "body_of", "checksum", "dns_reply", "upgraded"]

# What a server may be asked to do, besides answering as it should.
DOINGS = (
    "ok",
    "slow",  # writes its answer with pauses
    "sluggish",  # reads the request with pauses
    "early",  # answers before it has read the body, and closes
    "close",  # announces that it closes
    "drop",  # closes after the answer without having announced it
    "unasked",  # sends an answer more that nobody asked for
    "interim",  # 100 and 103 before the answer
    "cut",  # closes in the middle
    "reset",  # the same with RST
    "hang",  # stops in the middle
    "never",  # does not answer
    "garbage",  # answers what is not HTTP
)
_GARBAGE = (
    b"\x00\x01\x02\x03\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: \x00\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 400 + b"\r\n",
    b"SSH-2.0-OpenSSH_9.2p1\r\n",
)
# A response that would be taken for somebody else's.
_FOREIGN = b"HTTP/1.1 200 OK\r\nX-Id: foreign\r\nContent-Length: 0\r\n\r\n"
_PIECE = 16384
_RESET = struct.pack("ii", 1, 0)


def body_of(name: str, size: int) -> bytes:
    """`size` octets that belong to `name` and to nobody else."""
    line = f"{name};".encode()
    return (line * (size // len(line) + 1))[:size]


def checksum(body: bytes) -> str:
    return f"{len(body)}-{zlib.crc32(body):08x}"


def upgraded(name: str, data: bytes) -> bytes:
    """What comes back through a tunnel for what was sent: as long, and of that name."""
    key = zlib.crc32(name.encode()) & 0xFF
    return bytes(octet ^ key for octet in data)


def dns_reply(query: bytes, name: str) -> bytes:
    """One address, made of the name that was asked for."""
    number = zlib.crc32(name.encode())
    answer = struct.pack("!HHHIH", 0xC00C, 1, 1, 60, 4) + struct.pack("!I", number)
    return query[:2] + b"\x84\x00\x00\x01\x00\x01\x00\x00\x00\x00" + query[12:] + answer


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, read whole unless it is to be answered before that."""

    method: str
    query: Mapping[str, str]
    fields: Mapping[str, str]
    body: bytes

    @property
    def name(self) -> str:
        return self.query.get("id", "")


class _Leave(Exception):
    """Close this connection now."""


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Requests of one connection, one after the other."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, _Leave):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            start, *lines = head.rstrip("\r\n").split("\r\n")
            method, target, _ = start.split(" ")
            fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            query = dict(pair.partition("=")[::2] for pair in target.partition("?")[2].split("&"))
            if query.get("do") == "early":
                await _answer(writer, Asked(method, query, fields, b""))
                break
            if fields.get("expect"):
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await _body(reader, fields, slowly=query.get("do") == "sluggish")
            asked = Asked(method, query, fields, body)
            if "upgrade" in fields:
                await _tunnel(reader, writer, asked)
                break
            await _answer(writer, asked)
            if fields.get("connection", "").lower() == "close" or query.get("do") in ("close", "drop"):
                break
    writer.close()


async def _body(reader: asyncio.StreamReader, fields: Mapping[str, str], *, slowly: bool) -> bytes:
    parts = []
    if fields.get("transfer-encoding"):
        while size := int((await reader.readline()).partition(b";")[0], 16):
            parts.append(await reader.readexactly(size))
            await reader.readline()
        while (await reader.readline()).strip():
            pass
    else:
        left = int(fields.get("content-length", "0"))
        while left:
            part = await reader.read(min(left, _PIECE * 4))
            if not part:
                raise _Leave
            parts.append(part)
            left -= len(part)
            if slowly:
                await asyncio.sleep(0.02)
    return b"".join(parts)


async def _answer(writer: asyncio.StreamWriter, asked: Asked) -> None:
    query, doing = asked.query, asked.query.get("do", "ok")
    octets, framing = _response(asked)
    rng = random.Random(asked.name)
    if doing == "never":
        await asyncio.sleep(60)
    elif doing == "garbage":
        writer.write(rng.choice(_GARBAGE))
        await writer.drain()
        raise _Leave
    elif doing in ("cut", "reset", "hang"):
        writer.write(octets[: rng.randrange(len(octets))])
        await writer.drain()
        if doing == "hang":
            await asyncio.sleep(60)
        elif doing == "reset":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        raise _Leave
    elif doing == "slow":
        pieces = 8
        step = len(octets) // pieces + 1
        for at in range(0, len(octets), step):
            writer.write(octets[at : at + step])
            await writer.drain()
            await asyncio.sleep(float(query.get("pause", "0.02")))
    else:
        if doing == "interim":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        if doing == "unasked" and framing != "close":
            # In one piece with the answer: what comes when its connection serves another already, nobody can tell
            # from the other's answer.
            octets += _FOREIGN
        writer.write(octets)
    await writer.drain()
    if framing == "close":
        raise _Leave


def _response(asked: Asked) -> tuple[bytes, str]:
    """The whole answer, and how its end is known: length, chunked or close."""
    framing = asked.query.get("as", "length")
    body = body_of(asked.name, int(asked.query.get("size", "0")))
    lines = [
        "HTTP/1.1 200 OK",
        f"X-Id: {asked.name}",
        f"X-Got: {asked.method} {checksum(asked.body)}",
        f"X-Saw: {asked.fields.get('x-forwarded-for', '')}",
        f"Content-Type: {'text/plain' if asked.query.get('type') == 'text' else 'application/octet-stream'}",
    ]
    if "keep" in asked.query:
        # What everybody gets tells nobody's address.
        lines[3:4] = [f"Cache-Control: max-age={asked.query['keep']}"]
    if framing == "length":
        lines.append(f"Content-Length: {len(body)}")
        payload = body
    elif framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
        payload = b"".join(
            b"%x\r\n%b\r\n" % (len(part), part)
            for part in (body[at : at + _PIECE] for at in range(0, len(body), _PIECE))
        )
        payload += b"0\r\n\r\n"
    else:
        lines.append("Connection: close")
        payload = body
    if asked.query.get("do") == "close" and framing != "close":
        lines.append("Connection: close")
    head = "\r\n".join([*lines, "", ""]).encode()
    return head + (b"" if asked.method == "HEAD" else payload), framing


async def _tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: Asked) -> None:
    """Give back what comes, changed by the tunnel's name; `ends` octets are the last before this end closes."""
    lines = ["HTTP/1.1 101 Switching Protocols", f"X-Id: {asked.name}", "Connection: upgrade", "Upgrade: echo"]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    left = int(asked.query.get("ends", "-1"))
    while data := await reader.read(65536):
        if left >= 0:
            data = data[:left]
            left -= len(data)
        writer.write(upgraded(asked.name, data))
        await writer.drain()
        if not left:
            break


class Names(asyncio.DatagramProtocol):
    """DNS: the first label of a name says what becomes of the query."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, query: bytes, client: tuple[str, int]) -> None:
        labels, at = [], 12
        while at < len(query) and (size := query[at]):
            labels.append(query[at + 1 : at + 1 + size].decode("latin-1"))
            at += size + 1
        reply, send = dns_reply(query, ".".join(labels)), self.transport.sendto  # type: ignore[attr-defined]
        doing = labels[0] if labels else ""
        if doing == "lost":
            return
        if doing == "forged":
            send(bytes([reply[0] ^ 0xFF]) + reply[1:], client)
        elif doing == "garbage":
            send(reply[:7], client)
        send(reply, client)
        if doing == "twice":
            send(reply, client)


async def main(http_port: int, dns_port: int) -> None:
    """Until somebody ends us."""
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(Names, ("127.0.0.1", dns_port))
    server = await asyncio.start_server(serve, "127.0.0.1", http_port, limit=1 << 20, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
