"""What is told of connections that come and go."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.kernel.conntrack import Conntrack
from balancer.kernel.events import Event, Events, _program
from tests.kernel.stage import CLIENT_V6, PORT, SERVERS, SERVERS_V6, TCP, TCP_V6, UDP, VIP, VIP_V6, VPORT, Site
from tests.kernel.table import clients, entry, fill
from tests.vrrp.conftest import Net, as_root

pytestmark = as_root

CONNTRACK = Path("/proc/sys/net/netfilter")
AT_ONCE = 1000


@pytest.fixture
def site(site: Site) -> Site:
    """Whose connections are counted and timed."""
    with site.director:
        for name in ("acct", "timestamp"):
            (CONNTRACK / f"nf_conntrack_{name}").write_text("1")
    site.lead(0)
    return site


@pytest.fixture
def net() -> Iterator[Net]:
    net = Net()
    with net:
        yield net
    net.close()


def taken(events: Events) -> list[Event]:
    """What has happened until now."""
    return [event for event in events.read(AT_ONCE) if event is not None]


def wait(events: Events, number: int) -> list[Event]:
    """So many events, as they come."""
    found: list[Event] = []
    while len(found) < number and select.select([events], [], [], 5)[0]:
        found += taken(events)
    return found


def test_a_connection_begins_and_ends(site: Site) -> None:
    listening = site.listen(0)
    with site.director:
        events = Events([TCP])
    before = time.time()
    client = site.connect()
    served, _ = listening.accept()
    with served:
        client.send(b"x" * 1000)
        assert len(served.recv(2000)) == 1000
    (begin,) = wait(events, 1)
    assert (begin.frontend, begin.is_end) == ("web", False)
    assert begin.flow.client == client.getsockname()
    assert (begin.flow.service, begin.flow.server) == ((VIP, VPORT), (SERVERS[0], PORT))
    assert before <= begin.at <= time.time()
    with site.director:
        assert Conntrack().delete("tcp", (SERVERS[0], PORT)) == 1
    # An acknowledgement that was still to come begins it anew.
    end, *_ = wait(events, 1)
    assert (end.frontend, end.is_end, end.is_assured) == ("web", True, True)
    assert end.flow[:4] == begin.flow[:4]
    assert end.flow.octets_in > 1000
    assert end.flow.packets_out > 0
    assert end.began is not None
    assert before <= end.began < end.at <= time.time()
    assert end.flow.timeout > 0
    events.close()


def test_a_connection_of_ipv6(site: Site) -> None:
    listening = site.listen(0, socket.AF_INET6)
    with site.director:
        events = Events([TCP_V6], with_begins=False)
    client = site.connect(VIP_V6)
    listening.accept()[0].close()
    with site.director:
        assert Conntrack().delete("tcp", (SERVERS_V6[0], PORT)) == 1
    (end,) = wait(events, 1)
    assert (end.frontend, end.is_end) == ("web6", True)
    assert end.flow.client == (CLIENT_V6, client.getsockname()[1])
    assert (end.flow.service, end.flow.server) == ((VIP_V6, VPORT), (SERVERS_V6[0], PORT))
    events.close()


def test_others_are_not_told_of(site: Site) -> None:
    """Neither are those of services that are known and not asked for."""
    with site.director:
        ours, asked_for = Events([UDP]), Events([TCP, UDP], frontends=["web"])
    site.listen(0)
    site.connect()
    site.ask(b"x")
    assert [event.frontend for event in wait(ours, 1)] == ["dns"]
    assert [event.frontend for event in wait(asked_for, 1)] == ["web"]
    assert not taken(ours) and not taken(asked_for)
    ours.close()
    asked_for.close()


def test_what_is_not_translated_or_to_another_port_wakes_nobody(net: Net) -> None:
    events = Events([TCP])
    ends = clients(8)
    fill(entry(next(ends), (VIP, VPORT), None) for _ in range(3))
    fill(entry(next(ends), (VIP, VPORT + 1), (SERVERS[0], PORT)) for _ in range(3))
    assert select.select([events], [], [], 0)[0] == []
    # It would be told of, were it ours.
    fill([entry(next(ends), (VIP, VPORT), (SERVERS[0], PORT))])
    assert len(wait(events, 1)) == 1
    events.close()


def test_with_many_ports_the_rest_is_sorted_out_here(net: Net) -> None:
    events = Events([TCP._replace(port=port) for port in range(1000, 2000)])
    ends = clients(3)
    fill(entry(next(ends), (VIP, port), (SERVERS[0], PORT)) for port in (999, 1000, 1999))
    assert select.select([events], [], [], 5)[0]
    found = list(events.read(AT_ONCE))
    assert found[0] is None
    assert [event.flow.service[1] for event in found if event is not None] == [1000, 1999]
    events.close()


@given(st.sets(st.integers(1, 65535), max_size=300))
def test_a_program_is_one_that_the_kernel_takes(ports: set[int]) -> None:
    program = _program(ports)
    assert len(program) < 4096
    for at, (_, then, otherwise, _) in enumerate(program):
        assert at + max(then, otherwise) < len(program)
    assert program[-1][0] == 0x06


def test_only_ends_where_nothing_else_is_asked_for(net: Net) -> None:
    events = Events([TCP], with_begins=False)
    fill([entry(next(clients(1)), (VIP, VPORT), (SERVERS[0], PORT))])
    assert select.select([events], [], [], 0)[0] == []
    assert Conntrack().delete("tcp", (SERVERS[0], PORT)) == 1
    assert [event.is_end for event in wait(events, 1)] == [True]
    events.close()


def test_no_more_than_asked_for(net: Net) -> None:
    events = Events([TCP])
    fill(entry(client, (VIP, VPORT), (SERVERS[0], PORT)) for client in clients(10))
    assert [len(list(events.read(limit))) for limit in (4, 4, 4, 4)] == [4, 4, 2, 0]
    events.close()


def test_what_was_lost_is_known_and_no_more_is_lost_than_there_was_no_room_for(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("balancer.kernel.events._BUFFER", 1)
    events = Events([TCP])
    ends = clients(201)
    # Entries that are written are told of like others.
    fill(entry(next(ends), (VIP, VPORT), (SERVERS[0], PORT)) for _ in range(200))
    next(events.read(1))
    fill(entry(client, (VIP, VPORT), (SERVERS[0], PORT)) for client in ends)
    told = 1 + len(taken(events))
    assert 1 < told < 200
    assert events.lost == 201 - told
    events.close()


def test_nothing_is_left_open_where_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(socket.socket, "setsockopt", refuse)
    with pytest.raises(PermissionError):
        Events([TCP])
