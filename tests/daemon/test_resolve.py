from __future__ import annotations

import gc
import os
import signal
import socket
import time
from pathlib import Path

from balancer.daemon.resolve import first_addresses


def descriptors() -> int:
    # What other tests have left may be collected meanwhile.
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def answer(table):
    """A getaddrinfo(3) that knows some names, and hangs for the others."""

    def getaddrinfo(host, *_, **__):
        if host not in table:
            time.sleep(60)
        if table[host] is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET6 if ":" in table[host] else socket.AF_INET, 1, 6, "", (table[host], 0))]

    return getaddrinfo


def test_localhost_has_an_address():
    assert first_addresses(["localhost"], within=5)["localhost"] in ("127.0.0.1", "::1")


def test_nobody_is_asked_for_nothing(monkeypatch):
    monkeypatch.setattr(os, "fork", None)
    assert first_addresses([], within=5) == {}


def test_a_name_that_does_not_exist_has_none(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", answer({"a": "192.0.2.1", "b": None, "c": "2001:db8::1"}))
    assert first_addresses(["a", "b", "c"], within=20) == {"a": "192.0.2.1", "c": "2001:db8::1"}


def test_a_resolver_that_hangs_costs_what_was_said_and_nothing_is_left_of_it(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", answer({"a": "192.0.2.1"}))
    before = descriptors()
    began = time.monotonic()
    found = first_addresses(["a", *(f"slow{i}" for i in range(15))], within=0.5)
    took = time.monotonic() - began
    assert found == {"a": "192.0.2.1"}
    assert 0.4 < took < 10
    assert descriptors() == before
    try:
        left = os.waitpid(-1, os.WNOHANG)[0]
    except ChildProcessError:
        left = 0
    assert left == 0


def test_a_name_too_long_for_dns_has_none():
    assert first_addresses(["x" * 64 + ".example"], within=5) == {}


def test_hundreds_of_names(monkeypatch):
    table = {f"host{i}.example": f"192.0.2.{i % 256}" for i in range(500)}
    monkeypatch.setattr(socket, "getaddrinfo", answer(table))
    assert first_addresses(table, within=30) == table


def test_signals_are_as_they_were():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    first_addresses(["localhost"], within=5)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
