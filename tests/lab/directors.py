"""The two directors of the cluster, who watches them, and what they can be told.

Cluster     both and a client; what runs on them may be keepalived
Holders     who holds which virtual address
Visits      a client, and how long it was without service
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from signal import SIGHUP, SIGINT, SIGTERM, Signals
from typing import Any

import yaml

from balancer.config.read import loads
from balancer.config.vrrp import Vrrp, VrrpInstance
from balancer.wire import vrrp as wire
from tests.lab import services
from tests.lab.lab import Lab, Node
from tests.lab.space import LabError
from tests.lab.topology import VIPS

ALL = set(VIPS)
NOWHERE: set[str] = set()
DIRECTORS = ("master", "standby")
KEEPALIVED = ("keepalived", "--vrrp", "--dont-fork", "--log-console", "--log-detail", "--no-syslog")
SERVICE = ("192.168.1.200", 80)
# Between one director's first word as master and the other's last address gone.
HANDOVER = 0.5

Record = Callable[[str, object], None]


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


class Visits:
    """Somebody at the client who every 10 ms connects, asks, and is served by the first octet of an answer."""

    _EVERY = 0.01
    # The kernel sends the first packet again after a second: by then others have been sent.
    _PATIENCE = 0.9
    # Answered by the server itself, without a page.
    _QUESTION = b"OPTIONS * HTTP/1.0\r\n\r\n"

    def __init__(self, client: Node) -> None:
        self._client = client
        self.failed = 0
        """Visits that ended without an answer."""
        self._served: list[float] = []
        self._over = False
        self._thread = threading.Thread(target=self._visit)

    def __enter__(self) -> Visits:
        self._thread.start()
        try:
            self.more(20)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join()

    def more(self, count: int) -> None:
        """Wait until so many more were served. LabError after 30 s."""
        wanted, end = len(self._served) + count, time.monotonic() + 30
        while len(self._served) < wanted:
            if time.monotonic() > end:
                raise LabError("the client is not served")
            time.sleep(0.01)

    @property
    def lost(self) -> float:
        """The longest time without service (seconds)."""
        return max(after - before for before, after in pairwise([*self._served]))

    def _visit(self) -> None:
        with self._client.network(), selectors.EpollSelector() as waiting:
            due = time.monotonic()
            while not self._over:
                if time.monotonic() >= due:
                    due += self._EVERY
                    visit = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                    # Nothing keeps the place of one that is over.
                    visit.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    visit.connect_ex(SERVICE)
                    waiting.register(visit, selectors.EVENT_WRITE, time.monotonic())
                for key, _ in waiting.select(max(0.0, due - time.monotonic())):
                    self._go_on(waiting, key)
                now = time.monotonic()
                for key in [each for each in waiting.get_map().values() if now - each.data > self._PATIENCE]:
                    self.failed += 1
                    _end(waiting, key)
            for key in list(waiting.get_map().values()):
                _end(waiting, key)

    def _go_on(self, waiting: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        visit: socket.socket = key.fileobj  # type: ignore[assignment]
        try:
            if key.events == selectors.EVENT_WRITE:
                visit.sendall(self._QUESTION)
                waiting.modify(visit, selectors.EVENT_READ, key.data)
                return
            if visit.recv(4096):
                self._served.append(time.monotonic())
            else:
                self.failed += 1
        except OSError:
            self.failed += 1
        _end(waiting, key)


def _end(waiting: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    waiting.unregister(key.fileobj)
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

    def reloads(self, node: Node, text: str, *, said: str = "reloaded: ") -> None:
        """Its pybalancer has another configuration, or says otherwise."""
        node.write("/etc/balancer.yaml", text)
        self.signals(node, SIGHUP, said)

    def signals(self, node: Node, number: Signals, said: str) -> None:
        """Its pybalancer is told something, and says so."""
        known = self.log(node).count(said)
        node.program("pybalancer").send(number)
        self.lab.until(lambda: self.log(node).count(said) > known, f"{node.name} says {said}")

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


def configuration(**changes: object) -> str:
    """The shipped one with other virtual routers; None takes a key away."""
    content: dict[str, Any] = yaml.safe_load(services.CONFIGURATION.read_text())
    for instance in content["vrrp"]["instances"].values():
        instance.update(changes)
        for key in [key for key, value in instance.items() if value is None]:
            del instance[key]
    return yaml.safe_dump(content)


def changed(text: str, *, address: str = "", **changes: object) -> str:
    """A configuration with other keys of its virtual routers, and an address more on the outside; on the master,
    for the standby says its own priority."""
    content: dict[str, Any] = yaml.safe_load(text)
    for instance in content["vrrp"]["instances"].values():
        instance.update(changes)
    if address:
        content["vrrp"]["instances"]["VI_E"]["virtual_ipaddress"].append(address)
    return yaml.safe_dump(content)


def silent(text: str) -> str:
    """Without virtual routers."""
    content: dict[str, Any] = yaml.safe_load(text)
    del content["vrrp"], content["nodes"]
    return yaml.safe_dump(content)


V2 = configuration()
V3 = configuration(version=3, advert_int="100ms", authentication=None)


def pybalancer(node: Node, text: str) -> tuple[str, ...]:
    node.write("/etc/balancer.yaml", text)
    return services.balancer(node, "/etc/balancer.yaml")


def keepalived(node: Node, text: str, *, defs: str = "") -> tuple[str, ...]:
    """The same virtual routers in keepalived's words, and words of its own for all of them."""
    vrrp = loads(text, node=node.name, environ={}).vrrp
    head = f"global_defs {{\n  {defs}\n}}\n" if defs else ""
    node.write("/etc/keepalived/keepalived.conf", head + "".join(_in_keepalived_words(vrrp)))
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


@contextlib.contextmanager
def everything_busy(lab: Lab, seconds: float) -> Iterator[None]:
    """So long all cores have more to do than they can, and the workers serve as much as they can."""
    limit = str(int(seconds) + 5)
    master, client = lab["master"], lab["client"]
    programs = [
        master.start("timeout", limit, "sh", "-c", "while :; do :; done", log="busy.log")
        for _ in range(2 * (os.cpu_count() or 1))
    ]
    url = "http://192.168.1.200:8000/"
    programs.append(client.start("wrk", "-t1", "-c64", f"-d{limit}s", "--timeout", "5s", url, log="wrk.log"))
    try:
        yield
    finally:
        for program in programs:
            # wrk tells what it did.
            program.end(SIGINT if program.name == "wrk" else SIGTERM)
