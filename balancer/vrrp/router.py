"""One virtual router: its rules, where it stands, what was counted and what is wrong around it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence, Set
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
from balancer.config.vrrp import Vrrp
from balancer.pool.routers import COUNTERS, RouterFacts, Term, Trouble
from balancer.vrrp import machine, track
from balancer.vrrp.address import Card, Vip
from balancer.vrrp.group import Group
from balancer.vrrp.link import Link
from balancer.wire import vrrp as wire

__all__ = ["VirtualRouter"]

# RFC 2338: of a password so many octets are sent.
_PASSWORD = 8
_IPV6 = 6
# So many kinds of trouble are remembered, the latest.
_MOST_TROUBLES = 16


class VirtualRouter:
    """What a configured instance is while we run; the speaker drives it."""

    def __init__(self, name: str, vrrp: Vrrp, *, group: Group | None) -> None:
        self.vips: tuple[Vip, ...] = ()
        self._had: frozenset[bytes] = frozenset()
        self._configure(name, vrrp, group)
        self.state = machine.initial(self.rules, 0.0)
        self.why = ""
        """The reason of the last transition."""
        self.announce_at = 0.0
        """When the addresses are to be announced again; 0: not."""
        self.announce_all = False
        self.fresh: tuple[Vip, ...] = ()
        """Those that a reload has added, to be announced once more by themselves."""
        self.fresh_at = 0.0
        """When; 0: not."""
        self.heirlooms: Set[IPv4Interface | IPv6Interface] = frozenset()
        """Those that other masters of this host have on its interface from now on."""
        self.put_at = 0.0
        """When the addresses were last put; 0 while it is not master."""
        self.missing_since = 0.0
        """Since when each look found an address missing; 0: the last one did not."""
        self.index = 0
        """Of its interface; 0 while there is none."""
        self.link: Link | None = None
        self.terms: tuple[Term, ...] = (Term("priority", self.rules.priority, ""),)
        self._networks: tuple[IPv4Network | IPv6Network, ...] = ()
        self.wrong = ""
        """What is wrong with its interface."""
        self.fault = ""
        """What is wrong with that, or with what it tracks."""
        self.counted: Counter[str] = Counter()
        """By the names in `pool.routers.COUNTERS`."""
        self.last_heard: tuple[bytes, int, float] | None = None
        """Whose advertisement that counts came last: packed address, priority, when."""
        self._troubles: dict[str, Trouble] = {}
        self._told: dict[str, float] = {}

    def _configure(self, name: str, vrrp: Vrrp, group: Group | None) -> None:
        instance = vrrp.instances[name]
        self.name = name
        self.interface = instance.interface
        self.group = group
        self.rules = machine.Router(
            name=name,
            version=effective.vrrp_version(instance),
            vrid=instance.virtual_router_id,
            priority=instance.priority,
            interval=instance.advert_int,
            preempt=instance.preempt,
            preempt_delay=instance.preempt_delay or 0.0,
            down_timer_adverts=instance.down_timer_adverts,
            # By its last word the other one learns that there were two, and announces the addresses again.
            higher_prio_send_advert=True,
            is_grouped=group is not None,
        )
        self.vips = tuple(Vip(ip_interface(vip.address), vip.label, vip.scope) for vip in instance.virtual_ipaddress)
        own = instance.authentication
        has_password = own is not None and own.type == "pass" and own.password
        self.password = own.password.encode()[:_PASSWORD] if has_password else None  # type: ignore[union-attr]
        self.peers = tuple(ip_address(peer).packed for peer in instance.unicast_peer)
        """Packed; empty: it multicasts."""
        wanted = instance.unicast_src_ip or instance.mcast_src_ip
        self._wanted_source = ip_address(wanted) if wanted is not None else None
        self._checksum_as_v2 = instance.v3_checksum_as_v2
        self.announce_repeat = instance.garp_master_repeat
        self.announce_delay = instance.garp_master_delay
        self.announce_refresh = instance.garp_master_refresh
        self.trackers = track.Trackers.of(vrrp, group.members if group is not None else (name,))

    def become(
        self, name: str, vrrp: Vrrp, *, group: Group | None, now: float
    ) -> tuple[machine.Router, tuple[Vip, ...]]:
        """The instance of that name from now on, with the same key (change.Key): the rules and addresses until now."""
        rules, vips, refresh = self.rules, self.vips, self.announce_refresh
        self._configure(name, vrrp, group)
        if self.vips != vips:
            self._had = frozenset(vip.ip.packed for vip in vips)
        if self.announce_refresh != refresh and not self.announce_all and self.state.role is machine.Role.MASTER:
            self.announce_at = now + self.announce_refresh if self.announce_refresh else 0.0
        return rules, vips

    def lists(self, addresses: Sequence[bytes]) -> bool:
        """Whether these are its addresses, packed."""
        return len(addresses) == len(self.vips) and set(addresses) == {vip.ip.packed for vip in self.vips}

    def has_listed(self, addresses: Sequence[bytes]) -> bool:
        """Whether they were before the reload that has changed them: the other director comes to its own later."""
        return len(addresses) == len(self._had) and set(addresses) == self._had

    def inspect(
        self, card: Card | None, virtual: Set[IPv4Address | IPv6Address]
    ) -> tuple[str, IPv4Address | IPv6Address | None]:
        """Why it cannot work on its interface as it is, or the address to send from: none of the `virtual` ones."""
        if card is None:
            return f"there is no interface {self.interface}", None
        if not card.is_up:
            return f"{self.interface} is down", None
        version = self.vips[0].ip.version
        own = [one for one in card.addresses if one.version == version and one.ip not in virtual]
        if self._wanted_source is not None:
            self._networks = tuple(one.network for one in own)
            if all(one.ip != self._wanted_source for one in card.addresses):
                return f"{self.interface} has no address {self._wanted_source}", None
            return "", self._wanted_source
        if version == _IPV6 and not self.peers:
            # RFC 9568 section 5.1.2.1
            own = [one for one in own if one.is_link_local]
        if not own:
            kind = "link-local IPv6" if version == _IPV6 else "IPv4"
            return f"{self.interface} has no {kind} address of its own", None
        self._networks = tuple(one.network for one in own)
        # The others believe who is of their network; on an interface with several it is that of the addresses.
        beside = [*map(ip_address, self.peers)] or [vip.ip for vip in self.vips]
        near = [one for one in own if any(other in one.network for other in beside)]
        return "", (near or own)[0].ip

    @property
    def interfaces(self) -> Set[IPv4Interface | IPv6Interface]:
        """Its addresses with their prefix lengths."""
        return {vip.address for vip in self.vips}

    def holds(self, ip: IPv4Address | IPv6Address) -> bool:
        """Whether it is one of its addresses."""
        return any(vip.ip == ip for vip in self.vips)

    def is_neighbour(self, source: bytes) -> bool:
        """Whether a packed address may be another router's: of a network of its interface, or a unicast peer."""
        if self.peers:
            return source in self.peers
        address = ip_address(source)
        return any(address in network for network in self._networks)

    def read(self, message: bytes, *, source: bytes, destination: bytes, hop_limit: int) -> wire.Advertisement:
        """A message for this router. BadAdvertisement where it is not to be believed."""
        return wire.parse(
            message,
            version=self.rules.version,
            source=source,
            destination=destination,
            hop_limit=hop_limit,
            password=self.password,
            is_unicast=bool(self.peers),
        )

    def write(self, priority: int, destination: bytes) -> bytes:
        """What it says to a packed address, while it has a link."""
        assert self.link is not None
        advertisement = wire.Advertisement(
            version=self.rules.version,
            vrid=self.rules.vrid,
            priority=priority,
            interval=self.rules.interval,
            addresses=tuple(vip.ip.packed for vip in self.vips),
            password=self.password,
        )
        source = self.link.source.packed
        return wire.build(advertisement, source=source, destination=destination, checksum_as_v2=self._checksum_as_v2)

    def note(self, kind: str, text: str, every: float) -> bool:
        """Remember a trouble; whether it is to be told of now, so many seconds after the last time.

        Not all the time: who sends us packets must not choose how many lines we log.
        """
        now = time.time()
        before = self._troubles.pop(kind, None)
        self._troubles[kind] = (
            Trouble(text, now, now, 1) if before is None else Trouble(text, before.first, now, before.times + 1)
        )
        if len(self._troubles) > _MOST_TROUBLES:
            del self._troubles[next(iter(self._troubles))]
        moment = time.monotonic()
        if moment - self._told.get(kind, -every) < every:
            return False
        self._told[kind] = moment
        return True

    def facts(self, now: float) -> RouterFacts:
        """What is true of it; `now` is in monotonic seconds."""
        state, unix = self.state, time.time() - now
        return RouterFacts(
            name=self.name,
            interface=self.interface,
            vrid=self.rules.vrid,
            version=self.rules.version,
            state=str(state.role),
            since=state.since + unix,
            why=self.why,
            base_priority=self.rules.priority,
            priority=state.priority,
            addresses=tuple(map(str, self.vips)),
            source=str(self.link.source) if self.link is not None else "",
            master=str(ip_address(state.master)) if state.master is not None else "",
            master_priority=state.master_priority,
            interval=state.master_interval,
            heard_from=str(ip_address(self.last_heard[0])) if self.last_heard is not None else "",
            heard_priority=self.last_heard[1] if self.last_heard is not None else 0,
            heard=self.last_heard[2] + unix if self.last_heard is not None else None,
            group=self.group.name if self.group is not None else "",
            released_until=state.yields_until + unix if machine.yields(state, now) and state.yields_until else None,
            terms=self.terms,
            counters={name: self.counted[name] for name in COUNTERS},
            troubles=tuple(self._troubles.values()),
        )
