from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
import uvloop

from balancer.addr import Address


def _descriptors():
    """Each with what it is, as its number may be another's by and by."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        # That of the directory is closed by now.
        with contextlib.suppress(FileNotFoundError):
            found.add((entry.name, str(entry.readlink())))
    return found


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request):
    """Runs a coroutine on either loop; no descriptor and no task may be left when it is done."""

    factory = uvloop.new_event_loop if request.param == "uvloop" else None
    # The first loop of a process keeps two descriptors for those that follow.
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.sleep(0))

    def run(main):
        before = _descriptors()
        with asyncio.Runner(loop_factory=factory) as runner:

            async def watched():
                result = await main
                # What is left of a server's side ends by itself once it has seen the close.
                if others := asyncio.all_tasks() - {asyncio.current_task()}:
                    assert not (await asyncio.wait(others, timeout=5))[1]
                return result

            result = runner.run(watched())
        # What other tests have left may be collected meanwhile.
        assert not _descriptors() - before
        return result

    return run


@pytest.fixture
def serve():
    """`async with serve(talk) as address`: a server whose every connection is `await talk(reader, writer)`."""

    @contextlib.asynccontextmanager
    async def serve(talk, host="127.0.0.1", path=None, tls=None):
        tasks = set()

        def connected(reader, writer):
            tasks.add(asyncio.create_task(carry_on(reader, writer)))

        async def carry_on(reader, writer):
            try:
                await talk(reader, writer)
            except (OSError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

        if path is not None:
            server = await asyncio.start_unix_server(connected, path, ssl=tls)
            address = Address("", 0, str(path))
        else:
            server = await asyncio.start_server(connected, host, 0, ssl=tls)
            address = Address(host, server.sockets[0].getsockname()[1])
        try:
            yield address
        finally:
            server.close()
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await server.wait_closed()

    return serve


@pytest.fixture
def refusing():
    """An address that refuses connections, and stays nobody else's: bound, not listening."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield Address(*sock.getsockname())


@pytest.fixture
def blackhole():
    """An address that answers no SYN: the one place of its accept queue is taken."""
    with socket.socket() as sock, socket.socket() as first:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        first.connect(sock.getsockname())
        yield Address(*sock.getsockname())


@pytest.fixture(scope="session")
def certificate(tmp_path_factory) -> Path:
    """Certificate (self-signed, for www.example.org, ::1 and 127.0.0.1) and key in one file."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    key = path.with_name("key.pem")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", str(key), "-out", str(path), "-days", "2", "-subj", "/CN=www.example.org"),
            *("-addext", "subjectAltName=DNS:www.example.org,IP:127.0.0.1,IP:::1"),
        ],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + key.read_text())
    return path


@pytest.fixture
def tls_context(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context
