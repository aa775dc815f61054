"""The virtual addresses are always somewhere, and once: against keepalived in a director's place, and among pybalancer.

What was measured goes to the properties of the tests (`--junitxml`).
"""

from __future__ import annotations

import contextlib
import socket
import time
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM, SIGUSR2

import pytest

from balancer.config.read import loads
from balancer.wire import vrrp as wire
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
    Visits,
    changed,
    configuration,
    keepalived,
    pybalancer,
    silent,
)
from tests.lab.space import why_not
from tests.lab.watch import Wire
from tests.vrrp.frames import Advert

pytestmark = pytest.mark.skipif(why_not() != "", reason=why_not())

# What the standby waits: three advertisements of 1 s, and its skew, (256 - 100) / 256 s.
SKEW = 156 / 256
DOWN = 3 + SKEW
# For a machine with other things to do.
MARGIN = 1.5
# global.hard_stop_after (seconds).
HARD_STOP = 30.0
# Ten advertisements a second, and announced once: whatever is announced later is not on schedule.
FAST = configuration(version=3, advert_int="100ms", authentication=None, garp_master_delay="0s")
MORE = "192.168.1.203"


@pytest.fixture
def cluster(directors: Cluster) -> Cluster:
    """Both switched on, cables in; what runs on them is what the last test left, or nothing."""
    for name in DIRECTORS:
        node = directors.lab[name]
        if node.is_on:
            for card in node.machine.cards:
                node.mend(card.name)
        else:
            node.balancer = services.balancer(node)
            directors.boots(node)
    return directors


@pytest.fixture
def pair(cluster: Cluster) -> Cluster:
    """pybalancer on both, as it is shipped, everything on the master."""
    if not cluster.is_as_shipped():
        cluster.runs(*(services.balancer(cluster.lab[name]) for name in DIRECTORS))
    cluster.until(ALL, NOWHERE)
    return cluster


# What they are told


def with_keepalived_on(cluster: Cluster, name: str, text: str) -> None:
    """Start both directors' balancers: keepalived on one, pybalancer on the other, both with this configuration."""
    cluster.runs(
        *((keepalived if node.name == name else pybalancer)(node, text) for node in (cluster.master, cluster.standby))
    )


# With keepalived


@pytest.mark.parametrize("keepalived_on", DIRECTORS)
def test_keepalived_and_pybalancer_are_one_pair(cluster: Cluster, keepalived_on: str, record_property: Record) -> None:
    master, standby, holders = cluster.master, cluster.standby, cluster.holders

    # Whichever is quicker to start, the one of higher priority is elected, and believed.
    begun = time.monotonic()
    with_keepalived_on(cluster, keepalived_on, V2)
    cluster.until(ALL, NOWHERE)
    elected = time.monotonic()
    assert {said.priority for said in cluster.hears(standby, 1)} == {150}
    assert holders.longest(2, since=begun) < HANDOVER
    assert not holders.when(standby, takes=True, since=elected)

    # The master's power fails.
    failed = time.monotonic()
    master.power_off()
    cluster.until(NOWHERE, ALL)
    record_property("failover", holders.longest(0, since=failed))
    assert holders.longest(0, since=failed) < DOWN + MARGIN
    assert holders.longest(2, since=failed) == 0

    # It comes back, and takes everything back from one who serves until then.
    back = time.monotonic()
    cluster.boots(master)
    cluster.until(ALL, NOWHERE)
    assert {said.priority for said in cluster.hears(standby, 1)} == {150}
    assert holders.longest(0, since=back) < HANDOVER
    assert holders.longest(2, since=back) < HANDOVER

    # One cable goes, both virtual routers do.
    cut = time.monotonic()
    master.cut("eth1")
    cluster.until(NOWHERE, ALL)
    lost, taken = holders.when(master, takes=False, since=cut), holders.when(standby, takes=True, since=cut)
    record_property("one cable", holders.longest(0, since=cut))
    assert len(lost) == len(taken) == len(ALL)
    assert lost[-1] - lost[0] < HANDOVER
    assert taken[-1] - taken[0] < HANDOVER
    assert holders.longest(0, since=cut) < DOWN + MARGIN
    assert holders.longest(2, since=cut) == 0
    for node in (master, standby):
        assert "hecksum" not in cluster.log(node)


@pytest.mark.parametrize("keepalived_on", DIRECTORS)
def test_version_3_ten_times_a_second(cluster: Cluster, keepalived_on: str, record_property: Record) -> None:
    with_keepalived_on(cluster, keepalived_on, V3)
    cluster.until(ALL, NOWHERE)
    elected = time.monotonic()
    # Who does not believe the sum of what it hears takes over after less than four of these.
    assert {(said.version, said.priority, said.interval) for said in cluster.hears(cluster.standby, 8)} == {
        (3, 150, 0.1)
    }
    for node in (cluster.master, cluster.standby):
        assert "hecksum" not in cluster.log(node)
    assert not cluster.holders.when(cluster.standby, takes=True, since=elected)
    ended = time.monotonic()
    cluster.ends(cluster.master)
    cluster.until(NOWHERE, ALL)
    record_property("stop", cluster.holders.longest(0, since=ended))
    assert cluster.holders.longest(0, since=ended) < 0.4 + MARGIN


def test_version_3_with_the_sum_of_the_standard_is_believed(cluster: Cluster) -> None:
    """As RFC 9568 has it, and newer keepalived with `v3_checksum_as_v2`: here it comes from nobody but the test."""
    master, standby = cluster.master, cluster.standby
    cluster.runs(("sleep", "infinity"), pybalancer(standby, V3))
    cluster.until(NOWHERE, ALL)
    routers = loads(V3, node="master", environ={}).vrrp.instances.values()
    with contextlib.ExitStack() as opened:
        said = []
        for router, card in zip(routers, master.machine.cards, strict=True):
            own = socket.inet_aton(card.address)
            with master.network():
                mouth = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_RAW, wire.PROTOCOL))
            mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
            mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, wire.HOP_LIMIT)
            advertisement = wire.Advertisement(
                version=3,
                vrid=router.virtual_router_id,
                priority=router.priority,
                interval=router.advert_int,
                addresses=tuple(socket.inet_aton(vip.address) for vip in router.virtual_ipaddress),
            )
            said.append((mouth, wire.build(advertisement, source=own, destination=wire.GROUP_V4, checksum_as_v2=True)))

        def say() -> bool:
            for mouth, message in said:
                mouth.sendto(message, ("224.0.0.18", 0))
            return cluster.holders.of(standby) == NOWHERE

        cluster.lab.until(say, "the standby steps down")
    cluster.until(NOWHERE, ALL)


def test_virtual_routers_are_reloaded_beside_keepalived(cluster: Cluster, record_property: Record) -> None:
    master, standby, holders = cluster.master, cluster.standby, cluster.holders
    # keepalived is not reloaded, and to believe lists of other addresses than its own has to be told so.
    others = keepalived(standby, FAST, defs="vrrp_skip_check_adv_addr")
    cluster.runs(pybalancer(master, FAST), others)
    cluster.until(ALL, NOWHERE)
    cluster.hears(standby, 1)

    # An address more: it alone is put and announced, and the others go on.
    with Wire(cluster.lab) as wire:
        begun = time.monotonic()
        more = changed(FAST, address=MORE)
        cluster.reloads(master, more)
        assert MORE in master.run("ip", "address", "show", "dev", "eth0")
        after = time.monotonic()
        cluster.lab.until(lambda: len(wire.adverts(master, since=after)) > 10, "it goes on")
        assert {address for _, address in wire.announced(master, since=begun)} == {MORE}
        longest = max(wire.gaps(master, begun, time.monotonic()))
        heard = [(each.network, each.said) for each in wire.adverts(master, since=after)]
        lists = {(network, said.message[3]) for network, said in heard if isinstance(said, Advert)}
    record_property("longest gap between advertisements", longest)
    # keepalived waits for three, and its skew.
    assert longest < 0.3
    assert sorted(count for _, count in lists) == [1, 3]

    # What cannot be leaves all as it is.
    cluster.reloads(master, changed(FAST, interface="eth9"), said="there is no interface eth9")
    cluster.hears(standby, 3)
    assert not holders.when(standby, takes=True, since=begun)
    assert not holders.when(master, takes=False, since=begun)

    # A lower priority: the other one takes over, and is taken over from again.
    lowered = time.monotonic()
    cluster.reloads(master, changed(more, priority=50))
    cluster.until(NOWHERE, ALL)
    record_property("to the other", holders.longest(0, since=lowered))
    assert holders.longest(0, since=lowered) < HANDOVER
    cluster.reloads(master, more)
    cluster.until(ALL, NOWHERE)

    # All of them are removed.
    removed = time.monotonic()
    cluster.reloads(master, silent(FAST))
    cluster.until(NOWHERE, ALL)
    record_property("removed", holders.longest(0, since=removed))
    assert holders.longest(0, since=removed) < HANDOVER
    assert holders.longest(2, since=begun) < HANDOVER
    cluster.reloads(master, FAST)
    cluster.until(ALL, NOWHERE)


def test_a_director_is_upgraded_and_keepalived_does_not_notice(cluster: Cluster, record_property: Record) -> None:
    """Ten advertisements a second; the new version takes longer to start than keepalived waits for the next one."""
    master, standby, holders = cluster.master, cluster.standby, cluster.holders
    cluster.runs(pybalancer(master, FAST), keepalived(standby, FAST))
    cluster.until(ALL, NOWHERE)
    cluster.hears(standby, 1)
    with Wire(cluster.lab) as wire, Visits(cluster.client) as visits:
        begun = time.monotonic()
        cluster.signals(master, SIGUSR2, "upgraded from ")
        cluster.hears(standby, 5)
        visits.more(50)
        gaps = wire.gaps(master, begun, time.monotonic())
        assert not wire.announced(master, since=begun)
        assert not list(wire.adverts(standby, since=begun))
    record_property("longest gap between advertisements", max(gaps))
    record_property("lost service", visits.lost)
    assert visits.failed == 0
    # Three, and its skew.
    assert max(gaps) < 0.3
    assert not holders.when(standby, takes=True, since=begun)
    assert not holders.when(master, takes=False, since=begun)
    assert {said.priority for said in cluster.hears(standby, 1)} == {150}
    # As standby, too: it goes on to listen, and takes over when it has to.
    log, begins = standby.disk / "log" / "pybalancer.log", "Entering BACKUP STATE: started"
    known = log.read_text().count(begins) if log.exists() else 0
    cluster.runs(keepalived(master, FAST), pybalancer(standby, FAST))
    cluster.until(ALL, NOWHERE)
    cluster.lab.until(lambda: log.read_text().count(begins) >= known + 2, "it hears signals")
    begun = time.monotonic()
    cluster.signals(standby, SIGUSR2, "upgraded from ")
    assert not holders.when(standby, takes=True, since=begun)
    failed = time.monotonic()
    master.power_off()
    cluster.until(NOWHERE, ALL)
    assert holders.longest(0, since=failed) < DOWN + MARGIN


# Among pybalancer


def test_both_are_reloaded_and_no_client_notices(cluster: Cluster, record_property: Record) -> None:
    """First who is not master, then who is: another address, other priorities, other timers."""
    master, standby, holders = cluster.master, cluster.standby, cluster.holders
    cluster.runs(pybalancer(master, FAST), pybalancer(standby, FAST))
    cluster.until(ALL, NOWHERE)
    cluster.hears(standby, 1)
    after = changed(FAST, address=MORE, priority=160, down_timer_adverts=4)
    with Wire(cluster.lab) as wire, Visits(cluster.client) as visits:
        begun = time.monotonic()
        for node in (standby, master):
            cluster.reloads(node, after)
            cluster.hears(standby, 10)
        visits.more(50)
        gaps = wire.gaps(master, begun, time.monotonic())
        assert {address for _, address in wire.announced(master, since=begun)} == {MORE}
        assert not wire.announced(standby, since=begun)
    record_property("longest gap between advertisements", max(gaps))
    record_property("lost service", visits.lost)
    assert visits.failed == 0
    assert max(gaps) < 0.3
    assert not holders.when(standby, takes=True, since=begun)
    assert not holders.when(master, takes=False, since=begun)
    assert MORE in master.run("ip", "address", "show", "dev", "eth0")
    assert {said.priority for said in cluster.hears(standby, 1)} == {160}


def test_a_planned_stop(pair: Cluster, record_property: Record) -> None:
    stopped = time.monotonic()
    with Visits(pair.client) as visits:
        # A visit may be under way whose client hears no more: so long it is waited for, and not longer.
        pair.master.program("pybalancer").end(SIGTERM, within=HARD_STOP + 10)
        pair.until(NOWHERE, ALL)
        visits.more(10)
    record_property("lost service", visits.lost)
    assert visits.lost < 1 + MARGIN
    assert pair.mac_of("192.168.1.200") == pair.standby.machine.cards[0].mac
    assert pair.holders.longest(2, since=stopped) == 0

    # Nobody notices that it comes back.
    with Visits(pair.client) as visits:
        services.start_balancer(pair.master)
        pair.until(ALL, NOWHERE)
        visits.more(10)
    record_property("lost service at failback", visits.lost)
    assert visits.lost < HANDOVER + MARGIN
    assert pair.mac_of("192.168.1.200") == pair.master.machine.cards[0].mac


def test_a_frozen_supervisor_loses_its_addresses_and_gets_them_back(pair: Cluster, record_property: Record) -> None:
    supervisor, holders = pair.master.program("pybalancer"), pair.holders
    frozen = time.monotonic()
    supervisor.send(SIGSTOP)
    try:
        pair.until(NOWHERE, NOWHERE)
        pair.until(NOWHERE, ALL)
        gone = holders.when(pair.master, takes=False, since=frozen)
        record_property("first lease", gone[0])
        record_property("last lease", gone[-1])
        record_property("failover", holders.when(pair.standby, takes=True, since=frozen)[-1])
        pair.lab.until(lambda: time.monotonic() > frozen + 6, "six seconds")
        assert holders.longest(2, since=frozen) == 0
        assert holders.longest(0, since=frozen) < DOWN + MARGIN
    finally:
        thawed = time.monotonic()
        supervisor.send(SIGCONT)
    pair.until(ALL, NOWHERE)
    record_property("two at once", holders.longest(2, since=thawed))
    assert {said.priority for said in pair.hears(pair.standby, 1)} == {150}
    pair.until(ALL, NOWHERE)
    assert holders.longest(2, since=thawed) < HANDOVER
    assert holders.longest(0, since=thawed) < HANDOVER


def test_a_killed_supervisor_leaves_no_address_behind(pair: Cluster, record_property: Record) -> None:
    killed = time.monotonic()
    with Visits(pair.client) as visits:
        pair.master.program("pybalancer").end(SIGKILL)
        pair.until(NOWHERE, NOWHERE)
        pair.until(NOWHERE, ALL)
        visits.more(10)
    record_property("lease", pair.holders.when(pair.master, takes=False, since=killed)[-1])
    record_property("lost service", visits.lost)
    assert visits.lost < DOWN + MARGIN
    assert pair.holders.longest(2, since=killed) == 0


def test_an_address_that_somebody_deletes_comes_back(pair: Cluster, record_property: Record) -> None:
    deleted = time.monotonic()
    pair.master.run("ip", "address", "delete", "192.168.1.200/32", "dev", "eth0")
    pair.lab.until(lambda: pair.holders.when(pair.master, takes=False, since=deleted), "it was gone")
    pair.until(ALL, NOWHERE, within=5)
    record_property("gone", pair.holders.longest(0, since=deleted))
    assert pair.holders.longest(0, since=deleted) < 0.1 + MARGIN
    pair.lab.until(lambda: "192.168.1.200 taken off eth0" in pair.log(pair.master), "it is told")
    assert not pair.holders.when(pair.standby, takes=True, since=deleted)


def test_the_power_fails(pair: Cluster, record_property: Record) -> None:
    record_property("lost service", lost_when_the_power_fails(pair, DOWN + MARGIN))


def test_the_power_fails_at_ten_advertisements_a_second(cluster: Cluster, record_property: Record) -> None:
    cluster.runs(*(pybalancer(cluster.lab[name], V3) for name in DIRECTORS))
    cluster.until(ALL, NOWHERE)
    record_property("lost service", lost_when_the_power_fails(cluster, 0.4 + MARGIN))


def lost_when_the_power_fails(cluster: Cluster, most: float) -> float:
    """How long the client was without service."""
    failed = time.monotonic()
    with Visits(cluster.client) as visits:
        cluster.master.power_off()
        cluster.until(NOWHERE, ALL)
        visits.more(10)
    assert visits.lost < most
    assert cluster.mac_of("192.168.1.200") == cluster.standby.machine.cards[0].mac
    # Its processes die before its links do: on a busy machine the other may be there in between.
    assert cluster.holders.longest(2, since=failed) < HANDOVER
    return visits.lost
