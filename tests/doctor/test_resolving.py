from __future__ import annotations

from collections.abc import Iterator

import pytest

from balancer.doctor import machine, resolving
from tests.names.nameserver import NameServer

from .conftest import OK, PROBLEM, here, tcp


@pytest.fixture
def dns() -> Iterator[NameServer]:
    with NameServer() as server:
        server.set("www.example", "A", "10.0.0.1")
        server.set("_http._tcp.example", "SRV", "0 1 80 www.example.")
        yield server


def text(dns: NameServer, servers: str) -> str:
    return f"""
resolvers: {{r: {{nameservers: {{n: "127.0.0.1:{dns.port}"}}, resolve_retries: 1, timeout: {{retry: 50ms}}}}}}
{tcp().partition("backends:")[0]}
backends: {{web: {{resolvers: r, {servers}}}}}
"""


SERVER = "servers: {one: {address: 'www.example:80'}}"
TEMPLATE = "server_template: {prefix: s, count: 3, address: _http._tcp.example}"


@pytest.mark.parametrize("servers", [SERVER, TEMPLATE])
def test_names_that_the_name_servers_know(dns: NameServer, servers: str) -> None:
    """The host's resolver, which does not, has no say."""
    case = here(text(dns, servers))
    (found,) = resolving.resolved_again(case)
    assert found.verdict is OK and found.what == "the name servers know each of 1 names"
    assert list(machine.names(case)) == []


def test_names_that_they_do_not(dns: NameServer) -> None:
    dns.records.clear()
    (found,) = resolving.resolved_again(here(text(dns, TEMPLATE)))
    assert found.verdict is PROBLEM
    assert found.what.startswith("_http._tcp.example: the name servers of resolvers r know no such name")
    assert found.now == (f"dig @127.0.0.1 -p {dns.port} _http._tcp.example SRV",)


def test_name_servers_that_say_nothing(dns: NameServer) -> None:
    dns.is_silent = True
    (found,) = resolving.resolved_again(here(text(dns, SERVER)))
    assert found.verdict is PROBLEM and found.what == "www.example: no name server of resolvers r answers"


def test_without_resolvers_nobody_is_asked() -> None:
    assert list(resolving.resolved_again(here(tcp(server="localhost:80")))) == []
