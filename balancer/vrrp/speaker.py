"""Virtual routers on their interfaces: what the state machines decide, done, and what they must know, told to them.

    Speaker ─── VirtualRouter, one each ─── machine.step
       ├─ Link per interface and source      packets
       ├─ Addresses                          rtnetlink
       ├─ Scripts, Files ─── track.terms     what counts for the priority
       ├─ Peers                              the heartbeat
       └─ Notifier                           who wants to know

An address is held by a lease: put with a lifetime of a few seconds, put again each second. Whatever becomes of us, the
kernel takes it away before the other director takes over.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal

from balancer.config.vrrp import Vrrp
from balancer.errors import BadAdvertisement, NoSuchRouterError, StartError
from balancer.pool.routers import ScriptFacts, Standing
from balancer.vrrp import machine, track
from balancer.vrrp.address import Addresses, Card, Change, Vip
from balancer.vrrp.link import Link, Packet
from balancer.vrrp.machine import Role
from balancer.vrrp.notify import Notifier
from balancer.vrrp.peers import Peers
from balancer.vrrp.router import VirtualRouter
from balancer.vrrp.script import Files, Scripts
from balancer.vrrp.track import Service
from balancer.wire import vrrp as wire

__all__ = ["Speaker"]

# Lifetime of an address (whole seconds, the kernel's unit; it looks once a second and may be that much late), and how
# often it is put again (seconds): with an advertisement, or by itself where these are rarer.
_LEASE = 2
_REFRESH = 1.0
# A burst of netlink messages is looked at once.
_SETTLE = 0.02
# The same trouble of a router is told of once in so long.
_SELDOM = 300.0
_SECOND = 1.0
_IPV6 = 6
# An address that was missing for so long, however often it was put back, is left to another director (seconds).
_HOPELESS = 4.0
_State = Literal["BACKUP", "MASTER", "FAULT", "STOP"]
_News = tuple[Literal["INSTANCE", "GROUP"], str, _State, int]
_NOTIFIED: dict[Role, _State] = {
    Role.BACKUP: "BACKUP",
    Role.MASTER: "MASTER",
    Role.FAULT: "FAULT",
    Role.STOPPED: "STOP",
}
# Counters of what the machine drops.
_DOUBTFUL = {"own address": "source_err", "interval": "advert_interval_err"}
_HELPLESS = (str(Role.FAULT), str(Role.STOPPED))


class Speaker:
    """All virtual routers of this host. `log` takes a line and whether it is a warning.

    Drive it: `turn` when its `fileno` is readable and when `due` has come; `ended` for each child process of the
    caller's that it may have had `spawn` start. StartError where the kernel does not let us.
    """

    def __init__(
        self,
        vrrp: Vrrp,
        *,
        node: str,
        log: Callable[[str, bool], None],
        spawn: Callable[[Sequence[str]], int],
        service: Callable[[], Service],
    ) -> None:
        self._log = log
        self._ask_service = service
        self._selector = selectors.EpollSelector()
        self._locks: list[socket.socket] = []
        self._peers: Peers | None = None
        self._addresses = _addresses()
        self._selector.register(self._addresses, selectors.EVENT_READ, self._on_change)
        self._links: dict[tuple[str, IPv4Address | IPv6Address], Link] = {}
        groups = {
            member: machine.Group(name=name, members=own.group)
            for name, own in vrrp.sync_groups.items()
            for member in own.group
        }
        self._routers = {name: VirtualRouter(name, vrrp, group=groups.get(name)) for name in vrrp.instances}
        self._group_roles: dict[str, Role] = {}
        # Also those of the other virtual routers on an interface are nothing to send from.
        self._virtual = frozenset(vip.ip for router in self._routers.values() for vip in router.vips)
        trackers = [router.trackers for router in self._routers.values()]
        tracked = {name for each in trackers for name in each.scripts}
        scripts = {name: script for name, script in vrrp.scripts.items() if name in tracked}
        self._scripts = Scripts(scripts, spawn=spawn, log=log)
        self._files = Files({name: file for name, file in vrrp.files.items() if any(name in t.files for t in trackers)})
        self._tracked_interfaces = {name for each in trackers for name in each.interfaces}
        self._tracked_backends = {name for each in trackers for name in each.backends}
        self._names = {router.interface for router in self._routers.values()} | self._tracked_interfaces
        self._indexes: set[int] = set()
        self._up: dict[str, bool] = dict.fromkeys(self._tracked_interfaces, False)
        self._service = Service(True, {})
        self._notifier = Notifier(vrrp, spawn=spawn, log=log)
        for router in self._routers.values():
            self._locks.append(self._lock(router))
        self._peers = self._open_heartbeat(vrrp, node)
        self._has_changed = False
        self._news: list[_News] = []
        self._next_refresh = 0.0
        self._look_at = 0.0
        self.has_news = True
        """Whether something has changed since `standing` was asked."""

    def _lock(self, router: VirtualRouter) -> socket.socket:
        """A second copy on one host would not hear the first: both would be master. StartError where there is one.

        The name of a socket, which goes with the process that has it, and is known in one network namespace alone.
        """
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        name = f"pybalancer/vrrp/{router.interface}/{router.rules.vrid}/{router.vips[0].ip.version}"
        try:
            lock.bind(b"\0" + name.encode())
        except OSError as error:
            lock.close()
            self.close()
            if error.errno != errno.EADDRINUSE:
                raise StartError(f"vrrp.instances.{router.name}: {error}") from error
            raise StartError(
                f"vrrp.instances.{router.name}: another pybalancer on this host is virtual router {router.rules.vrid} "
                f"on {router.interface} already"
            ) from None
        return lock

    def _open_heartbeat(self, vrrp: Vrrp, node: str) -> Peers | None:
        heartbeat = vrrp.heartbeat
        if heartbeat is None or not vrrp.instances:
            return None
        interval = heartbeat.interval or min(instance.advert_int for instance in vrrp.instances.values())
        try:
            peers = Peers(heartbeat, node=node, interval=interval, log=self._log)
        except OSError as error:
            self.close()
            raise StartError(f"vrrp.heartbeat.bind: {heartbeat.bind}: {error.strerror}") from error
        self._selector.register(peers, selectors.EVENT_READ, self._hear_peers)
        return peers

    def start(self) -> None:
        """Begin to listen; the virtual routers are BACKUP until nobody better was heard."""
        now = time.monotonic()
        self._next_refresh = now + _REFRESH
        self._look(now)
        self._refuse_own_addresses()
        self._files.read()
        self._service = self._ask_service()
        self._judge(now)
        for router in self._routers.values():
            self._give(router, machine.Start(), now)
        self._tell_others(now)

    def fileno(self) -> int:
        """Readable when there is something for `turn` to do."""
        return self._selector.fileno()

    @property
    def due(self) -> float:
        """When `turn` is to be called at the latest (monotonic seconds)."""
        times = [self._next_refresh, self._scripts.due, self._notifier.due]
        if self._look_at:
            times.append(self._look_at)
        if self._peers is not None:
            times.append(self._peers.due)
        for router in self._routers.values():
            if router.state.deadline is not None:
                times.append(router.state.deadline)
            if router.announce_at:
                times.append(router.announce_at)
        return min(times)

    def turn(self) -> None:
        """Take what has come, and do what is due."""
        for key, _ in self._selector.select(0):
            key.data()
        now = time.monotonic()
        if self._look_at and now >= self._look_at:
            self._look_at = 0.0
            self._look(now)
            self._judge(now)
        for router in self._routers.values():
            deadline = router.state.deadline
            if deadline is not None and now >= deadline:
                self._give(router, machine.Timer(), now)
            if router.announce_at and now >= router.announce_at:
                self._announce_again(router, now)
        if now >= self._next_refresh:
            self._refresh(now)
        if now >= self._scripts.due:
            self._scripts.turn(now)
            self._judge(now)
        if now >= self._notifier.due:
            self._notifier.turn(now)
        self._tell_others(now)

    def _refresh(self, now: float) -> None:
        self._next_refresh = now + _REFRESH
        self._look(now)
        self._files.read()
        self._service = self._ask_service()
        self._judge(now)
        for router in self._routers.values():
            if router.state.role is Role.MASTER and router.rules.interval > _REFRESH:
                self._put(router)

    @property
    def is_notifying(self) -> bool:
        """Whether a program runs that was told of a change."""
        return self._notifier.is_busy

    def ended(self, pid: int, status: int) -> bool:
        """A child process has ended, `status` as waitpid(2) gives it: whether it was ours."""
        now = time.monotonic()
        if not self._scripts.ended(pid, status, now):
            return self._notifier.ended(pid, status, now)
        self._judge(now)
        self._tell_others(now)
        return True

    def stop(self) -> None:
        """Give everything up: the other director hears of it at once."""
        now = time.monotonic()
        self._scripts.stop()
        for router in self._routers.values():
            self._give(router, machine.Stop(), now)
        self._tell_others(now)

    def forget(self) -> None:
        """In a child: close what it inherited, of which it must not make use."""
        self._addresses.forget()
        self._close_sockets()

    def close(self) -> None:
        """Close all sockets. Addresses stay until their lease is over, unless `stop` was called."""
        self._scripts.stop()
        self._addresses.close()
        self._close_sockets()

    def _close_sockets(self) -> None:
        self._selector.close()
        self._notifier.close()
        if self._peers is not None:
            self._peers.close()
        for lock in self._locks:
            lock.close()
        for link in self._links.values():
            link.close()
        self._links.clear()

    # What the operator wants

    def standing(self) -> Standing:
        """All that is true now."""
        self.has_news = False
        now, unix = time.monotonic(), time.time()
        return Standing(
            at=unix,
            routers=tuple(router.facts(now) for router in self._routers.values()),
            scripts=tuple(
                ScriptFacts(name=name, is_good=is_good, text=text)
                for name, (is_good, text) in self._scripts.outcomes.items()
            ),
            peers=self._peers.facts(now, unix) if self._peers is not None else (),
        )

    def release(self, name: str | None, seconds: float) -> list[str]:
        """Leave the addresses to another director for so long, unless there is none; what that means, a line each.

        `name` is that of an instance or a sync group, and None means all; NoSuchRouterError where there is no such.
        """
        now = time.monotonic()
        routers = self._named(name)
        held = {router.name for router in routers if router.state.role is Role.MASTER}
        for router in routers:
            self._give(router, machine.Release(seconds), now)
        self._tell_others(now)
        lines = []
        for router in routers:
            did = "its addresses are left" if router.name in held else "it holds no address, and takes none"
            lines.append(f"{router.name}: {did} for {seconds:g} s, unless no other director is master")
        return lines

    def hold(self, name: str | None) -> list[str]:
        """Take the addresses from a lower master, and end a release; otherwise as `release`."""
        now = time.monotonic()
        routers = self._named(name)
        refused = {}
        for router in routers:
            for action in self._give(router, machine.Hold(), now):
                if isinstance(action, machine.Complain):
                    refused[router.name] = f", for {action.text}"
        self._tell_others(now)
        return [f"{router.name}: {router.state.role}{refused.get(router.name, '')}" for router in routers]

    def _named(self, name: str | None) -> list[VirtualRouter]:
        routers = list(self._routers.values())
        if name is None:
            return routers
        found = [each for each in routers if each.name == name or (each.group and each.group.name == name)]
        if not found:
            known = dict.fromkeys([*self._routers, *(router.group.name for router in routers if router.group)])
            raise NoSuchRouterError(f"there is no instance or sync group {name}; there are {', '.join(known)}")
        members = {member for router in found if router.group for member in router.group.members}
        return [router for router in routers if router in found or router.name in members]

    def _refuse_own_addresses(self) -> None:
        """Or else the host would lose its only address as soon as it is not master. StartError."""
        for router in self._routers.values():
            card = self._ask(router.interface)
            if not isinstance(card, Card):
                continue
            version = router.vips[0].ip.version
            own = [one for one in card.addresses if one.version == version and not one.is_link_local]
            if own and all(router.holds(one.ip) and one.ip in card.permanent for one in own):
                raise StartError(
                    f"vrrp.instances.{router.name}.virtual_ipaddress: {own[0].ip} is the only address of "
                    f"{router.interface}: a virtual address moves, so give the interface another one of its own"
                )

    # What the kernel says

    def _on_change(self) -> None:
        if any(self._concerns_us(change) for change in self._addresses.changes()):
            self._look_at = self._look_at or time.monotonic() + _SETTLE

    def _concerns_us(self, change: Change) -> bool:
        """A host may have thousands of interfaces and addresses that change; our own leases do each second."""
        if not change.index or change.name in self._names:
            return True
        return change.index in self._indexes and change.put not in self._virtual

    def _look(self, now: float) -> None:
        """Compare each interface with what it should be."""
        self.has_news = True
        cards = {name: self._ask(name) for name in self._names}
        self._indexes = {card.index for card in cards.values() if isinstance(card, Card)}
        for name in self._tracked_interfaces:
            card = cards[name]
            if not isinstance(card, OSError):
                self._up[name] = card is not None and card.is_up
        for router in self._routers.values():
            card = cards[router.interface]
            if isinstance(card, OSError):
                # As it was; we ask again in a second.
                self._complain(router, f"look {card.errno}", f"{router.interface}: {card.strerror}")
            else:
                self._inspect(router, card, now)
        self._close_unused_links()

    def _ask(self, name: str) -> Card | OSError | None:
        try:
            return self._addresses.card(name)
        except OSError as error:
            return error

    def _inspect(self, router: VirtualRouter, card: Card | None, now: float) -> None:
        router.index = card.index if card is not None else 0
        router.wrong, source = router.inspect(card, self._virtual)
        before = router.link
        if card is not None and source is not None:
            try:
                router.link = self._link(router.interface, card, source)
            except OSError as error:
                router.wrong = f"cannot listen on {router.interface}: {error.strerror}"
        if router.wrong:
            return
        assert card is not None and router.link is not None
        if router.state.role is Role.MASTER:
            is_another = before is not None and before.mac != router.link.mac
            if self._put_back(router, card, now) or is_another:
                self._announce(router)
        elif router.state.role is not Role.INIT:
            self._take_strays(router, card)

    def _put_back(self, router: VirtualRouter, card: Card, now: float) -> bool:
        """What a master should hold and does not: whether there was any."""
        held = set(card.addresses)
        self._take(router, [Vip(one) for one in held if router.holds(one.ip) and one not in router.interfaces])
        gone = [vip for vip in router.vips if vip.address not in held]
        router.missing_since = (router.missing_since or now) if gone else 0.0
        if gone and now - router.missing_since > _HOPELESS:
            router.missing_since = 0.0
            self._give(router, machine.Lost(f"{gone[0].ip} cannot be kept on {router.interface}"), now)
            return False
        if gone:
            ours = now - router.put_at > _LEASE
            why = "lost while we were held up" if ours else f"taken off {router.interface} by somebody"
            router.counted["address_lost"] += len(gone)
            self._complain(router, "lost", f"{', '.join(str(vip.ip) for vip in gone)} {why}, put back", every=_SECOND)
            # One whose duplicate address detection failed is there, and cannot be used until it is put anew.
            self._take(router, [vip for vip in gone if vip.ip.version == _IPV6])
            self._put(router)
        return bool(gone)

    def _take_strays(self, router: VirtualRouter, card: Card) -> None:
        """Of one who is not master the addresses are on another host, or will be."""
        strays = [Vip(one) for one in card.addresses if router.holds(one.ip)]
        for vip in strays:
            text = f"{vip.ip} was put on {router.interface} by somebody, taken off: this host is {router.state.role}"
            self._complain(router, f"stray {vip.ip}", text)
        self._take(router, strays)

    def _link(self, name: str, card: Card, source: IPv4Address | IPv6Address) -> Link:
        """The sockets on an interface, made anew when it has become another one. OSError when that fails."""
        link = self._links.get((name, source))
        if link is not None and (link.index, link.mac) == (card.index, card.mac):
            return link
        if link is not None:
            self._close_link(name, source)
        link = self._links[name, source] = Link(name, card.index, card.mac, source)
        self._selector.register(link, selectors.EVENT_READ, lambda: self._hear(link))
        return link

    def _close_unused_links(self) -> None:
        used = {router.link for router in self._routers.values()}
        for (name, source), link in list(self._links.items()):
            if link not in used:
                self._close_link(name, source)

    def _close_link(self, name: str, source: IPv4Address | IPv6Address) -> None:
        link = self._links.pop((name, source))
        self._selector.unregister(link)
        link.close()

    # What counts for the priority

    def _judge(self, now: float) -> None:
        """Give each virtual router the priority that it has by what it tracks, or the fault."""
        view = track.View(
            interfaces=self._up,
            scripts=self._scripts.outcomes,
            numbers=self._files.numbers,
            service=self._service._replace(
                servers={name: self._service.servers.get(name, (0, 0)) for name in self._tracked_backends}
            ),
            peers=self._said(),
        )
        for router in self._routers.values():
            router.terms = track.terms(router.rules.priority, router.trackers, view)
            wrong = router.wrong or track.fault(router.terms)
            if wrong != router.fault:
                router.fault = wrong
                self._give(router, machine.Fault(wrong) if wrong else machine.Recovered(), now)
            priority = sum(term.amount for term in router.terms)
            before = router.state.priority
            if priority != before:
                self._give(router, machine.Weigh(priority), now)
                self._log(
                    f"({router.name}) Changing effective priority from {before} to {router.state.priority}", False
                )
                self._has_changed = True

    def _said(self) -> list[track.Said]:
        if self._peers is None:
            return []
        beats = [(peer.address.host, peer.beat) for peer in self._peers.peers]
        return [track.Said(who, beat.is_serving, beat.servers) for who, beat in beats if beat is not None]

    # What the others say

    def _hear_peers(self) -> None:
        assert self._peers is not None
        now = time.monotonic()
        self._peers.receive(now)
        self.has_news = True
        alive = self._peers.alive(now)
        is_complete = len(alive) == len(self._peers.peers)
        for router in self._routers.values():
            said = [(peer.until, peer.beat.routers.get(router.name)) for peer in alive if peer.beat is not None]
            masters = [until for until, state in said if state is not None and state[0] == Role.MASTER]
            if masters:
                self._give(router, machine.Vouched(max(masters)), now)
            elif is_complete and all(state is not None and state[0] in _HELPLESS for _, state in said):
                self._give(router, machine.Disowned(), now)
            elif router.state.vouched_until is not None:
                self._give(router, machine.Vouched(now), now)
        self._judge(now)

    def _tell_others(self, now: float) -> None:
        """What has changed, now that all is done: to start a program takes milliseconds."""
        self._beat(now)
        news, self._news = self._news, []
        for kind, name, state, priority in news:
            self._notifier.tell(kind, name, state, priority, now)

    def _beat(self, now: float) -> None:
        """Tell the other directors, in time and whenever something has changed."""
        if self._peers is None or not (self._has_changed or now >= self._peers.due):
            return
        self._has_changed = False
        routers = {name: (str(each.state.role), each.state.priority) for name, each in self._routers.items()}
        servers = {name: self._service.servers.get(name, (0, 0)) for name in self._tracked_backends}
        self._peers.send(routers, self._service.is_serving, servers, now)

    def _hear(self, link: Link) -> None:
        self.has_news = True
        for packet in link.receive(lambda error: self._refuse(link, error)):
            try:
                vrid = wire.vrid_of(packet.message)
            except BadAdvertisement as error:
                self._refuse(link, error)
                continue
            for router in self._routers.values():
                if router.link is link and router.rules.vrid == vrid:
                    self._hear_of(router, packet)

    def _hear_of(self, router: VirtualRouter, packet: Packet) -> None:
        try:
            heard = router.read(
                packet.message,
                source=packet.source,
                destination=packet.destination,
                hop_limit=packet.hop_limit,
            )
        except BadAdvertisement as error:
            router.counted[error.cause] += 1
            self._complain(router, error.cause, f"advertisement not believed: {error.why}")
            return
        source = ip_address(packet.source)
        if not router.is_neighbour(packet.source):
            # keepalived believes anyone; but who is not of this network cannot be one of its routers.
            router.counted["source_err"] += 1
            what = "is none of unicast_peer" if router.peers else "is of no network here"
            self._complain(router, "source", f"advertisement not believed: {source} {what}")
            return
        if not self._agrees(router, heard, source):
            return
        assert router.link is not None
        event = machine.Heard(
            priority=heard.priority, interval=heard.interval, source=packet.source, own=router.link.source.packed
        )
        if doubt := machine.doubts(router.rules, event):
            router.counted[_DOUBTFUL[doubt[0]]] += 1
        else:
            self._count(router, heard.priority)
        self._give(router, event, time.monotonic())

    def _count(self, router: VirtualRouter, priority: int) -> None:
        router.counted["advert_rcvd"] += 1
        if not priority:
            router.counted["pri_zero_rcvd"] += 1
        elif router.state.role is Role.MASTER and priority <= router.state.priority:
            is_equal = priority == router.state.priority
            router.counted["equal_priority_rcvd" if is_equal else "lower_priority_rcvd"] += 1

    def _agrees(self, router: VirtualRouter, heard: wire.Advertisement, source: IPv4Address | IPv6Address) -> bool:
        """Whether an advertisement with these addresses counts.

        With others than ours it does not in VRRPv2, unless their owner sends it (RFC 3768 section 7.1), and does in
        VRRPv3 (RFC 9568 section 7.1).
        """
        if len(heard.addresses) == len(router.vips) and set(heard.addresses) == {vip.ip.packed for vip in router.vips}:
            return True
        router.counted["addr_list_err"] += 1
        theirs = ", ".join(str(ip_address(address)) for address in heard.addresses[:4])
        more = ", …" if len(heard.addresses) > 4 else ""
        text = f"{source} advertises other addresses than ours ({theirs}{more}): an older file, or a router with our id"
        counts = heard.version == 3 or heard.priority == 255
        self._complain(router, "addresses", text if counts else f"{text}; not believed")
        return counts

    def _refuse(self, link: Link, error: BadAdvertisement) -> None:
        """Something came of which nobody knows what router it is for: it counts for all on the link."""
        for router in self._routers.values():
            if router.link is link:
                router.counted[error.cause] += 1

    def _complain(self, router: VirtualRouter, kind: str, text: str, *, every: float = _SELDOM) -> None:
        if router.note(kind, text, every):
            self._log(f"({router.name}) {text}", True)

    # What the machines decide

    def _give(self, router: VirtualRouter, event: machine.Event, now: float) -> tuple[machine.Action, ...]:
        router.state, actions = machine.step(router.rules, router.state, event, now)
        for action in actions:
            self._do(router, action, now)
        return actions

    def _do(self, router: VirtualRouter, action: machine.Action, now: float) -> None:
        self.has_news = True
        match action:
            case machine.Send(priority=priority):
                # First: the kernel may be busy with other people's interfaces when we come with our addresses.
                self._send(router, priority)
                # With it: the lease must be over when the others have waited for the next one long enough.
                if priority and router.put_at and now - router.put_at >= _REFRESH / 2:
                    self._put(router)
            case machine.Take():
                self._put(router)
            case machine.Leave():
                router.announce_at = router.put_at = 0.0
                self._leave(router)
            case machine.Announce(with_group=with_group):
                for member in self._masters(router) if with_group else [router]:
                    self._announce(member)
                    member.announce_all = member.announce_delay > 0
                    wait = member.announce_delay if member.announce_all else member.announce_refresh
                    member.announce_at = now + wait if wait else 0.0
            case machine.Complain(kind=kind, text=text):
                # The machine says it once.
                router.note(kind, text, 0.0)
                self._log(f"({router.name}) {text}", True)
            case machine.Changed():
                self._on_changed(router, action, now)
            case machine.Wants():
                self._tell_group(router, action, now)

    def _masters(self, router: VirtualRouter) -> list[VirtualRouter]:
        """It and those of its sync group, as far as they are master."""
        members = router.group.members if router.group is not None else (router.name,)
        return [self._routers[name] for name in members if self._routers[name].state.role is Role.MASTER]

    def _on_changed(self, router: VirtualRouter, change: machine.Changed, now: float) -> None:
        router.why = change.why
        self._has_changed = True
        if change.new is Role.MASTER:
            router.counted["become_master"] += 1
        elif change.old is Role.MASTER:
            router.counted["release_master"] += 1
        self._log(f"({router.name}) Entering {change.new} STATE: {change.why}", False)
        self._news.append(("INSTANCE", router.name, _NOTIFIED[change.new], router.state.priority))
        self._tell_group(router, change, now)
        if router.group is not None:
            self._look_at_group(router.group)

    def _tell_group(self, router: VirtualRouter, said: machine.Changed | machine.Wants, now: float) -> None:
        if router.group is not None:
            states = {name: other.state for name, other in self._routers.items()}
            for name, event in machine.follow(router.group, router.name, said, states):
                self._give(self._routers[name], event, now)

    def _look_at_group(self, group: machine.Group) -> None:
        roles = {self._routers[member].state.role for member in group.members}
        if Role.STOPPED in roles and len(roles) > 1:
            # The others are about to.
            return
        role = _common(roles)
        if role is not self._group_roles.get(group.name):
            self._group_roles[group.name] = role
            # As in keepalived, a group has no priority.
            self._news.append(("GROUP", group.name, _NOTIFIED[role], 0))

    def _send(self, router: VirtualRouter, priority: int) -> None:
        link = router.link
        if link is None:
            return
        for destination in router.peers or (link.group,):
            try:
                link.send(router.write(priority, destination), destination)
            except OSError as error:
                # A cut cable is a fault that the kernel tells us of.
                self._complain(router, f"send {error.errno}", f"cannot send on {link.name}: {error.strerror}")
            else:
                router.counted["advert_sent"] += 1
                if not priority:
                    router.counted["pri_zero_sent"] += 1

    def _put(self, router: VirtualRouter) -> None:
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

    def _leave(self, router: VirtualRouter) -> None:
        """Take the addresses away, even while the interface is down: a predecessor may have left them."""
        if not router.index:
            return
        card = self._ask(router.interface)
        # They may have been left with another prefix length.
        left = {Vip(one) for one in card.addresses if router.holds(one.ip)} if isinstance(card, Card) else set()
        self._take(router, left.union(Vip(vip.address) for vip in router.vips))

    def _take(self, router: VirtualRouter, vips: Iterable[Vip]) -> None:
        for vip in vips:
            try:
                self._addresses.take(router.index, vip)
            except OSError as error:
                self._complain(
                    router,
                    f"address {vip} {error.errno}",
                    f"cannot take {vip} off {router.interface}: {error.strerror}",
                )

    def _announce(self, router: VirtualRouter) -> None:
        self._announce_times(router, router.announce_repeat)

    def _announce_again(self, router: VirtualRouter, now: float) -> None:
        """The second set of a new master, then one of each so often."""
        self._announce_times(router, router.announce_repeat if router.announce_all else 1)
        router.announce_all = False
        router.announce_at = now + router.announce_refresh if router.announce_refresh else 0.0

    def _announce_times(self, router: VirtualRouter, times: int) -> None:
        link = router.link
        if link is None:
            return
        try:
            for vip in router.vips:
                for _ in range(times):
                    link.announce(vip.ip)
                    router.counted["garp_sent"] += 1
        except OSError as error:
            self._complain(router, f"announce {error.errno}", f"cannot announce on {link.name}: {error.strerror}")


def _addresses() -> Addresses:
    try:
        addresses = Addresses()
    except OSError as error:
        raise StartError(
            f"vrrp: the kernel does not let us change addresses: {os.strerror(error.errno or 0)}; "
            "run as root, or with CAP_NET_ADMIN and CAP_NET_RAW"
        ) from error
    try:
        # So that later on only what is wrong with an interface can go wrong.
        socket.socket(socket.AF_INET, socket.SOCK_RAW, wire.PROTOCOL).close()
    except OSError as error:
        addresses.close()
        raise StartError(
            f"vrrp: the kernel does not let us open raw sockets: {error.strerror}; "
            "run as root, or with CAP_NET_ADMIN and CAP_NET_RAW"
        ) from error
    return addresses


def _common(roles: Iterable[Role]) -> Role:
    """What a sync group is whose members have these roles."""
    found = set(roles)
    if Role.FAULT in found:
        return Role.FAULT
    return found.pop() if len(found) == 1 else Role.BACKUP
