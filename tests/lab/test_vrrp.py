"""The virtual addresses are always somewhere, and once: against keepalived in a director's place, and among pybalancer.

What was measured goes to the properties of the tests (`--junitxml`).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from typing import Any

import pytest
import yaml

from balancer.config.read import loads
from balancer.config.vrrp import Vrrp, VrrpInstance
from balancer.wire import vrrp as wire
from tests.lab import services
from tests.lab.lab import Lab, Node
from tests.lab.space import LabError, why_not
from tests.lab.topology import VIPS

pytestmark = pytest.mark.skipif(why_not() != "", reason=why_not())

ALL = set(VIPS)
NOWHERE: set[str] = set()
DIRECTORS = ("master", "standby")
KEEPALIVED = ("keepalived", "--vrrp", "--dont-fork", "--log-console", "--log-detail", "--no-syslog")

# What the standby waits: three advertisements of 1 s, and its skew, (256 - 100) / 256 s.
SKEW = 156 / 256
DOWN = 3 + SKEW
# For a machine with other things to do.
MARGIN = 1.5
# Between one director's first word as master and the other's last address gone.
HANDOVER = 0.5

Record = Callable[[str, object], None]


# Who watches


class Holders:
    """Which director holds which virtual address, as the kernels tell of each change."""

    # linux/rtnetlink.h, linux/if_addr.h
    _GROUP_IPV4_ADDRESS = 0x10
    _NEW, _DELETED = 20, 21
    _IFA_LOCAL = 2

    def __init__(self) -> None:
        self._changes: list[tuple[float, str, str, bool]] = []
        self._monitors: dict[str, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._over = False
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def watch(self, node: Node) -> None:
        """From now on, until it is switched off: another boot is another kernel."""
        self._forget(node)
        with node.network():
            monitor = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
            monitor.bind((0, self._GROUP_IPV4_ADDRESS))
        held = node.vips
        self._changes += [(time.monotonic(), node.name, vip, vip in held) for vip in ALL]
        self._monitors[node.name] = monitor
        self._selector.register(monitor, selectors.EVENT_READ, node.name)

    def of(self, node: Node) -> set[str]:
        """What it holds now."""
        return {vip for vip, names in self._now().items() if node.name in names}

    def when(self, node: Node, *, takes: bool, since: float) -> list[float]:
        """The moments since then when it first took, or lost, each address, in order; seconds after `since`."""
        first: dict[str, float] = {}
        for moment, name, vip, has in self._all():
            if moment >= since and name == node.name and has is takes:
                first.setdefault(vip, moment - since)
        return sorted(first.values())

    def longest(self, count: int, *, since: float) -> float:
        """The longest time since then that an address was on so many directors at once."""
        longest = 0.0
        for vip in ALL:
            names: set[str] = set()
            begun = since
            changes = [change for change in self._all() if change[2] == vip]
            for moment, name, _, has in [*changes, (time.monotonic(), "", vip, False)]:
                after = names | {name} if has else names - {name}
                if len(names) == count and moment > since and (len(after) != count or not name):
                    longest = max(longest, moment - max(begun, since))
                if len(after) != len(names):
                    begun = moment
                names = after
        return longest

    def close(self) -> None:
        self._over = True
        self._thread.join()
        for monitor in self._monitors.values():
            monitor.close()
        self._selector.close()

    def _forget(self, node: Node) -> None:
        monitor = self._monitors.pop(node.name, None)
        if monitor is not None:
            self._selector.unregister(monitor)
            monitor.close()

    def _all(self) -> list[tuple[float, str, str, bool]]:
        return sorted(self._changes, key=lambda change: change[0])

    def _now(self) -> dict[str, set[str]]:
        names: dict[str, set[str]] = {vip: set() for vip in ALL}
        for _, name, vip, has in self._all():
            (names[vip].add if has else names[vip].discard)(name)
        return names

    def _read(self) -> None:
        while not self._over:
            for key, _ in self._selector.select(0.1):
                with contextlib.suppress(OSError):
                    octets = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    now = time.monotonic()
                    self._changes += [(now, key.data, vip, has) for vip, has in self._told(octets)]

    def _told(self, octets: bytes) -> Iterator[tuple[str, bool]]:
        """rtnetlink(7): a header of 16 octets, a struct ifaddrmsg of 8, attributes."""
        while octets:
            size, kind = struct.unpack_from("=IH", octets)
            message, octets = octets[24:size], octets[(size + 3) & ~3 :]
            while message and kind in (self._NEW, self._DELETED):
                length, attribute = struct.unpack_from("=HH", message)
                address = socket.inet_ntoa(message[4:8])
                if attribute == self._IFA_LOCAL and address in ALL:
                    yield address, kind == self._NEW
                message = message[(length + 3) & ~3 :]


class Visitor:
    """Somebody at the client who connects to 192.168.1.200:80 every 10 ms."""

    _EVERY = 0.01
    # The kernel sends the first packet again after a second: by then others have been sent.
    _PATIENCE = 0.9

    def __init__(self, client: Node) -> None:
        self._client = client
        self._served = [time.monotonic()]
        self._over = False
        self._thread = threading.Thread(target=self._visit)

    def __enter__(self) -> Visitor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join()

    @property
    def visits(self) -> int:
        """That were served."""
        return len(self._served) - 1

    @property
    def lost(self) -> float:
        """The longest time without service."""
        served = [*self._served]
        return max(after - before for before, after in itertools.pairwise(served))

    def _visit(self) -> None:
        with self._client.network(), selectors.DefaultSelector() as waiting:
            due = time.monotonic()
            while not self._over:
                if time.monotonic() >= due:
                    due += self._EVERY
                    visit = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                    # Nothing keeps the place of one that is over.
                    visit.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    visit.connect_ex(("192.168.1.200", 80))
                    waiting.register(visit, selectors.EVENT_WRITE, time.monotonic())
                ready = {key.fd for key, _ in waiting.select(max(0.0, due - time.monotonic()))}
                now = time.monotonic()
                for key in list(waiting.get_map().values()):
                    if key.fd in ready or now - key.data > self._PATIENCE:
                        visit = key.fileobj  # type: ignore[assignment]
                        if key.fd in ready and not visit.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                            self._served.append(now)
                        waiting.unregister(visit)
                        visit.close()
            for key in list(waiting.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]


class Cluster:
    """Two directors and a client; what runs on the directors can be another program."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.master, self.standby, self.client = (lab[name] for name in (*DIRECTORS, "client"))
        self.holders = Holders()
        for name in DIRECTORS:
            self.holders.watch(lab[name])

    def until(self, master: set[str], standby: set[str], within: float = 20.0) -> None:
        """Each director holds what it shall hold."""

        def held() -> tuple[set[str], set[str]]:
            return self.holders.of(self.master), self.holders.of(self.standby)

        try:
            self.lab.until(lambda: held() == (master, standby), "the addresses are where they should be", within=within)
        except LabError as error:
            logs = (self.lab[name].disk / "log" / f"{self.lab[name].balancer[0]}.log" for name in DIRECTORS)
            said = [line for log in logs for line in [str(log), *log.read_text().splitlines()[-12:]]]
            raise AssertionError("\n".join([f"{error}: {held()}", *said])) from None

    def runs(self, *commands: tuple[str, ...]) -> None:
        """Other programs balance on master and standby: started as one, when none of before holds an address."""
        directors = [self.lab[name] for name in DIRECTORS]
        for node in reversed(directors):
            self.ends(node)
        self.until(NOWHERE, NOWHERE)
        for node, command in zip(directors, commands, strict=True):
            node.balancer = command
            services.start_balancer(node)

    def ends(self, node: Node) -> None:
        """Its balancer, if it runs."""
        with contextlib.suppress(LabError):
            node.program(node.balancer[0]).end()

    def is_as_shipped(self) -> bool:
        """Whether pybalancer runs on both directors with the shipped configuration."""
        try:
            balancers = [self.lab[name].program("pybalancer") for name in DIRECTORS]
        except LabError:
            return False
        shipped = all(self.lab[name].balancer == services.balancer(self.lab[name]) for name in DIRECTORS)
        return shipped and all(balancer.is_running for balancer in balancers)

    def boots(self, node: Node) -> None:
        node.power_on()
        self.holders.watch(node)

    def hears(self, node: Node, times: int) -> list[wire.Advertisement]:
        """The next advertisements that reach a director, of each virtual router."""
        heard: list[wire.Advertisement] = []
        with node.network():
            ear = socket.socket(socket.AF_INET, socket.SOCK_RAW, wire.PROTOCOL)
        with ear:
            ear.settimeout(20.0)
            while len(heard) < 2 * times:
                header, message = wire.take_ipv4_header(ear.recv(4096))
                heard.append(
                    wire.parse(
                        message,
                        version=message[0] >> 4,
                        source=header.source,
                        destination=header.destination,
                        hop_limit=header.ttl,
                        password=b"mypasswd" if message[0] >> 4 == 2 else None,
                    )
                )
        return heard

    def log(self, node: Node) -> str:
        return (node.disk / "log" / f"{node.balancer[0]}.log").read_text(errors="replace")

    def mac_of(self, vip: str) -> str:
        """Whom the client believes to have the address."""
        (entry,) = json.loads(self.client.run("ip", "-json", "neighbour", "show", "to", vip))
        return str(entry["lladdr"])


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def directors(lab: Lab) -> Iterator[Cluster]:
    cluster = Cluster(lab)
    yield cluster
    cluster.holders.close()


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


def configuration(**changes: object) -> str:
    """The shipped one with other virtual routers; None takes a key away."""
    content: dict[str, Any] = yaml.safe_load(services.CONFIGURATION.read_text())
    for instance in content["vrrp"]["instances"].values():
        instance.update(changes)
        for key in [key for key, value in instance.items() if value is None]:
            del instance[key]
    return yaml.safe_dump(content)


V2 = configuration()
V3 = configuration(version=3, advert_int="100ms", authentication=None)


def pybalancer(node: Node, text: str) -> tuple[str, ...]:
    node.write("/etc/balancer.yaml", text)
    return services.balancer(node, "/etc/balancer.yaml")


def keepalived(node: Node, text: str) -> tuple[str, ...]:
    """The same virtual routers in keepalived's words."""
    vrrp = loads(text, node=node.name, environ={}).vrrp
    node.write("/etc/keepalived/keepalived.conf", "".join(_in_keepalived_words(vrrp)))
    return KEEPALIVED


def _in_keepalived_words(vrrp: Vrrp) -> Iterator[str]:
    for name, group in vrrp.sync_groups.items():
        yield f"vrrp_sync_group {name} {{\n  group {{\n    "
        yield "\n    ".join(group.group) + "\n  }\n}\n"
    for name, instance in vrrp.instances.items():
        yield "\n  ".join([f"vrrp_instance {name} {{", *_instance(instance)]) + "\n}\n"


def _instance(instance: VrrpInstance) -> Iterator[str]:
    yield f"interface {instance.interface}"
    yield f"state {instance.state}"
    yield f"version {instance.version or 2}"
    yield f"virtual_router_id {instance.virtual_router_id}"
    yield f"priority {instance.priority}"
    yield f"advert_int {instance.advert_int:g}"
    if instance.authentication is not None:
        yield f"authentication {{\n    auth_type PASS\n    auth_pass {instance.authentication.password}\n  }}"
    yield "virtual_ipaddress {\n    " + "\n    ".join(vip.address for vip in instance.virtual_ipaddress) + "\n  }"


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


# Among pybalancer


def test_a_planned_stop(pair: Cluster, record_property: Record) -> None:
    stopped = time.monotonic()
    with Visitor(pair.client) as visitor:
        pair.lab.until(lambda: visitor.visits, "service")
        pair.master.program("pybalancer").end(SIGTERM)
        pair.until(NOWHERE, ALL)
        before = visitor.visits
        pair.lab.until(lambda: visitor.visits > before + 10, "service")
    record_property("lost service", visitor.lost)
    assert visitor.lost < 1 + MARGIN
    assert pair.mac_of("192.168.1.200") == pair.standby.machine.cards[0].mac
    assert pair.holders.longest(2, since=stopped) == 0

    # Nobody notices that it comes back.
    with Visitor(pair.client) as visitor:
        services.start_balancer(pair.master)
        pair.until(ALL, NOWHERE)
        before = visitor.visits
        pair.lab.until(lambda: visitor.visits > before + 10, "service")
    record_property("lost service at failback", visitor.lost)
    assert visitor.lost < HANDOVER + MARGIN
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
    with Visitor(pair.client) as visitor:
        pair.lab.until(lambda: visitor.visits, "service")
        pair.master.program("pybalancer").end(SIGKILL)
        pair.until(NOWHERE, NOWHERE)
        pair.until(NOWHERE, ALL)
        before = visitor.visits
        pair.lab.until(lambda: visitor.visits > before + 10, "service")
    record_property("lease", pair.holders.when(pair.master, takes=False, since=killed)[-1])
    record_property("lost service", visitor.lost)
    assert visitor.lost < DOWN + MARGIN
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
    with Visitor(cluster.client) as visitor:
        cluster.lab.until(lambda: visitor.visits, "service")
        cluster.master.power_off()
        cluster.until(NOWHERE, ALL)
        before = visitor.visits
        cluster.lab.until(lambda: visitor.visits > before + 10, "service")
    assert visitor.lost < most
    assert cluster.mac_of("192.168.1.200") == cluster.standby.machine.cards[0].mac
    assert cluster.holders.longest(2, since=failed) == 0
    return visitor.lost
