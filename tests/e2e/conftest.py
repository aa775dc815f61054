"""Real servers for the whole run, a balancer for each test."""

from __future__ import annotations

import itertools
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.bed.pybalancer import Balancer
from tests.e2e.bed.servers import Apache, Haproxy, Named, Nginx, Python

WEB = ("web1", "web2", "web3")


@pytest.fixture(scope="session")
def ground() -> Iterator[Path]:
    """A folder that servers which drop root can reach."""
    folder = Path(tempfile.mkdtemp(prefix="pybalancer-e2e-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def _nginx(ground: Path, has_ipv6: bool) -> Iterator[tuple[Nginx, ...]]:
    yield from _running(*(Nginx(name, ground / name, ipv6=has_ipv6) for name in WEB))


@pytest.fixture
def web(_nginx: tuple[Nginx, ...]) -> Iterator[tuple[Nginx, ...]]:
    """Three nginx; a test may kill and pause them, they run again afterwards."""
    yield _nginx
    for server in _nginx:
        server.mend()


@pytest.fixture(scope="session")
def apache(ground: Path) -> Iterator[Apache]:
    """Apache with PHP: three virtual hosts."""
    yield from (apache for (apache,) in _running(Apache(WEB, ground / "apache")))


@pytest.fixture(scope="session")
def python(ground: Path) -> Iterator[Python]:
    """A server written in Python."""
    yield from (python for (python,) in _running(Python("python", ground / "python")))


@pytest.fixture(scope="session")
def _named(ground: Path) -> Iterator[tuple[Named, ...]]:
    yield from _running(*(Named(name, ground / name) for name in ("dns1", "dns2", "dns3")))


@pytest.fixture
def names(_named: tuple[Named, ...]) -> Iterator[tuple[Named, ...]]:
    """Three bind9; a test may kill and pause them, they run again afterwards."""
    yield _named
    for server in _named:
        server.mend()


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[Callable[..., Haproxy]]:
    """Starts HAProxy with frontends and backends as given."""
    running: list[Haproxy] = []

    def start(text: str, *, ports: tuple[int, ...]) -> Haproxy:
        server = Haproxy("haproxy", tmp_path / f"haproxy{len(running)}", text, ports=ports)
        running.append(server)
        server.start()
        return server

    yield start
    for server in running:
        server.end()


@pytest.fixture
def balancer(tmp_path: Path) -> Iterator[Callable[..., Balancer]]:
    """Starts pybalancer with a configuration; whatever a test does with it, it must end well."""
    running: list[Balancer] = []
    number = itertools.count()

    def start(text: str, *, wait: bool = True, **ports: Any) -> Balancer:
        started = Balancer(text, tmp_path / f"balancer{next(number)}", ports)
        running.append(started)
        if wait:
            started.wait_until_serving()
        return started

    yield start
    try:
        for started in running:
            started.end()
    finally:
        for started in running:
            started.process.end()


def _running(*servers: Any) -> Iterator[tuple[Any, ...]]:
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.end()
