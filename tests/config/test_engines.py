from __future__ import annotations

from collections.abc import Callable

import pytest

from balancer.config.engines import settle
from balancer.config.model import Config

Load = Callable[..., Config]

AUTO = """
frontends:
  f: {mode: tcp, engine: auto, bind: "10.0.0.1:80", default_backend: b}
backends:
  b: {servers: {s: {address: "10.0.100.2:80"}, t: {address: "10.0.100.3:80"}}}
"""


def engine(config: Config, hindrance: str = "") -> str:
    settled, (line,) = settle(config, lambda: hindrance)
    found = settled.frontends["f"].engine
    assert line.startswith(f"frontends.f: engine {found}, ")
    return line.removeprefix(f"frontends.f: engine {found}, ")


def test_the_kernel_serves_what_it_can(config: Load) -> None:
    assert engine(config(AUTO)) == "which will do"
    for old, new in (
        ("mode: tcp", "mode: udp"),
        ('"10.0.0.1:80"', '["10.0.0.1:80", "*:81"]'),
        ("b: {servers", "b: {balance: maglev, persistence_timeout: 60s, servers"),
        ("\nfrontends", "\ndefaults: {timeout: {client: 1h}}\nfrontends"),
    ):
        assert engine(config(AUTO.replace(old, new))) == "which will do"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("mode: tcp", "mode: http", "the kernel cannot read requests (mode http)"),
        ('"10.0.0.1:80"', "/run/f.sock", "/run/f.sock is no IP address"),
        ('"10.0.0.1:80"', '"www.example.org:80"', "www.example.org:80 is no IP address"),
        ('"10.0.0.1:80"', '{address: "10.0.0.1:80", accept_proxy: true}',
         "the kernel knows no PROXY protocol (accept_proxy)"),
        ('10.0.0.1:80"', '127.0.0.1:82"',
         "127.0.0.1:82 is this host's loopback; what comes there the kernel sends nowhere else"),
        ('"10.0.0.1:80"', '["10.0.0.1:80", "[::1]:82"]',
         "[::1]:82 is this host's loopback; what comes there the kernel sends nowhere else"),
        ("10.0.0.1:80", "[::ffff:10.0.0.1]:80",
         "[::ffff:10.0.0.1]:80 is 10.0.0.1 written as IPv6, as no packet has it"),
        ("default_backend", "timeout: {client: 1h}, default_backend",
         "the kernel forgets connections by its own rules (timeout.client)"),
        ("default_backend", "timeout: {client_fin: 1h}, default_backend",
         "the kernel forgets connections by its own rules (timeout.client_fin)"),
        ("default_backend", "maxconn: 10, default_backend", "the kernel counts no connections (maxconn)"),
        ('100.2:80"', '100.2:80", slowstart: 5s',
         "the kernel gives a server that comes back all of its weight at once (servers.s.slowstart)"),
        (
            "default_backend", "limits: {connections: 5}, default_backend",
            "the kernel does not count what a client takes (limits)",
        ),
        ("default_backend", "tcp_keepalive: true, default_backend",
         "the connections are not the kernel's own (tcp_keepalive)"),
        ("mode: tcp", "mode: udp, udp: {responses: 1}", "the kernel forgets flows by its own rules (udp.responses)"),
        ('2:80"}', '2:80", send_proxy: v1}', "the kernel knows no PROXY protocol (servers.s.send_proxy)"),
        ("10.0.100.2:80", "/run/s.sock", "servers.s is at no IP address (/run/s.sock)"),
        ("10.0.100.2:80", "web.lab.local:80", "servers.s is at no IP address (web.lab.local:80)"),
        ("10.0.100.2:80", "127.0.0.1:80", "no rule leads to 127.0.0.1 (servers.s)"),
        ("10.0.100.3:80", "[fd00::3]:80", "the kernel does not turn IPv4 into IPv6 (servers.t)"),
        ('"10.0.0.1:80"', '{address: "[::]:80", v4v6: true}', "the kernel does not turn IPv4 into IPv6 (servers.s)"),
    ],
)  # fmt: skip
def test_what_only_the_proxy_can_is_the_proxys(config: Load, old: str, new: str, why: str) -> None:
    assert old in AUTO
    assert engine(config(AUTO.replace(old, new)), "never asked") == f"for {why}"


def test_where_the_kernel_will_not_the_proxy_serves(config: Load) -> None:
    assert engine(config(AUTO), "there is no library") == "for there is no library"


def test_what_is_given_is_left_alone(config: Load) -> None:
    given = config(AUTO.replace("engine: auto", "engine: kernel"))
    assert settle(given, lambda: pytest.fail("it is not asked")) == (given, [])


def test_it_is_asked_once_whether_it_works_here(config: Load) -> None:
    asked = []

    def hindrance() -> str:
        asked.append(1)
        return ""

    other = '  g: {mode: tcp, engine: auto, bind: "10.0.0.1:81", default_backend: b}\n'
    two = AUTO.replace("backends:", f"{other}backends:")
    settled, lines = settle(config(two), hindrance)
    assert {frontend.engine for frontend in settled.frontends.values()} == {"kernel"}
    assert (len(lines), len(asked)) == (2, 1)
