"""Large bodies, both ways, unharmed and not held in memory."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from pathlib import Path

import pytest

from tests.e2e.bed.clients import curl
from tests.e2e.bed.configs import HTTP, HTTP_UP
from tests.e2e.bed.servers import program, sha256

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def large(ground):
    """256 MiB of which no two blocks are equal."""
    path = ground / "large"
    block = bytearray(os.urandom(MIB))
    with path.open("wb") as file:
        for n in range(256):
            block[:8] = n.to_bytes(8)
            file.write(block)
    yield path
    path.unlink()


@pytest.fixture
def http(balancer, web):
    running = balancer(HTTP, **{server.name: server.port for server in web})
    running.wait_until_up(*HTTP_UP)
    return running


@pytest.fixture
def tcp(balancer, web):
    return balancer(
        """
        global: {workers: 1}
        frontends: {tcp: {mode: tcp, bind: "127.0.0.1:${http}", default_backend: b}}
        backends: {b: {servers: {s: {address: "127.0.0.1:${web}"}}}}
        """,
        web=web[0].port,
    )


def hash_of_download(url: str) -> str:
    command = f'"{program("curl")}" -q --noproxy "*" -sSf --max-time 60 "{url}" | sha256sum'
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[0]


@pytest.mark.parametrize("mode", ["http", "tcp"])
def test_256_mib_arrive_as_they_were_sent(mode, request, web, large):
    running = request.getfixturevalue(mode)
    for server in web:
        (server.folder / "files" / "large").unlink(missing_ok=True)
        os.link(large, server.folder / "files" / "large")
    url = f"http://127.0.0.1:{running.ports['http']}"
    digest = sha256(large)
    try:
        assert hash_of_download(f"{url}/files/large") == digest
        curl("-f", "-T", large, f"{url}/upload/large")
        (arrived,) = [path for server in web if (path := server.folder / "upload" / "large").exists()]
        assert sha256(arrived) == digest
        arrived.unlink()
        # The length unknown: chunked.
        done = subprocess.run(
            ["bash", "-c", f'cat "{large}" | "{program("curl")}" -q --noproxy "*" -sSf -T - "{url}/upload/chunked"'],
            capture_output=True,
            timeout=90,
        )
        assert done.returncode == 0, done.stderr
        (arrived,) = [path for server in web if (path := server.folder / "upload" / "chunked").exists()]
        assert sha256(arrived) == digest
        arrived.unlink()
    finally:
        for server in web:
            (server.folder / "files" / "large").unlink()


@pytest.mark.parametrize("mode", ["http", "tcp"])
def test_a_gib_passes_and_the_workers_stay_as_small_as_they_were(mode, request, web):
    running = request.getfixturevalue(mode)
    for server in web:
        with (server.folder / "files" / "hole").open("wb") as file:
            file.truncate(1024 * MIB)
    url = f"http://127.0.0.1:{running.ports['http']}/files/hole"
    # Once before, so that what the first large answer needs for good is there.
    curl("-r", f"0-{8 * MIB}", "-o", "/dev/null", url)
    before = peak(running)
    done = curl("-o", "/dev/null", "-w", "%{size_download}", url)
    growth = peak(running) - before
    print(f"{mode}: 1 GiB, peak resident memory of the workers grew by {growth / 1024:.1f} MiB")
    assert done.stdout == b"1073741824"
    assert growth < 8 * 1024
    for server in web:
        (server.folder / "files" / "hole").unlink()


def test_a_client_that_does_not_read_costs_no_memory_and_stops_the_server(http, web):
    """Backpressure: what the client does not take stays in the server."""
    for server in web:
        with (server.folder / "files" / "hole").open("wb") as file:
            file.truncate(64 * MIB)
    curl("-o", "/dev/null", f"http://127.0.0.1:{http.ports['http']}/files/hole")
    before = peak(http)
    lazy = []
    try:
        for _ in range(20):
            client = socket.create_connection(("127.0.0.1", http.ports["http"]))
            client.sendall(b"GET /files/hole HTTP/1.1\r\nHost: t\r\n\r\n")
            lazy.append(client)
        for client in lazy:
            assert client.recv(1)
        # A second client is served meanwhile; once it has its 64 MiB, the others had time enough to fill memory.
        curl("-o", "/dev/null", f"http://127.0.0.1:{http.ports['http']}/files/hole")
        growth = peak(http) - before
    finally:
        for client in lazy:
            client.close()
    print(f"20 clients that do not read: {growth / 1024:.1f} MiB")
    assert growth < 16 * 1024
    for server in web:
        (server.folder / "files" / "hole").unlink()


def peak(running) -> int:
    """The highest resident memory so far of the workers together, in KiB (proc(5), VmHWM)."""
    workers = running.workers
    assert workers
    return sum(int(re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[0]) for pid in workers)
