"""What is told of connections that come and go."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from balancer.kernel.conntrack import Conntrack
from balancer.kernel.events import Event, Events
from tests.kernel.stage import PORT, SERVERS, TCP, UDP, VIP, VPORT, Site
from tests.kernel.table import clients, entry, fill
from tests.vrrp.conftest import Net, Stage, as_root

pytestmark = as_root


@pytest.fixture
def site() -> Iterator[Site]:
    stage = Stage()
    site = Site(stage)
    yield site
    site.close()
    stage.close()


def wait(events: Events, number: int) -> list[Event]:
    """So many events, as they come."""
    found: list[Event] = []
    while len(found) < number and select.select([events], [], [], 5)[0]:
        found += events.read()
    return found


def test_a_connection_begins_and_ends(site: Site) -> None:
    site.lead(0)
    listening = site.listen(0)
    with site.director:
        Path("/proc/sys/net/netfilter/nf_conntrack_acct").write_text("1")
        events = Events([TCP])
    client = site.connect()
    served, _ = listening.accept()
    with served:
        client.send(b"x" * 1000)
        assert len(served.recv(2000)) == 1000
    (begin,) = wait(events, 1)
    assert (begin.frontend, begin.is_end) == ("web", False)
    assert begin.flow.client == client.getsockname()
    assert (begin.flow.service, begin.flow.server) == ((VIP, VPORT), (SERVERS[0], PORT))
    with site.director:
        assert Conntrack().delete("tcp", (SERVERS[0], PORT)) == 1
    (end,) = wait(events, 1)
    assert (end.frontend, end.is_end) == ("web", True)
    assert end.flow[:4] == begin.flow[:4]
    assert end.flow.octets_in > 1000
    assert end.flow.packets_out > 0
    events.close()


def test_others_are_not_told_of(site: Site) -> None:
    site.lead(0)
    with site.director:
        events = Events([UDP])
    site.listen(0)
    site.connect()
    site.ask(b"x")
    (event,) = wait(events, 1)
    assert event.frontend == "dns"
    events.follow([TCP])
    site.ask(b"x")
    site.connect()
    assert [event.frontend for event in wait(events, 1)] == ["web"]
    events.close()


def test_what_was_lost_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("balancer.kernel.events._BUFFER", 1)
    net = Net()
    with net:
        events = Events([TCP])
        # Entries that are written are told of like others.
        fill(entry(client, (VIP, VPORT), (SERVERS[0], PORT)) for client in clients(200))
    found = list(events.read())
    assert events.losses == 1
    assert 0 < len(found) < 200
    events.close()
    net.close()


def test_nothing_is_left_open_where_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(socket.socket, "setsockopt", refuse)
    with pytest.raises(PermissionError):
        Events([TCP])
