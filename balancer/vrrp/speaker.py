"""Virtual routers on their interfaces: what the state machines decide, done, and what they must know, told to them.

    Speaker ─── VirtualRouter, one each ─── machine.step
       ├─ Link per interface and source      packets
       ├─ Addresses, Holder                  rtnetlink
       ├─ Scripts, Files ─── track.terms     what counts for the priority
       ├─ Peers                              the heartbeat
       └─ Notifier                           who wants to know

An address is held by a lease: put with a lifetime of a few seconds, put again each second. Whatever becomes of us, the
kernel takes it away before the other director takes over.
"""

from __future__ import annotations

import functools
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import MappingProxyType
from typing import Literal, NamedTuple

from balancer.config.vrrp import Vrrp
from balancer.errors import BadAdvertisement, NoSuchRouterError, StartError
from balancer.pool.routers import ScriptFacts, Standing
from balancer.vrrp import machine, track
from balancer.vrrp.address import Card, Change, Vip
from balancer.vrrp.change import changes, heirlooms, heirs
from balancer.vrrp.coming import Claim, Coming, beat_interval, claim_of
from balancer.vrrp.group import Group, follow, gather
from balancer.vrrp.holder import LEASE, Holder, open_addresses
from balancer.vrrp.link import Link, Packet
from balancer.vrrp.machine import Role
from balancer.vrrp.notify import Notifier
from balancer.vrrp.peers import Peers
from balancer.vrrp.router import VirtualRouter
from balancer.vrrp.script import Files, Scripts
from balancer.vrrp.track import Service
from balancer.vrrp.trial import refuse_own_addresses
from balancer.wire import vrrp as wire

__all__ = ["Heirloom", "Speaker"]

# How often an address is put again (seconds): with an advertisement, or by itself where these are rarer.
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
_Changed = tuple[VirtualRouter, machine.Router, tuple[Vip, ...]]
_NOTIFIED: dict[Role, _State] = {
    Role.BACKUP: "BACKUP",
    Role.MASTER: "MASTER",
    Role.FAULT: "FAULT",
    Role.STOPPED: "STOP",
}
# Counters of what the machine drops.
_DOUBTFUL = {"own address": "source_err", "interval": "advert_interval_err"}
_HELPLESS = (str(Role.FAULT), str(Role.STOPPED))


class Heirloom(NamedTuple):
    """Sockets that a speaker leaves to the next one (succession)."""

    claims: Mapping[Claim, socket.socket] = MappingProxyType({})
    heartbeat: socket.socket | None = None
    links: Sequence[Link] = ()


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
        heirloom: Heirloom | None = None,
    ) -> None:
        """`heirloom`: what another speaker, for the same virtual routers, has left to this one."""
        self._log = log
        heirloom = heirloom or Heirloom()
        self._node = node
        self._ask_service = service
        self._addresses = open_addresses()
        self._selector = selectors.EpollSelector()
        self._selector.register(self._addresses, selectors.EVENT_READ, self._on_change)
        self._holder = Holder(self._addresses, self._complain)
        self._links: dict[tuple[str, IPv4Address | IPv6Address], Link] = {}
        self._vrrp = Vrrp()
        self._claims: dict[Claim, socket.socket] = dict(heirloom.claims)
        self._peers: Peers | None = None
        self._routers: dict[str, VirtualRouter] = {}
        self._groups: dict[str, Group] = {}
        self._group_roles: dict[str, Role] = {}
        self._scripts = Scripts({}, spawn=spawn, log=log)
        self._files = Files({})
        self._indexes: set[int] = set()
        self._up: dict[str, bool] = {}
        self._service = Service(True, {})
        self._notifier = Notifier(self._vrrp, spawn=spawn, log=log)
        self._has_changed = False
        self._news: list[_News] = []
        self._next_refresh = 0.0
        self._look_at = 0.0
        self.has_news = True
        """Whether something has changed since `standing` was asked."""
        self._inherit(heirloom, vrrp)
        try:
            coming = self.prepare(vrrp, spawn=spawn)
        except StartError:
            self.close()
            raise
        now = time.monotonic()
        self._adopt(coming, {}, now)
        self._notifier.change(vrrp, now, spawn=spawn)

    def _inherit(self, heirloom: Heirloom, vrrp: Vrrp) -> None:
        if heirloom.heartbeat is not None and vrrp.heartbeat is not None:
            interval = beat_interval(vrrp)
            own = heirloom.heartbeat
            self._peers = Peers(vrrp.heartbeat, node=self._node, interval=interval, log=self._log, own=own)
            self._selector.register(self._peers, selectors.EVENT_READ, self._hear_peers)
        for link in heirloom.links:
            self._links[link.name, link.source] = link
            self._selector.register(link, selectors.EVENT_READ, functools.partial(self._hear, link))

    def start(self) -> None:
        """Begin to listen; the virtual routers are BACKUP until nobody better was heard."""
        now = time.monotonic()
        self._next_refresh = now + _REFRESH
        self._look(now)
        for router in self._routers.values():
            card = self._ask(router.interface)
            refuse_own_addresses(router, card if isinstance(card, Card) else None)
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
            times += [at for at in (router.announce_at, router.fresh_at) if at]
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
            self._holder.announce_again(router, now)
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
                self._holder.put(router)

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
        for lock in self._claims.values():
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

    @property
    def masters(self) -> tuple[str, ...]:
        """Who holds addresses."""
        return tuple(router.name for router in self._routers.values() if router.state.role is Role.MASTER)

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

    # What is another after a reload

    def prepare(self, vrrp: Vrrp, *, spawn: Callable[[Sequence[str]], int]) -> Coming:
        """What `change` needs; nobody notices before that, or where it is closed. StartError."""
        bound = self._peers.bind if self._peers is not None else None
        return Coming(vrrp, self._claims, bound, node=self._node, log=self._log, spawn=spawn)

    def change(self, coming: Coming) -> None:
        """From now on the virtual routers are these. Those that stay as they are do not notice; those that end resign,
        and leave what addresses others of ours do not have from now on."""
        now = time.monotonic()
        before, after = self._vrrp, coming.vrrp
        for each in changes(before, after):
            self._log(f"({each.what}) {each.told}" if each.is_instance else f"vrrp: {each}", False)
        goes_on = heirs(before, after)
        stay = set(goes_on.values())
        left = heirlooms(after, goes_on, self.masters)
        for router in self._routers.values():
            router.heirlooms = left.get(router.interface, frozenset())
            if router.name not in stay:
                self._keep_time()
                # The others of its group have another from now on, or none.
                router.group = None
                self._give(router, machine.Stop(), now)
        gone = [name for name in self._group_roles if name not in after.sync_groups]
        self._news += [("GROUP", name, "STOP", 0) for name in gone if self._group_roles.pop(name)]
        ended, self._news = self._news, []
        changed = self._adopt(coming, goes_on, now)
        for router, rules, vips in changed:
            self._keep_time()
            self._give(router, machine.Reconfigured(rules), now)
            if router.vips != vips and router.state.role is Role.MASTER:
                self._holder.exchange(router, vips, now)
            router.heirlooms = frozenset()
        self._files.read()
        self._look(now)
        self._service = self._ask_service()
        self._judge(now)
        self._gather(now)
        self._has_changed = True
        self._beat(now)
        for news in ended:
            self._notifier.tell(*news, now)
        self._notifier.change(after, now, spawn=coming.spawn)
        self._tell_others(now)

    def _keep_time(self) -> None:
        """Masters advertise, however many others there is something to do for."""
        now = time.monotonic()
        for router in self._routers.values():
            state = router.state
            if state.role is Role.MASTER and state.deadline is not None and now >= state.deadline:
                self._give(router, machine.Timer(), now)

    def _adopt(self, coming: Coming, goes_on: Mapping[str, str], now: float) -> list[_Changed]:
        """Those that go on under other rules, and what was until now."""
        vrrp = self._vrrp = coming.vrrp
        self._groups = {name: Group(name=name, members=own.group) for name, own in vrrp.sync_groups.items()}
        groups = {member: group for group in self._groups.values() for member in group.members}
        routers, changed = {}, []
        for name in vrrp.instances:
            called = goes_on.get(name)
            if called is None:
                routers[name] = VirtualRouter(name, vrrp, group=groups.get(name))
            else:
                router = routers[name] = self._routers[called]
                changed.append((router, *router.become(name, vrrp, group=groups.get(name), now=now)))
        self._routers = routers
        # Also those of the other virtual routers on an interface are nothing to send from.
        self._virtual = frozenset(vip.ip for router in routers.values() for vip in router.vips)
        self._track(vrrp, coming, now)
        self._claim(coming)
        self._pair(coming, now)
        return changed

    def _track(self, vrrp: Vrrp, coming: Coming, now: float) -> None:
        trackers = [router.trackers for router in self._routers.values()]
        tracked = {name for each in trackers for name in each.scripts}
        scripts = {name: script for name, script in vrrp.scripts.items() if name in tracked}
        self._scripts.change(scripts, now, spawn=coming.spawn)
        self._files.change({name: file for name, file in vrrp.files.items() if any(name in t.files for t in trackers)})
        self._tracked_interfaces = {name for each in trackers for name in each.interfaces}
        self._tracked_backends = {name for each in trackers for name in each.backends}
        self._names = {router.interface for router in self._routers.values()} | self._tracked_interfaces
        self._up = {name: self._up.get(name, False) for name in self._tracked_interfaces}

    def _claim(self, coming: Coming) -> None:
        self._claims.update(coming.claims)
        held = {claim_of(instance) for instance in coming.vrrp.instances.values()}
        for claim in [claim for claim in self._claims if claim not in held]:
            self._claims.pop(claim).close()

    def _pair(self, coming: Coming, now: float) -> None:
        """With the other directors, by the heartbeat."""
        heartbeat = coming.vrrp.heartbeat if coming.vrrp.instances else None
        if self._peers is not None and (heartbeat is None or coming.peers is not None):
            self._selector.unregister(self._peers)
            self._peers.close()
            self._peers = None
        if coming.peers is not None:
            self._peers = coming.peers
            self._selector.register(self._peers, selectors.EVENT_READ, self._hear_peers)
        elif self._peers is not None and heartbeat is not None:
            self._peers.change(heartbeat, interval=beat_interval(coming.vrrp), now=now)

    def _gather(self, now: float) -> None:
        """Start those that are new, and make one of each sync group."""
        for group in self._groups.values():
            states = {name: self._routers[name].state for name in group.members}
            for name, event in gather(group, states):
                self._give(self._routers[name], event, now)
        for router in self._routers.values():
            if router.state.role is Role.INIT:
                self._give(router, machine.Start(), now)
            elif router.state.role is Role.FAULT and router.group is None and not router.fault:
                # Another of the group that it was in has a fault.
                self._give(router, machine.Recovered(), now)
        for group in self._groups.values():
            self._look_at_group(group)

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
                self._holder.announce(router)
        elif router.state.role is not Role.INIT:
            self._take_strays(router, card)

    def _put_back(self, router: VirtualRouter, card: Card, now: float) -> bool:
        """What a master should hold and does not: whether there was any."""
        held = set(card.addresses)
        self._holder.take(router, [Vip(one) for one in held if router.holds(one.ip) and one not in router.interfaces])
        gone = [vip for vip in router.vips if vip.address not in held]
        router.missing_since = (router.missing_since or now) if gone else 0.0
        if gone and now - router.missing_since > _HOPELESS:
            router.missing_since = 0.0
            self._give(router, machine.Lost(f"{gone[0].ip} cannot be kept on {router.interface}"), now)
            return False
        if gone:
            ours = now - router.put_at > LEASE
            why = "lost while we were held up" if ours else f"taken off {router.interface} by somebody"
            router.counted["address_lost"] += len(gone)
            self._complain(router, "lost", f"{', '.join(str(vip.ip) for vip in gone)} {why}, put back", every=_SECOND)
            # One whose duplicate address detection failed is there, and cannot be used until it is put anew.
            self._holder.take(router, [vip for vip in gone if vip.ip.version == _IPV6])
            self._holder.put(router)
        return bool(gone)

    def _take_strays(self, router: VirtualRouter, card: Card) -> None:
        """Of one who is not master the addresses are on another host, or will be."""
        strays = [Vip(one) for one in card.addresses if router.holds(one.ip)]
        for vip in strays:
            text = f"{vip.ip} was put on {router.interface} by somebody, taken off: this host is {router.state.role}"
            self._complain(router, f"stray {vip.ip}", text)
        self._holder.take(router, strays)

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
            router.last_heard = packet.source, heard.priority, time.monotonic()
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
        VRRPv3 (RFC 9568 section 7.1). Those that were ours before a reload are ours: its sender is reloaded later.
        """
        if router.lists(heard.addresses):
            return True
        router.counted["addr_list_err"] += 1
        theirs = ", ".join(str(ip_address(address)) for address in heard.addresses[:4])
        more = ", …" if len(heard.addresses) > 4 else ""
        text = f"{source} advertises other addresses than ours ({theirs}{more}): an older file, or a router with our id"
        counts = heard.version == 3 or heard.priority == 255 or router.has_listed(heard.addresses)
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
                    self._holder.put(router)
            case machine.Take():
                self._holder.put(router)
            case machine.Leave():
                router.announce_at = router.put_at = router.fresh_at = 0.0
                if router.index:
                    self._holder.leave(router, self._ask(router.interface))
            case machine.Announce(with_group=with_group):
                for member in self._masters(router) if with_group else [router]:
                    self._holder.announce(member)
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
            for name, event in follow(router.group, router.name, said, states):
                self._give(self._routers[name], event, now)

    def _look_at_group(self, group: Group) -> None:
        roles = {self._routers[member].state.role for member in group.members}
        if len(roles) > 1 and roles & {Role.INIT, Role.STOPPED}:
            # The others are about to begin, or to end.
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


def _common(roles: Iterable[Role]) -> Role:
    """What a sync group is whose members have these roles."""
    found = set(roles)
    if Role.FAULT in found:
        return Role.FAULT
    return found.pop() if len(found) == 1 else Role.BACKUP
