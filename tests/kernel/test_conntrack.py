"""A table with connections that real rules made, and full ones that this file wrote into the kernel itself."""

from __future__ import annotations

import random
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from balancer.kernel.conntrack import Conntrack, Load
from tests.kernel.stage import PORT, SERVERS, SERVERS_V6, TCP, TCP_V6, UDP, VIP, VIP_V6, VPORT, Service, Site, Target
from tests.kernel.table import ESTABLISHED, TIME_WAIT, clients, entry, fill
from tests.vrrp.conftest import Net, as_root

from .conftest import refused

pytestmark = as_root


@pytest.fixture
def net() -> Iterator[Net]:
    net = Net()
    yield net
    net.close()


def test_a_connection_is_told_as_it_is(site: Site) -> None:
    site.lead(0)
    listening = site.listen(0)
    with site.director:
        Path("/proc/sys/net/netfilter/nf_conntrack_acct").write_text("1")
    client = site.connect()
    served, seen = listening.accept()
    with served:
        client.send(b"x" * 1000)
        assert len(served.recv(2000)) == 1000
        with site.director:
            (flow,) = Conntrack().flows([TCP])
    assert (flow.protocol, flow.state) == ("tcp", "ESTABLISHED")
    assert flow.client == client.getsockname() == seen
    assert (flow.service, flow.server) == ((VIP, VPORT), (SERVERS[0], PORT))
    assert 0 < flow.timeout <= 432000
    # SYN, ACK and data one way, SYN-ACK and perhaps an ACK the other.
    assert flow.packets_in == 3
    assert 1000 + 3 * 40 <= flow.octets_in <= 1000 + 3 * 60
    assert 1 <= flow.packets_out <= 2
    assert flow.octets_out < 200


def test_a_connection_of_ipv6(site: Site) -> None:
    site.lead(1)
    site.listen(1, socket.AF_INET6)
    client = site.connect(VIP_V6)
    with site.director:
        (flow,) = Conntrack().flows([TCP, TCP_V6])
        assert Conntrack().counts([TCP, TCP_V6]) == {("web6", (SERVERS_V6[1], PORT)): Load(1, 0)}
        assert Conntrack().delete("tcp", (SERVERS_V6[0], PORT)) == 0
        assert Conntrack().delete("tcp", (SERVERS_V6[1], PORT), TCP_V6) == 1
        assert not list(Conntrack().flows([TCP_V6]))
    assert flow.client == client.getsockname()[:2]
    assert (flow.service, flow.server) == ((VIP_V6, VPORT), (SERVERS_V6[1], PORT))


def test_a_closed_connection_is_inactive(site: Site) -> None:
    site.lead(0)
    site.listen(0)
    client, other = site.connect(), site.connect()
    with site.director:
        assert Conntrack().counts([TCP]) == {("web", (SERVERS[0], PORT)): Load(2, 0)}
        client.shutdown(socket.SHUT_WR)
        assert Conntrack().counts([TCP]) == {("web", (SERVERS[0], PORT)): Load(1, 1)}
    assert other.getpeername() == (VIP, VPORT)


def test_after_deletion_the_next_datagram_goes_to_a_live_server(site: Site) -> None:
    """And the client's port is as it was: without the deletion it would be sent to the dead one for minutes."""
    arrived = []
    for server in range(2):
        with site.servers[server]:
            arrived.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            arrived[-1].bind(("", PORT))
            arrived[-1].settimeout(5)
    with arrived[0], arrived[1]:
        site.lead(0)
        client = site.ask(b"first")
        assert arrived[0].recv(99) == b"first"
        site.lead(1)
        client.send(b"second")
        assert arrived[0].recv(99) == b"second"
        with site.director:
            assert Conntrack().delete("udp", (SERVERS[0], PORT)) == 1
        client.send(b"third")
        assert arrived[1].recv(99) == b"third"
        with site.director:
            assert Conntrack().counts([TCP, UDP]) == {("dns", (SERVERS[1], PORT)): Load(0, 1)}


def test_others_are_neither_counted_nor_told_nor_deleted(net: Net) -> None:
    client, vip, server = ("10.9.9.9", 5000), (VIP, VPORT), (SERVERS[0], PORT)
    with net:
        fill(
            [
                entry(client, vip, None),
                entry(client, server, None),
                entry(client, (VIP, 81), server),
                entry(client, ("192.0.2.77", VPORT), server),
                entry(client, vip, server, protocol="udp"),
            ]
        )
        table = Conntrack()
        assert table.counts([TCP]) == {}
        assert list(table.flows([TCP])) == []
        assert table.delete("tcp", server, TCP) == 0
        assert table.usage().entries == 5
        # Of any service: the two that were translated.
        assert table.delete("tcp", server) == 2
        assert table.usage().entries == 3
        assert [flow.protocol for flow in table.flows([TCP, UDP])] == ["udp"]


def test_what_the_rules_would_not_make_is_swept_away(net: Net) -> None:
    to = (Target(SERVERS[0], PORT),)
    services = [
        TCP._replace(targets=to),
        UDP._replace(targets=to),
        Service("dns6", "udp", 6, VIP_V6, VPORT, (Target(SERVERS_V6[0], PORT),)),
        Service("none", "tcp", 4, VIP, 90),
    ]
    vip, kept, removed = (VIP, VPORT), (SERVERS[0], PORT), (SERVERS[1], PORT)
    client = clients(100)
    stray = [
        entry(next(client), vip, removed),
        entry(next(client), vip, (SERVERS[0], PORT + 1)),
        entry(next(client), vip, removed, protocol="udp"),
        entry(next(client), vip, None, protocol="udp"),
        entry(("2001:db8::9", 5000), (VIP_V6, VPORT), None, protocol="udp"),
        entry(("2001:db8::9", 5001), (VIP_V6, VPORT), (SERVERS_V6[1], PORT), protocol="udp"),
        entry(next(client), (VIP, 90), kept),
    ]
    good = [
        entry(next(client), vip, kept),
        entry(next(client), vip, None),
        entry(next(client), vip, kept, protocol="udp"),
        entry(("2001:db8::9", 5002), (VIP_V6, VPORT), (SERVERS_V6[0], PORT), protocol="udp"),
    ]
    others = [
        entry(next(client), (VIP, 81), removed),
        entry(next(client), (VIP, 81), None, protocol="udp"),
        entry(next(client), ("192.0.2.77", VPORT), removed),
        entry(next(client), ("192.0.2.77", VPORT), None, protocol="udp"),
        entry(vip, next(client), None, protocol="udp"),
    ]
    with net:
        fill([*good, *stray, *others])
        assert Conntrack().sweep(services) == len(stray)
        assert Conntrack().usage().entries == len(good) + len(others)
        fill(stray)
        assert Conntrack().sweep(services) == len(stray)
        assert Conntrack().sweep(services) == 0
        assert Conntrack().sweep([]) == 0


def test_connections_to_where_servers_were_are_left_alone_datagrams_are_not(net: Net) -> None:
    kept, left, removed, others = ((SERVERS[0], PORT), *(("10.0.100.9", port) for port in (1, 2, 3)))
    services = [
        Service("web", "tcp", 4, VIP, VPORT, (Target(*kept),), backend="b"),
        Service("dns", "udp", 4, VIP, VPORT, (Target(*kept),), backend="b"),
        Service("web6", "tcp", 6, VIP_V6, VPORT, (Target(SERVERS_V6[0], PORT),), backend="b"),
        Service("more", "tcp", 4, VIP, 81, (Target(*kept),), backend="c"),
    ]
    client, vip, more = clients(100), (VIP, VPORT), (VIP, 81)
    stray = [
        entry(next(client), vip, removed),
        entry(next(client), vip, others),
        entry(next(client), vip, left, protocol="udp"),
        entry(next(client), more, left),
    ]
    good = [
        entry(next(client), vip, kept),
        entry(next(client), vip, left),
        entry(next(client), more, others),
        entry(("2001:db8::9", 5000), (VIP_V6, VPORT), (SERVERS_V6[1], PORT)),
    ]
    with net:
        fill([*stray, *good])
        former = {"b": {left, (SERVERS_V6[1], PORT)}, "c": {others}}
        assert Conntrack().sweep(services, former) == len(stray)
        assert Conntrack().usage().entries == len(good)


def test_at_every_address_what_is_for_this_host_is_swept(net: Net) -> None:
    services = [
        Service("any", "udp", 4, "", VPORT, (Target(SERVERS[0], PORT),)),
        Service("any6", "udp", 6, "", VPORT, (Target(SERVERS_V6[0], PORT),)),
    ]
    net.ip("link set lo up")
    net.ip(f"address add {VIP}/32 dev lo")
    net.ip(f"address add {VIP_V6}/128 dev lo")
    client = clients(10)
    with net:
        fill(
            [
                entry(next(client), (VIP, VPORT), None, protocol="udp"),
                entry(("2001:db8::9", 5000), (VIP_V6, VPORT), None, protocol="udp"),
                entry(next(client), (VIP, VPORT), (SERVERS[1], PORT), protocol="udp"),
            ]
        )
        fill(
            [
                entry(next(client), (VIP, VPORT), (SERVERS[0], PORT), protocol="udp"),
                entry(next(client), ("192.0.2.77", VPORT), None, protocol="udp"),
                entry(next(client), ("192.0.2.77", VPORT), (SERVERS[1], PORT), protocol="udp"),
            ]
        )
        assert Conntrack().sweep(services) == 3
        assert Conntrack().usage().entries == 3


def test_at_every_address_the_server_tells_whose_it_is(net: Net) -> None:
    anywhere = Service("any", "tcp", 4, "", VPORT, (Target(SERVERS[0], PORT),))
    with net:
        fill(
            entry(client, (VIP, VPORT), (server, PORT))
            for client, server in zip(clients(3), (SERVERS[0], SERVERS[0], SERVERS[1]), strict=True)
        )
        assert Conntrack().counts([anywhere]) == {("any", (SERVERS[0], PORT)): Load(2, 0)}
        assert Conntrack().delete("tcp", (SERVERS[1], PORT), anywhere) == 0
        # Who names the address is before who takes all.
        assert Conntrack().counts([anywhere, TCP]).keys() == {("web", (server, PORT)) for server in SERVERS}
        assert Conntrack().delete("tcp", (SERVERS[0], PORT), anywhere) == 2
        assert Conntrack().usage().entries == 1


def test_a_table_of_all_sorts_is_counted_as_it_is_listed(net: Net) -> None:
    """Two ways through the same messages: one knows shapes and adds up keys, the other takes each by itself."""
    chance = random.Random(5)
    services, orders, expected = [TCP, UDP, TCP_V6], [], Counter[tuple[str, tuple[str, int], bool]]()
    for i, (host, port) in enumerate(clients(3000)):
        service = chance.choice(services)
        server = (chance.choice(SERVERS if service.family == 4 else SERVERS_V6), chance.choice([PORT, 9000]))
        state = chance.choice([ESTABLISHED, TIME_WAIT])
        client = (host if service.family == 4 else f"2001:db8:9::{i:x}", port)
        orders.append(
            entry(
                client,
                (service.address, VPORT),
                server,
                protocol=service.protocol,
                state=state,
                mark=chance.choice([0, 0, 7]),
            )
        )
        expected[service.frontend, server, service.protocol == "tcp" and state == ESTABLISHED] += 1
    with net:
        fill(orders)
        counts = Conntrack().counts(services)
        flows = list(Conntrack().flows(services))
    assert {key: tuple(load) for key, load in counts.items()} == {
        key: (expected[*key, True], expected[*key, False]) for key in {key[:2] for key in expected}
    }
    assert Counter((flow.server, flow.state) for flow in flows).total() == 3000
    assert len(set(flows)) == 3000
    assert {flow.state for flow in flows} == {"", "ESTABLISHED", "TIME_WAIT"}
    assert sum(flow.state == "ESTABLISHED" for flow in flows) == sum(load.active for load in counts.values())


def test_a_full_table_is_counted_and_cleaned_in_time(net: Net) -> None:
    """100 000 entries, 100 servers. The times are ten times those of a slow machine: they are there to be noticed."""
    servers = [(f"10.0.100.{i}", PORT) for i in range(1, 101)]
    gone = []
    with net:
        fill(
            entry(client, (VIP, VPORT), servers[i % 100], protocol="tcp" if i % 2 else "udp")
            for i, client in enumerate(clients(100_000))
        )
        table = Conntrack()
        begin = time.process_time()
        counts = table.counts([TCP, UDP])
        counted = time.process_time() - begin
        assert sum(load.active + load.inactive for load in counts.values()) == 100_000
        assert set(counts.values()) == {Load(1000, 0), Load(0, 1000)}
        begin = time.process_time()
        assert table.delete("tcp", servers[1], gone=gone.append) == 1000
        deleted = time.process_time() - begin
        assert {flow.server for flow in gone} == {servers[1]}
        assert len(set(gone)) == 1000
        assert table.usage().entries == 99_000
        assert counts.keys() - table.counts([TCP, UDP]).keys() == {("web", servers[1])}
    assert counted < 3
    assert deleted < 1


def test_a_listing_may_be_left_before_its_end(net: Net) -> None:
    with net:
        fill(entry(client, (VIP, VPORT), (SERVERS[0], PORT)) for client in clients(1000))
        flows = Conntrack().flows([TCP])
        assert next(flows).server == (SERVERS[0], PORT)
        flows.close()
        assert Conntrack().counts([TCP]) == {("web", (SERVERS[0], PORT)): Load(1000, 0)}


def test_usage_is_that_of_this_namespace(net: Net) -> None:
    with net:
        fill([entry(("10.0.0.1", 5), (VIP, VPORT), None)])
        usage = Conntrack().usage()
    assert usage.entries == 1
    assert usage.maximum > 1
    assert (usage.evicted, usage.dropped) == (0, 0)


def test_who_has_no_right_is_told_what_it_takes() -> None:
    assert "CAP_NET_ADMIN" in refused(Conntrack)
