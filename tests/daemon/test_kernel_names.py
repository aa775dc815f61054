"""A server of engine kernel that is given by name moves while clients are at work, and the rules follow."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.daemon import directors
from tests.daemon.directors import reload
from tests.e2e.bed.process import until
from tests.kernel.conftest import ADDRESSES, ADDRESSES_V6, VIP, VIP_V6, Asker, Bed, asking, tcp, who
from tests.names.nameserver import NameServer

_bed, bed, director = directors._bed, directors.bed, directors.director

CONFIG = """
global:
  user: nobody
  workers: 1
  hard_stop_after: 5s
  log: {target: stdout}
  runtime_socket: {path: FOLDER/admin.sock}
resolvers:
  ns: {nameservers: {one: "127.0.0.1:PORT"}, timeout: {resolve: 100ms, retry: 100ms}}
frontends:
  tcp4: {mode: tcp, engine: kernel, bind: "192.168.1.200:80", default_backend: four}
  udp4: {mode: udp, engine: kernel, bind: "192.168.1.200:8080", default_backend: four}
  tcp6: {mode: tcp, engine: kernel, bind: "[2001:db8:1::c8]:80", default_backend: six}
  udp6: {mode: udp, engine: kernel, bind: "[2001:db8:1::c8]:8080", default_backend: six}
backends:
  four:
    resolvers: ns
    check: {type: none}
    servers: {moving: {address: "four.example:8080"}, still: {address: "10.0.100.3:8080"}}
  six:
    resolvers: ns
    check: {type: none}
    servers: {moving: {address: "six.example:8080"}, still: {address: "[fd00:100::3]:8080"}}
stats: {bind: FOLDER/stats.sock, metrics: /metrics}
"""
PLACES = {VIP: ("four", "A", ADDRESSES), VIP_V6: ("six", "AAAA", ADDRESSES_V6)}
VIPS = tuple(PLACES)


def asked_again(asker: Asker) -> str:
    """Which server answers, as any client of datagrams asks: an answer on its way while its server moves is lost."""
    asker.sock.settimeout(1)
    for _ in range(10):
        with contextlib.suppress(TimeoutError):
            return asker.ask()[0]
    raise AssertionError("nobody answers")


class Newcomers(threading.Thread):
    """Who connect, one after the other, and ask a question by a datagram each."""

    def __init__(self, bed: Bed, vip: str) -> None:
        super().__init__(daemon=True)
        self._bed, self._vip = bed, vip
        self._is_over = threading.Event()
        self.served: list[tuple[str, str]] = []
        """By which server each: connection, datagram."""
        self.failed: list[str] = []

    def run(self) -> None:
        while not self._is_over.is_set():
            try:
                with asking(self._bed.client, self._vip, 8080) as asker:
                    self.served.append((who(self._bed.client, self._vip), asked_again(asker)))
            except (OSError, AssertionError) as error:
                self.failed.append(f"after {self.served[-1:]}: {error!r}")

    def names(self, number: int = 4) -> set[str]:
        """The servers of those who come from now on."""
        # One is on its way.
        begin = len(self.served) + 1
        until(lambda: self.failed or len(self.served) >= begin + number, "more of them are served")
        return {name for pair in self.served[begin:] for name in pair}

    def end(self) -> None:
        self._is_over.set()
        self.join(20)
        assert self.failed == []


class Staying:
    """A connection and a flow of datagrams at each of two servers."""

    def __init__(self, bed: Bed, vip: str, names: set[str], at_the_end: contextlib.ExitStack) -> None:
        self._connections: dict[str, socket.socket] = {}
        self.askers: dict[str, Asker] = {}
        while self._connections.keys() != names:
            sock, name, _ = tcp(bed.client, vip)
            at_the_end.callback(sock.close)
            self._connections[name] = sock
        while self.askers.keys() != names:
            asker = at_the_end.enter_context(asking(bed.client, vip, 8080))
            self.askers[asker.ask()[0]] = asker

    def go_on(self) -> bool:
        for sock in self._connections.values():
            sock.sendall(b"still there")
            left = len(b"still there")
            while left and (octets := sock.recv(left)):
                left -= len(octets)
            if left:
                return False
        return True


@pytest.fixture
def dns(bed: Bed) -> Iterator[NameServer]:
    """On the director."""
    with bed.director:
        server = NameServer()
    with server:
        lead(server, "web1")
        yield server


def lead(dns: NameServer, name: str) -> None:
    """Both names to this server."""
    for backend, kind, addresses in PLACES.values():
        dns.set(f"{backend}.example", kind, addresses[name])


def test_traffic_follows_a_name_and_what_is_established_goes_on(director, bed: Bed, dns: NameServer) -> None:
    with contextlib.ExitStack() as at_the_end:
        it = director(("PORT", str(dns.port)), text=CONFIG, wait=False)
        it.process.wait_for_line("the kernel's rules are in place")
        first = {addresses["web1"] for _, _, addresses in PLACES.values()}
        until(lambda: all(each in it.ask("show", "kernel") for each in first), "the rules lead there")
        newcomers = {vip: Newcomers(bed, vip) for vip in VIPS}
        staying = {vip: Staying(bed, vip, {"web1", "web2"}, at_the_end) for vip in VIPS}
        for each in newcomers.values():
            each.start()
            at_the_end.callback(each.end)

        def served(backend: str) -> float:
            return it.metric("haproxy_server_sessions_total", proxy=backend, server="moving")

        def all_stay() -> bool:
            return all(each.go_on() and each.askers["web2"].ask()[0] == "web2" for each in staying.values())

        until(lambda: all(served(backend) > 4 for backend, _, _ in PLACES.values()), "they are counted")
        before = {backend: served(backend) for backend, _, _ in PLACES.values()}
        lead(dns, "web3")
        for vip, (backend, _, addresses) in PLACES.items():
            it.process.wait_for_line(f"{backend}/moving changed its IP from {addresses['web1']} to {addresses['web3']}")
            until(lambda vip=vip: newcomers[vip].names() == {"web2", "web3"}, "new ones go to where it is")
            # Those who go on from one port go over, to whichever server.
            until(lambda vip=vip: asked_again(staying[vip].askers["web1"]) != "web1", "datagrams follow")
        assert all_stay()
        for backend, least in before.items():
            until(lambda backend=backend, least=least: served(backend) > least, "it counts on")

        # Nobody answers any more.
        dns.is_silent = True
        asked = len(dns.asked)
        until(lambda: len(dns.asked) > asked + 8, "it is asked in vain")
        killed, said = it.kernel, len(it.process.out)
        os.kill(killed, signal.SIGKILL)
        it.process.wait_for_line("the kernel's rules are in place", after=said)
        assert all_stay()
        reload(it)
        assert it.kernel != killed
        assert all_stay()
        for vip in VIPS:
            assert newcomers[vip].names() == {"web2", "web3"}
        moved = [line for line in it.process.out if "changed its IP" in line]
        assert len(moved) == len(VIPS)

        # It is back, and moves on.
        dns.is_silent = False
        lead(dns, "web1")
        for vip in VIPS:
            until(lambda vip=vip: newcomers[vip].names() == {"web1", "web2"}, "new ones go to where it is")
        assert all_stay()
        assert not re.search(r"is DOWN| ERR: ", it.process.said())
