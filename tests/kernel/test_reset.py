"""A client that waits for a server which is gone."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from math import inf

import pytest
from scapy.layers import inet
from scapy.layers.inet6 import IPv6

from balancer.kernel import reset, segments
from balancer.kernel.conntrack import Conntrack, Flow
from balancer.kernel.nft import Nft
from balancer.kernel.reset import Resets, syn_ack
from tests.kernel.stage import PORT, SERVERS, SERVERS_V6, TCP, VIP, VIP_V6, VPORT, Site
from tests.vrrp.conftest import Net, as_root

from .conftest import refused

pytestmark = as_root

FLOW = Flow("tcp", ("127.0.0.1", 5000), ("127.0.0.1", 80), ("127.0.0.1", 8080), "ESTABLISHED", 1, 0, 0, 0, 0)


@pytest.fixture
def resets(site: Site) -> Iterator[Resets]:
    with site.director:
        resets = Resets()
    yield resets
    resets.close()


def count_resets(site: Site, server: int) -> None:
    """Of those that this server sends."""
    with site.servers[server]:
        nft = Nft()
        nft.run(
            "table inet count {\n counter resets { }\n chain out { type filter hook output priority 0;"
            ' tcp flags & rst == rst counter name "resets"; }\n}'
        )
        nft.close()


def resets_of(site: Site, server: int) -> int:
    with site.servers[server]:
        nft = Nft()
        (counter,) = (each["counter"] for each in nft.list_json("list counters") if "counter" in each)
        nft.close()
    packets: int = counter["packets"]
    return packets


def is_reset(client: socket.socket, resets: Resets) -> bool:
    """Is it, by the time that all was sent that is to be sent? One that answered such a thing just now does not."""
    while True:
        resets.turn(time.monotonic())
        rest = min(resets.due - time.monotonic(), 5)
        if select.select([client], [], [], max(rest, 0))[0] or rest == 5:
            break
    try:
        client.recv(1)
    except ConnectionResetError:
        return True
    return False


@pytest.mark.parametrize("vip", [VIP, VIP_V6])
def test_a_client_is_reset_by_a_live_server_that_does_not_know_it(site: Site, resets: Resets, vip: str) -> None:
    family, servers = (socket.AF_INET6, SERVERS_V6) if ":" in vip else (socket.AF_INET, SERVERS)
    site.lead(0)
    for server in range(2):
        site.listen(server, family)
    count_resets(site, 1)
    client = site.connect(vip)
    site.inside.cut(site.servers[0])
    site.lead(1)
    with site.director:
        assert Conntrack().delete("tcp", (servers[0], PORT), gone=resets.add) == 1
    assert is_reset(client, resets)
    assert resets_of(site, 1) == 1
    assert resets.failed == 0


def test_a_client_is_reset_where_no_server_is_left(site: Site, resets: Resets) -> None:
    site.lead(0)
    site.listen(0)
    client = site.connect()
    site.inside.cut(site.servers[0])
    site.lead(None)
    with site.director:
        assert Conntrack().delete("tcp", (SERVERS[0], PORT), gone=resets.add) == 1
    assert is_reset(client, resets)


def test_a_connection_that_lives_is_not_harmed(site: Site, resets: Resets) -> None:
    site.lead(0)
    listening = site.listen(0)
    client = site.connect()
    served, _ = listening.accept()
    with served, site.director:
        (flow,) = Conntrack().flows([TCP])
        for now in (0.0, 1.0, 2.0):
            resets.add(flow)
            resets.turn(now)
        served.settimeout(5)
        client.send(b"still here")
        assert served.recv(99) == b"still here"
        served.send(b"so am I")
        assert client.recv(99) == b"so am I"
        # Nothing of it is a connection of its own.
        assert Conntrack().usage().entries == 1
    assert resets.sent >= 3


def test_who_is_not_connected_is_left_alone(site: Site, resets: Resets) -> None:
    for flow in (
        FLOW._replace(protocol="udp", state=""),
        *(FLOW._replace(state=state) for state in ("SYN_SENT", "TIME_WAIT", "CLOSE")),
    ):
        resets.add(flow)
    assert resets.due == inf
    resets.turn(0.0)
    assert resets.sent == 0


def test_a_crowd_is_told_in_turn_and_once_more(site: Site, resets: Resets, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[float, int]] = []
    now = 100.0
    monkeypatch.setattr(Resets, "_send", lambda self, client, service: told.append((now, client[1])))
    for port in range(1000):
        resets.add(FLOW._replace(client=("127.0.0.1", port)))
    while resets.due < inf:
        now = max(now, resets.due)
        resets.turn(now)
    assert [port for _, port in told] == [*range(1000), *range(1000)]
    first, again = told[:1000], told[1000:]
    assert [begin for begin, _ in first[::250]] == pytest.approx([100.0, 100.05, 100.1, 100.15])
    assert [begin for begin, _ in again[::250]] == pytest.approx([100.6, 100.65, 100.7, 100.75])


def test_more_than_there_is_room_for_is_counted(resets: Resets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reset, "_LONGEST_QUEUE", 3)
    for _ in range(5):
        resets.add(FLOW)
    assert resets.failed == 2
    monkeypatch.setattr(Resets, "_send", lambda *_: None)
    resets.turn(0.0)
    assert resets.due == 0.6


def test_what_the_kernel_does_not_take_is_counted() -> None:
    net = Net()
    with net:
        resets = Resets()
        # Not even loopback is up.
        resets.add(FLOW._replace(client=("198.51.100.1", 5000)))
        resets.add(FLOW._replace(client=("2001:db8::1", 5000), service=("2001:db8::2", 80)))
        resets.turn(0.0)
    assert (resets.sent, resets.failed) == (0, 2)
    resets.close()
    net.close()


def test_a_packet_has_right_checksums() -> None:
    """As another implementation sees them."""
    for version, ends in ((4, (VIP, "192.0.2.10")), (6, (VIP_V6, "2001:db8:1::10"))):
        packet = segments.packet(syn_ack((ends[0], VPORT), (ends[1], 5000)))
        read = inet.IP(packet) if version == 4 else IPv6(packet)
        assert (read.src, read.dst, read[inet.TCP].flags) == (*ends, "SA")
        assert (read[inet.TCP].sport, read[inet.TCP].dport) == (VPORT, 5000)
        said = read[inet.TCP].chksum
        del read[inet.TCP].chksum
        assert type(read)(bytes(read))[inet.TCP].chksum == said
        assert len(packet) == (read.len if version == 4 else read.plen + 40)


def test_who_has_no_right_is_told_what_it_takes() -> None:
    assert "CAP_NET_RAW" in refused(Resets)
