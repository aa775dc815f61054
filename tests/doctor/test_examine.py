from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from balancer.doctor import examine
from balancer.doctor.case import Case, Wish
from balancer.doctor.finding import Finding, ok
from tests.vrrp.conftest import Host, as_root

from .conftest import PROBLEM, UNKNOWN, load, tcp, vrrp


def refuses(case: Case) -> Iterator[Finding]:
    """A check that breaks off."""
    yield ok("x", "as far as it came")
    raise OSError(5, "broken")


def test_a_check_that_fails_keeps_nothing_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    areas = (examine.Area("first", (refuses,)), examine.Area("empty", ()), *examine.AREAS[:1])
    monkeypatch.setattr(examine, "AREAS", areas)
    (title, found), (other, _) = examine.examine(load(tcp()), Wish())
    assert (title, other) == ("first", "this host") and "empty" not in (title, other)
    assert found[-1].verdict is UNKNOWN and "broken" in found[-1].what


@as_root
def test_all_of_it_in_time(host: Host) -> None:
    """5 s at most besides listening."""
    servers = ", ".join(f"s{i}: {{address: '192.0.{2 + i // 250}.{i % 250}:80'}}" for i in range(1, 2000))
    text = tcp("*:80").replace("one: {address: '127.0.0.1:8001'}", servers) + vrrp()
    began = time.monotonic()
    with host:
        areas = examine.examine(load(text), Wish(listen=0.1))
    assert time.monotonic() - began < 5
    found = {each.check: each for _, findings in areas for each in findings if each.verdict is PROBLEM}
    assert "route" in found


@as_root
def test_a_host_that_is_as_it_should_be(host: Host) -> None:
    host.ip("link set dev lo up")
    text = tcp("192.0.2.200:80", "192.0.2.9:80") + vrrp() + "global: {log: {target: none}, workers: 1, maxconn: 100}\n"
    with host:
        areas = examine.examine(load(text), Wish(listen=0.1))
    here = [each for title, findings in areas if title != "this host" for each in findings]
    assert [each.what for each in here if each.verdict not in ("ok", UNKNOWN)] == []
