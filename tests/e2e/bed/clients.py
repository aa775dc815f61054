"""Clients: one request over http.client, raw bytes over a socket, many keep-alive clients that count."""

from __future__ import annotations

import asyncio
import http.client
import socket
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from types import TracebackType

from tests.e2e.bed.process import PATIENCE, until
from tests.e2e.bed.servers import program

__all__ = ["Load", "curl", "dig", "facts", "get", "say", "talk"]


def get(port: int, path: str = "/", *, host: str = "127.0.0.1", **headers: str) -> dict[str, str]:
    """The page of our test servers as a dictionary, after one GET on a connection of its own."""
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        body = response.read().decode()
        assert response.status == 200, f"{response.status}: {body}"
        return facts(body)
    finally:
        connection.close()


def facts(page: str) -> dict[str, str]:
    """`name: value` lines as a dictionary."""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in page.splitlines())}


def talk(port: int, data: bytes, *, then_close: bool = False) -> bytes:
    """Send, then read until the other side closes; `then_close` half-closes after sending."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as peer:
        peer.sendall(data)
        if then_close:
            peer.shutdown(socket.SHUT_WR)
        parts = []
        while part := peer.recv(65536):
            parts.append(part)
        return b"".join(parts)


def curl(*arguments: str | Path, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """curl with no configuration of its user's and no proxy; it must succeed."""
    command = [program("curl"), "-q", "--noproxy", "*", "--silent", "--show-error", "--max-time", "60", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=90)
    assert done.returncode == 0, f"curl {arguments}: {done.returncode} {done.stderr.decode()}"
    return done


def dig(port: int, *arguments: str) -> str:
    """dig's whole output."""
    command = [program("dig"), "@127.0.0.1", "-p", str(port), "+tries=1", "+time=10", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout


class Load:
    """Clients that ask again and again until the `with` ends; they count what they got.

    done    complete answers with status 200, by the server that gave them
    failed  everything else that a client was told before an answer had begun: an error status, a closed connection
    cut     answers that began and did not end
    """

    def __init__(self, port: int, *, clients: int, path: str = "/", keep_alive: bool = True) -> None:
        self._port = port
        self._clients = clients
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n"
        ).encode()
        self._keep_alive = keep_alive
        self._stopping = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.done: Counter[str] = Counter()
        self.failed: list[str] = []
        self.cut: list[str] = []

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stopping = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "a client still waits for its answer"

    def wait_for(self, more: int) -> None:
        """Until so many more requests were answered."""
        goal = self.done.total() + more
        until(lambda: self.done.total() >= goal, f"{more} more answers; failed so far: {self.failed[:3]}")

    async def _run(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(self._clients)))

    async def _client(self) -> None:
        while not self._stopping:
            began = False
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                try:
                    while not self._stopping:
                        began = False
                        writer.write(self._request)
                        line = await reader.readline()
                        if not line:
                            # An idle keep-alive connection may be closed at any time (RFC 9112 section 9.5), but these
                            # clients are never idle.
                            self.failed.append(f"{time.monotonic():.3f} closed without an answer")
                            break
                        began = True
                        server, length, is_last = b"", 0, not self._keep_alive
                        while (field := await reader.readline()).rstrip():
                            name, _, value = field.partition(b":")
                            if name.lower() == b"content-length":
                                length = int(value)
                            elif name.lower() == b"x-server":
                                server = value.strip()
                            elif name.lower() == b"connection":
                                is_last |= value.strip().lower() == b"close"
                        await reader.readexactly(length)
                        if line.split()[1:2] == [b"200"]:
                            self.done[server.decode()] += 1
                        else:
                            self.failed.append(f"{time.monotonic():.3f} {line.decode().strip()}")
                        if is_last:
                            break
                finally:
                    writer.close()
            except (OSError, asyncio.IncompleteReadError) as error:
                (self.cut if began else self.failed).append(f"{time.monotonic():.3f} {error!r}")


def say(path: Path, line: str) -> str:
    """A command at a runtime socket, and its answer."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(PATIENCE)
        peer.connect(str(path))
        peer.sendall(line.encode() + b"\n")
        said = b""
        while part := peer.recv(65536):
            said += part
        return said.decode()
