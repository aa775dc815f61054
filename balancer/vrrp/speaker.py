"""Virtual routers on their interfaces: what the state machines decide, done, and what they must know, told to them.

    Speaker ─── _Router, one each ─── machine.step
       ├─ Link per interface and family      packets
       └─ Addresses                          rtnetlink

An address is held by a lease: put with a lifetime of a few seconds, put again each second. Whatever becomes of us, the
kernel takes it away before the other director takes over.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable, Set
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
)

from balancer.config import effective
from balancer.config.vrrp import Vrrp, VrrpInstance
from balancer.errors import BadAdvertisement, StartError
from balancer.vrrp import machine
from balancer.vrrp.address import Addresses, Card
from balancer.vrrp.link import Link, Packet
from balancer.vrrp.machine import Role
from balancer.wire import vrrp as wire

__all__ = ["Speaker"]

# Lifetime of an address (whole seconds, the kernel's unit; it looks once a second and may be that much late), and how
# often it is put again (seconds): with an advertisement, or by itself where these are rarer.
_LEASE = 2
_REFRESH = 1.0
# A burst of netlink messages is looked at once.
_SETTLE = 0.02
# RFC 2338: of a password so many octets are sent.
_PASSWORD = 8
_IPV6 = 6
# The same complaint of a router is logged once in so long (seconds).
_COMPLAIN_EVERY = 300.0


class Speaker:
    """All virtual routers of this host. `log` takes a line and whether it is a warning.

    Drive it: `turn` when its `fileno` is readable and when `due` has come. StartError where the kernel does not let us.
    """

    def __init__(self, vrrp: Vrrp, *, log: Callable[[str, bool], None]) -> None:
        self._log = log
        try:
            self._addresses = Addresses()
        except OSError as error:
            raise StartError(f"vrrp: no access to interfaces (CAP_NET_ADMIN): {error}") from error
        try:
            # So that later on only what is wrong with an interface can go wrong.
            socket.socket(socket.AF_INET, socket.SOCK_RAW, wire.PROTOCOL).close()
        except OSError as error:
            self._addresses.close()
            raise StartError(f"vrrp: no raw sockets (CAP_NET_RAW): {error}") from error
        self._selector = selectors.EpollSelector()
        self._selector.register(self._addresses, selectors.EVENT_READ, None)
        self._links: dict[tuple[str, int], Link] = {}
        self._groups = {
            member: machine.Group(name=group, members=own.group)
            for group, own in vrrp.sync_groups.items()
            for member in own.group
        }
        self._routers = {
            name: _Router(name, instance, is_grouped=name in self._groups) for name, instance in vrrp.instances.items()
        }
        # Also those of the other virtual routers on an interface are nothing to send from.
        self._virtual = frozenset(vip.ip for router in self._routers.values() for vip in router.vips)
        self._next_refresh = 0.0
        self._look_at = 0.0

    def start(self) -> None:
        """Begin to listen; the virtual routers are BACKUP until nobody better was heard."""
        now = time.monotonic()
        self._next_refresh = now + _REFRESH
        self._look(now)
        for router in self._routers.values():
            self._give(router, machine.Start(), now)

    def fileno(self) -> int:
        """Readable when there is something for `turn` to do."""
        return self._selector.fileno()

    @property
    def due(self) -> float:
        """When `turn` is to be called at the latest (monotonic seconds)."""
        times = [self._next_refresh]
        if self._look_at:
            times.append(self._look_at)
        for router in self._routers.values():
            if router.state.deadline is not None:
                times.append(router.state.deadline)
            if router.announce_at:
                times.append(router.announce_at)
        return min(times)

    def turn(self) -> None:
        """Take what has come, and do what is due."""
        for key, _ in self._selector.select(0):
            if key.data is None:
                self._addresses.drain()
                self._look_at = self._look_at or time.monotonic() + _SETTLE
            else:
                self._hear(key.data)
        now = time.monotonic()
        if self._look_at and now >= self._look_at:
            self._look_at = 0.0
            self._look(now)
        for router in self._routers.values():
            deadline = router.state.deadline
            if deadline is not None and now >= deadline:
                self._give(router, machine.Timer(), now)
            if router.announce_at and now >= router.announce_at:
                self._announce_again(router, now)
        if now >= self._next_refresh:
            self._next_refresh = now + _REFRESH
            self._look(now)
            for router in self._routers.values():
                if router.state.role is Role.MASTER and router.rules.interval > _REFRESH:
                    self._put(router)

    def stop(self) -> None:
        """Give everything up: the other director hears of it at once."""
        now = time.monotonic()
        for router in self._routers.values():
            self._give(router, machine.Stop(), now)

    def forget(self) -> None:
        """In a child: close what it inherited, of which it must not make use."""
        self._selector.close()
        self._addresses.forget()
        for link in self._links.values():
            link.close()

    def close(self) -> None:
        """Close all sockets. Addresses stay until their lease is over, unless `stop` was called."""
        self._selector.close()
        self._addresses.close()
        for link in self._links.values():
            link.close()
        self._links.clear()

    # What the kernel says

    def _look(self, now: float) -> None:
        """Compare each interface with what it should be."""
        cards: dict[str, Card | OSError | None] = {}
        for router in self._routers.values():
            name = router.interface
            if name not in cards:
                cards[name] = self._ask(name)
            card = cards[name]
            if isinstance(card, OSError):
                # As it was; we ask again in a second.
                self._complain(router, f"look {card.errno}", f"{name}: {card.strerror}")
            else:
                self._inspect(router, card, now)

    def _ask(self, name: str) -> Card | OSError | None:
        try:
            return self._addresses.card(name)
        except OSError as error:
            return error

    def _inspect(self, router: _Router, card: Card | None, now: float) -> None:
        router.index = card.index if card is not None else 0
        wrong, source = router.inspect(card, self._virtual)
        before = router.link
        if card is not None and source is not None:
            try:
                router.link = self._link(router.interface, card, source)
            except OSError as error:
                wrong = f"cannot listen on {router.interface}: {error.strerror}"
        if wrong:
            if not router.fault:
                router.fault = wrong
                self._give(router, machine.Fault(wrong), now)
            return
        assert card is not None and router.link is not None
        if router.fault:
            router.fault = ""
            self._give(router, machine.Recovered(), now)
        if router.state.role is Role.MASTER:
            there = {address.ip for address in card.addresses}
            gone = [vip for vip in router.vips if vip.ip not in there]
            ours = now - router.put_at > _LEASE
            for vip in gone:
                why = "was lost while we were held up" if ours else f"was taken off {router.interface} by somebody"
                self._log(f"({router.name}) {vip.ip} {why}, put back", True)
            if gone:
                self._put(router)
            if gone or (before is not None and before.mac != router.link.mac):
                self._announce(router)

    def _link(self, name: str, card: Card, source: IPv4Address | IPv6Address) -> Link:
        """The sockets on an interface, made anew when it has become another one. OSError when that fails."""
        key = name, source.version
        link = self._links.get(key)
        if link is not None and (link.index, link.mac, link.source) == (card.index, card.mac, source):
            return link
        if link is not None:
            del self._links[key]
            self._selector.unregister(link)
            link.close()
        link = self._links[key] = Link(name, card.index, card.mac, source)
        self._selector.register(link, selectors.EVENT_READ, link)
        return link

    # What the others say

    def _hear(self, link: Link) -> None:
        for packet in link.receive(lambda error: self._refuse(link, error)):
            try:
                vrid = wire.vrid_of(packet.message)
            except BadAdvertisement as error:
                self._refuse(link, error)
                continue
            for router in self._routers.values():
                if router.link is link and router.rules.vrid == vrid:
                    self._hear_of(router, packet)

    def _hear_of(self, router: _Router, packet: Packet) -> None:
        try:
            heard = wire.parse(
                packet.message,
                version=router.rules.version,
                source=packet.source,
                destination=packet.destination,
                hop_limit=packet.hop_limit,
                password=router.password,
            )
        except BadAdvertisement as error:
            router.counted[error.cause] += 1
            self._complain(router, error.cause, f"advertisement not believed: {error.why}")
            return
        if not router.is_neighbour(packet.source):
            # keepalived believes anyone; but who is not of this network cannot be one of its routers.
            router.counted["source_err"] += 1
            source = ip_address(packet.source)
            self._complain(router, "source", f"advertisement not believed: {source} is of no network here")
            return
        router.counted["advert_rcvd"] += 1
        if set(heard.addresses) != {vip.ip.packed for vip in router.vips}:
            router.counted["addr_list_err"] += 1
            self._complain(router, "addresses", "the master advertises other addresses than ours")
        assert router.link is not None
        event = machine.Heard(
            priority=heard.priority, interval=heard.interval, source=packet.source, own=router.link.source.packed
        )
        self._give(router, event, time.monotonic())

    def _refuse(self, link: Link, error: BadAdvertisement) -> None:
        """Something came of which nobody knows what router it is for: it counts for all on the link."""
        for router in self._routers.values():
            if router.link is link:
                router.counted[error.cause] += 1

    def _complain(self, router: _Router, kind: str, text: str) -> None:
        """Warn, but not of the same kind all the time: who sends us packets must not choose how many lines we log."""
        now = time.monotonic()
        if now - router.complaints.get(kind, -_COMPLAIN_EVERY) >= _COMPLAIN_EVERY:
            router.complaints[kind] = now
            self._log(f"({router.name}) {text}", True)

    # What the machines decide

    def _give(self, router: _Router, event: machine.Event, now: float) -> None:
        router.state, actions = machine.step(router.rules, router.state, event, now)
        for action in actions:
            self._do(router, action, now)

    def _do(self, router: _Router, action: machine.Action, now: float) -> None:
        match action:
            case machine.Send(priority=priority):
                # Before it: the lease must be over when the others have waited for the next one long enough.
                if priority and router.put_at and now - router.put_at >= _REFRESH / 2:
                    self._put(router)
                self._send(router, priority)
            case machine.Take():
                self._put(router)
            case machine.Leave():
                router.announce_at = router.put_at = 0.0
                self._leave(router)
            case machine.Announce(delayed=delayed):
                self._announce(router)
                router.announce_at = now + (router.announce_delay if delayed else router.announce_refresh)
                router.announce_all = delayed
            case machine.Complain(text=text):
                # The machine says it once.
                self._log(f"({router.name}) {text}", True)
            case machine.Changed(new=new, why=why):
                self._log(f"({router.name}) Entering {new} STATE: {why}", False)
                self._tell_group(router, action, now)
            case machine.Wants():
                self._tell_group(router, action, now)

    def _tell_group(self, router: _Router, said: machine.Changed | machine.Wants, now: float) -> None:
        group = self._groups.get(router.name)
        if group is not None:
            states = {name: other.state for name, other in self._routers.items()}
            for name, event in machine.follow(group, router.name, said, states):
                self._give(self._routers[name], event, now)

    def _send(self, router: _Router, priority: int) -> None:
        link = router.link
        if link is None:
            return
        rules = router.rules
        advertisement = wire.Advertisement(
            version=rules.version,
            vrid=rules.vrid,
            priority=priority,
            interval=rules.interval,
            addresses=tuple(vip.ip.packed for vip in router.vips),
            password=router.password,
        )
        try:
            link.send(wire.build(advertisement, source=link.source.packed, destination=link.group))
        except OSError as error:
            # A cut cable is a fault that the kernel tells us of.
            self._complain(router, f"send {error.errno}", f"cannot send on {link.name}: {error.strerror}")
        else:
            router.counted["advert_sent"] += 1

    def _put(self, router: _Router) -> None:
        """Put the addresses, or put them again before their lease is over."""
        link = router.link
        if link is None:
            return
        router.put_at = time.monotonic()
        for vip in router.vips:
            try:
                self._addresses.put(link.index, vip, lifetime=_LEASE)
            except OSError as error:
                self._complain(
                    router, f"address {vip} {error.errno}", f"cannot put {vip} on {link.name}: {error.strerror}"
                )

    def _leave(self, router: _Router) -> None:
        """Take the addresses away, even while the interface is down: a predecessor may have left them."""
        if not router.index:
            return
        card = self._ask(router.interface)
        ours = {vip.ip for vip in router.vips}
        # They may have been left with another prefix length.
        left = {one for one in card.addresses if one.ip in ours} if isinstance(card, Card) else set()
        for vip in left.union(router.vips):
            try:
                self._addresses.take(router.index, vip)
            except OSError as error:
                self._complain(
                    router,
                    f"address {vip} {error.errno}",
                    f"cannot take {vip} off {router.interface}: {error.strerror}",
                )

    def _announce(self, router: _Router) -> None:
        self._announce_times(router, router.announce_repeat)

    def _announce_again(self, router: _Router, now: float) -> None:
        """The second set of a new master, then one of each so often."""
        self._announce_times(router, router.announce_repeat if router.announce_all else 1)
        router.announce_all = False
        router.announce_at = now + router.announce_refresh

    def _announce_times(self, router: _Router, times: int) -> None:
        link = router.link
        if link is None:
            return
        try:
            for vip in router.vips:
                for _ in range(times):
                    link.announce(vip.ip)
        except OSError as error:
            self._complain(router, f"announce {error.errno}", f"cannot announce on {link.name}: {error.strerror}")


class _Router:
    """One virtual router: its rules, where it stands, and what was counted."""

    def __init__(self, name: str, instance: VrrpInstance, *, is_grouped: bool) -> None:
        self.name = name
        self.interface = instance.interface
        self.rules = machine.Router(
            name=name,
            version=effective.vrrp_version(instance),
            vrid=instance.virtual_router_id,
            priority=instance.priority,
            interval=instance.advert_int,
            preempt=instance.preempt,
            preempt_delay=instance.preempt_delay or 0.0,
            # By its last word the other one learns that there were two, and announces the addresses again.
            higher_prio_send_advert=True,
            is_grouped=is_grouped,
        )
        self.state = machine.initial(self.rules, 0.0)
        self.vips: tuple[IPv4Interface | IPv6Interface, ...] = tuple(
            ip_interface(vip.address) for vip in instance.virtual_ipaddress
        )
        own = instance.authentication
        has_password = own is not None and own.type == "pass" and own.password
        self.password = own.password.encode()[:_PASSWORD] if has_password else None  # type: ignore[union-attr]
        self.announce_repeat = instance.garp_master_repeat
        self.announce_delay = instance.garp_master_delay
        self.announce_refresh = instance.garp_master_refresh
        self.announce_at = 0.0
        """When the addresses are to be announced again; 0 while it is not master."""
        self.announce_all = False
        self.put_at = 0.0
        """When the addresses were last put; 0 while it is not master."""
        self.index = 0
        """Of its interface; 0 while there is none."""
        self.link: Link | None = None
        self._networks: tuple[IPv4Network | IPv6Network, ...] = ()
        self.fault = ""
        """What is wrong with its interface."""
        self.counted: Counter[str] = Counter()
        """keepalived's names."""
        self.complaints: dict[str, float] = {}

    def inspect(
        self, card: Card | None, virtual: Set[IPv4Address | IPv6Address]
    ) -> tuple[str, IPv4Address | IPv6Address | None]:
        """Why it cannot work on its interface as it is, or the address to send from: none of the `virtual` ones."""
        if card is None:
            return f"there is no interface {self.interface}", None
        if not card.is_up:
            return f"{self.interface} is down", None
        version = self.vips[0].version
        own = [one for one in card.addresses if one.version == version and one.ip not in virtual]
        if version == _IPV6:
            # RFC 9568 section 5.1.2.1
            own = [one for one in own if one.is_link_local]
        if not own:
            kind = "link-local IPv6" if version == _IPV6 else "IPv4"
            return f"{self.interface} has no {kind} address of its own", None
        self._networks = tuple(one.network for one in own)
        return "", own[0].ip

    def is_neighbour(self, source: bytes) -> bool:
        """Whether a packed address is of a network that its interface is in."""
        address = ip_address(source)
        return any(address in network for network in self._networks)
