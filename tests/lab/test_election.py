"""There is one master soon, whatever was before: starts at one time, split brains, machines under full load.

What was measured goes to the properties of the tests (`--junitxml`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from itertools import pairwise
from signal import SIGKILL, SIGTERM

import pytest
import yaml

from tests.lab import services
from tests.lab.directors import (
    ALL,
    DIRECTORS,
    HANDOVER,
    NOWHERE,
    V2,
    V3,
    Cluster,
    Record,
    everything_busy,
    keepalived,
    pybalancer,
)
from tests.lab.lab import Lab, Node
from tests.lab.space import why_not
from tests.lab.topology import NETWORKS, VIPS, Card
from tests.lab.watch import Wire
from tests.vrrp.conftest import GROUP_MAC_V4
from tests.vrrp.frames import Advert, Arp

pytestmark = pytest.mark.skipif(why_not() != "", reason=why_not())

ROUNDS = {"nobody": 6} | dict.fromkeys(DIRECTORS, 4)
INTERVAL = 0.1
# In so many seconds so many advertisements, and none of another, show who is master.
STEADY = 1.0
ENOUGH = 8


@pytest.fixture
def cluster(directors: Cluster) -> Cluster:
    """Both switched on, cables in; what runs on them is what the last test left, or nothing."""
    for name in DIRECTORS:
        node = directors.lab[name]
        for card in node.machine.cards:
            node.mend(card.name)
        isolate(node, False)
    return directors


@pytest.fixture
def wire(directors: Cluster) -> Iterator[Wire]:
    with Wire(directors.lab) as wire:
        yield wire


def isolate(node: Node, is_isolated: bool) -> None:
    """Between isolated machines nothing passes, and no card sees it; all others hear both of them."""
    assert node._switch is not None
    for card in node.machine.cards:
        state = "on" if is_isolated else "off"
        node._switch.run(["ip", "link", "set", f"{node.name}-{card.name}", "type", "bridge_slave", "isolated", state])


# What they are told


def with_unicast(node: Node, lab: Lab, text: str) -> str:
    """A configuration whose virtual routers know each other's addresses."""
    content = yaml.safe_load(text)
    for instance in content["vrrp"]["instances"].values():
        own, peer = (_card(each, instance["interface"]).address for each in _ordered(lab, node))
        instance.update(unicast_src_ip=own, unicast_peer=[peer])
    return yaml.safe_dump(content)


def _ordered(lab: Lab, node: Node) -> list[Node]:
    return sorted((lab[name] for name in DIRECTORS), key=lambda each: each is not node)


def _card(node: Node, name: str) -> Card:
    return next(card for card in node.machine.cards if card.name == name)


def in_keepalived(node: Node, text: str, *more: str) -> tuple[str, ...]:
    """keepalived's command for a configuration, with more lines in each virtual router."""
    command = keepalived(node, text)
    written = (node.disk / "etc/keepalived/keepalived.conf").read_text()
    first = "  virtual_ipaddress {"
    assert first in written
    lines = "".join(f"  {line}\n" for line in more)
    node.write("/etc/keepalived/keepalived.conf", written.replace(first, lines + first))
    return command


def commands(cluster: Cluster, text: str, keepalived_on: str, *more: str) -> list[tuple[str, ...]]:
    """For both directors; keepalived on one or none of them."""
    nodes = (cluster.master, cluster.standby)
    return [
        in_keepalived(node, text, *more) if node.name == keepalived_on else pybalancer(node, text) for node in nodes
    ]


# One master


def settles(cluster: Cluster, wire: Wire, *, within: float = 8.0) -> float:
    """The moment since which the master alone has advertised, and holds everything; it stays so for a while."""
    begun = since = time.monotonic()

    def has_settled() -> bool:
        nonlocal since
        since = max(begun, time.monotonic() - STEADY)
        heard = [len(wire.adverts(cluster.master, since=since, network=network.name)) for network in NETWORKS]
        held = cluster.holders.of(cluster.master), cluster.holders.of(cluster.standby)
        return min(heard) >= ENOUGH and not wire.adverts(cluster.standby, since=since) and held == (ALL, NOWHERE)

    cluster.lab.until(has_settled, "there is one master, and that is the best", within=within)
    settled = since
    cluster.lab.until(lambda: time.monotonic() > settled + 2 * STEADY, "a while")
    assert not wire.adverts(cluster.standby, since=settled)
    assert has_settled()
    return settled


@pytest.mark.parametrize("keepalived_on", ["nobody", *DIRECTORS])
def test_started_at_one_time_and_at_any_other_there_is_one_master(
    cluster: Cluster, wire: Wire, keepalived_on: str, record_property: Record
) -> None:
    draw = random.Random(30)
    cluster.runs(*commands(cluster, V3, keepalived_on))
    both = [cluster.master, cluster.standby]
    took = []
    for number in range(ROUNDS[keepalived_on]):
        # The first at one time.
        who = draw.sample(both, k=2 if number % 2 == 0 else draw.choice([1, 2]))
        for node in who:
            # Killed, keepalived leaves its addresses behind.
            is_killed = node.balancer[0] == "pybalancer" and draw.random() < 0.5
            node.program(node.balancer[0]).end(SIGKILL if is_killed else SIGTERM)
        time.sleep(draw.choice([0.0, draw.uniform(0.0, 1.5)]))
        begun = time.monotonic()
        for node in who:
            services.start_balancer(node)
            time.sleep(0.0 if number == 0 else draw.choice([0.0, draw.uniform(0.0, 0.6)]))
        took.append(settles(cluster, wire) - begun)
    record_property("until there is one", max(took))


@pytest.mark.parametrize("keepalived_on", ["nobody", *DIRECTORS])
def test_a_healed_split_leaves_one_who_announces_its_addresses(
    cluster: Cluster, wire: Wire, keepalived_on: str, record_property: Record
) -> None:
    # keepalived as the lower one goes without a word, unless it is told to have one.
    more = ["higher_prio_send_advert true"] if keepalived_on == "standby" else []
    cluster.runs(*commands(cluster, V3, keepalived_on, *more))
    settles(cluster, wire)
    cluster.client.run("busybox", "ping", "-c", "1", "192.168.1.200")
    for attempt in range(3):
        for name in DIRECTORS:
            isolate(cluster.lab[name], True)
        cluster.until(ALL, ALL, within=5.0)
        parted = time.monotonic()
        cluster.lab.until(lambda: len(wire.adverts(cluster.standby, since=parted)) >= 10, "both are masters")  # noqa: B023
        healed = time.monotonic()
        for name in DIRECTORS:
            isolate(cluster.lab[name], False)
        cluster.until(ALL, NOWHERE, within=1.2 + HANDOVER)
        record_property(f"one master after, {attempt}", time.monotonic() - healed)

        time.sleep(HANDOVER)
        assert {vip for _, vip in wire.announced(cluster.master, since=healed)} == ALL, told(wire, healed)
        first = wire.announced(cluster.master, since=healed)[0][0]
        record_property(f"announced after, {attempt}", first - healed)
        cluster.lab.until(
            lambda: cluster.mac_of("192.168.1.200") == cluster.master.machine.cards[0].mac, "the client finds it"
        )
        settles(cluster, wire)


def told(wire: Wire, since: float) -> list[str]:
    """What passed, for whoever looks for the reason of a failure."""
    return [
        f"{each.at - since:.3f} {said.source} VRID {said.vrid} priority {said.priority}"
        if isinstance(said := each.said, Advert)
        else f"{each.at - since:.3f} ARP {said.sender}"
        for each in wire.passed(since=since)
        if isinstance(each.said, Advert | Arp)
    ]


# On the wire


def test_what_a_new_master_says_in_version_2(cluster: Cluster, wire: Wire) -> None:
    cluster.runs(*commands(cluster, V2, "nobody"))
    begun = time.monotonic()
    cluster.until(ALL, NOWHERE)
    master = cluster.master

    def sets(vip: str) -> list[list[float]]:
        """When it was announced, in sets that lie apart."""
        times = [at for at, which in wire.announced(master, since=begun) if which == vip]
        marks = [0, *(number for number, (one, two) in enumerate(pairwise(times), 1) if two - one > 1), len(times)]
        return [times[at:end] for at, end in pairwise(marks)]

    cluster.lab.until(lambda: all(len(sets(vip)) >= 2 for vip in VIPS), "the second set of announcements", within=15.0)
    time.sleep(0.5)
    for vip, network in VIPS.items():
        adverts = wire.adverts(master, since=begun, network=network.name)
        one, two = sets(vip)
        assert (len(one), len(two)) == (5, 5)
        assert 0 <= one[0] - adverts[0].at < 0.2, "after its first advertisement"
        assert one[-1] - one[0] < 0.1
        assert 4.5 < two[0] - one[0] < 6.5
    for card in master.machine.cards:
        adverts = wire.adverts(master, since=begun, network=card.network.name)
        vips = [vip for vip, network in VIPS.items() if network is card.network]
        mac = bytes.fromhex(card.mac.replace(":", ""))
        for each in adverts:
            said = each.said
            assert isinstance(said, Advert)
            assert (said.frame.destination, said.frame.source) == (GROUP_MAC_V4, mac)
            assert (said.source, said.destination, said.ttl, said.tos) == (card.address, "224.0.0.18", 255, 0xC0)
            assert len(said.message) == 8 + 4 * len(vips) + 8
            assert said.message[-8:] == b"mypasswd"
        # Of two that start at once the other may have been master for a moment, and was answered.
        steady = [each.at for each in adverts if each.at - adverts[0].at > 1.5]
        gaps = [two - one for one, two in pairwise(steady)]
        assert 0.9 < min(gaps) <= max(gaps) < 1.3
    for each in wire.passed(since=begun):
        if isinstance(each.said, Arp) and each.said.sender == each.said.target:
            arp = each.said
            assert arp.frame.destination == arp.target_mac == b"\xff" * 6
            assert arp.frame.source == arp.sender_mac
            assert arp.operation == 1


# To known peers alone


@pytest.mark.parametrize(
    ("text", "keepalived_on"),
    [(V3, "nobody"), *((text, name) for text in (V2, V3) for name in DIRECTORS)],
    ids=["pybalancer alone", *(f"version {version}, keepalived on {name}" for version in (2, 3) for name in DIRECTORS)],
)
def test_unicast_peers(cluster: Cluster, wire: Wire, keepalived_on: str, text: str, record_property: Record) -> None:
    both = (cluster.master, cluster.standby)
    told = []
    for node in both:
        own, other = _ordered(cluster.lab, node)
        if node.name == keepalived_on:
            told.append(_in_keepalived_with_unicast(own, other, text))
        else:
            told.append(pybalancer(node, with_unicast(node, cluster.lab, text)))
    cluster.runs(*told)
    begun = time.monotonic()
    cluster.until(ALL, NOWHERE)
    interval = INTERVAL if text is V3 else 1.0
    elected = time.monotonic()
    # The other one may still be starting.
    cluster.lab.until(lambda: time.monotonic() > elected + 3, "a while")
    for network in NETWORKS:
        assert len(wire.adverts(cluster.master, since=elected, network=network.name)) >= 2
    assert not wire.adverts(cluster.standby, since=elected + HANDOVER)
    said = [each.said for each in wire.adverts(since=begun) if isinstance(each.said, Advert)]
    assert {each.ttl for each in said} == {255}
    assert {(each.source, each.destination) for each in said} <= {
        (_card(one, name).address, _card(two, name).address)
        for one, two in (both, both[::-1])
        for name in ("eth0", "eth1")
    }
    for node in both:
        assert "hecksum" not in cluster.log(node)

    # It stops, and returns.
    stopped = time.monotonic()
    cluster.ends(cluster.master)
    cluster.until(NOWHERE, ALL)
    record_property("stop", cluster.holders.longest(0, since=stopped))
    assert cluster.holders.longest(0, since=stopped) < interval + 1.5
    services.start_balancer(cluster.master)
    cluster.until(ALL, NOWHERE)
    assert not cluster.standby.vips & ALL


def _in_keepalived_with_unicast(node: Node, peer: Node, text: str) -> tuple[str, ...]:
    command = keepalived(node, text)
    written = (node.disk / "etc/keepalived/keepalived.conf").read_text().splitlines()
    lines = []
    for line in written:
        lines.append(line)
        if line.strip().startswith("interface "):
            name = line.split()[1]
            own, other = _card(node, name).address, _card(peer, name).address
            lines += [f"  unicast_src_ip {own}", "  unicast_peer {", f"    {other}", "  }"]
    node.write("/etc/keepalived/keepalived.conf", "\n".join(lines) + "\n")
    return command


# Under full load


def test_under_full_load_nobody_takes_over(cluster: Cluster, wire: Wire, record_property: Record) -> None:
    """At an advertisement each second; ten a second are measured where nothing else runs, by bench/failover.py."""
    cluster.runs(*commands(cluster, V2, "nobody"))
    cluster.until(ALL, NOWHERE)
    services_up = {node.machine.alias for node in cluster.lab.nodes.values()}
    cluster.lab.until(lambda: services.are_up(cluster.master, services_up), "it finds its servers up")
    begun = time.monotonic()
    with everything_busy(cluster.lab, 10.0):
        time.sleep(10.0)
        ended = time.monotonic()
    gaps = wire.gaps(cluster.master, begun, ended)
    record_property("longest gap", max(gaps))
    assert not cluster.holders.when(cluster.standby, takes=True, since=begun)
    assert not wire.adverts(cluster.standby, since=begun)
    # The standby waits 3.6 s.
    assert max(gaps) < 2.0
    assert "Latency" in (cluster.client.disk / "log/wrk.log").read_text(), "there was traffic"
