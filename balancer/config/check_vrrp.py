"""What no single key under `vrrp:` can know."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from balancer.addr import Address
from balancer.config import effective
from balancer.config.model import Config
from balancer.config.tree import Finding, Loc
from balancer.config.vrrp import SyncGroup, VirtualAddress, VrrpInstance
from balancer.config.words import did_you_mean

__all__ = ["check_vrrp"]

# The fields have 8 bits of seconds (RFC 3768) and 12 of hundredths (RFC 9568).
_LONGEST_ADVERT_INT_2 = 255
_LONGEST_ADVERT_INT_3 = 4095
# The field that counts them has 8 bits (RFC 9568 section 5.2.5).
_MOST_ADDRESSES = 255
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")
# Longest prefix of IPv4 that leaves room for a network and a broadcast address (RFC 3021).
_WITH_BROADCAST = 30

_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


def check_vrrp(config: Config) -> Iterator[Finding]:
    """All that is wrong between virtual routers, and between them and the rest. Looks for the programs named."""
    vrrp = config.vrrp
    yield from _identities(vrrp.instances)
    virtual = {_ip(vip): name for name, instance in vrrp.instances.items() for vip in instance.virtual_ipaddress}
    for name, instance in vrrp.instances.items():
        loc: Loc = ("vrrp", "instances", name)
        yield from _addresses(loc, instance)
        yield from _authentication(loc, instance)
        yield from _interval(loc, instance)
        yield from _paths(loc, instance, virtual)
        yield from _trackers(loc, instance, config)
        yield from _notified(loc, instance)
    yield from _sync_groups(config)
    for name, script in vrrp.scripts.items():
        yield from _program(("vrrp", "scripts", name, "script"), script.script)
    if vrrp.heartbeat is not None:
        yield from _heartbeat(config)


def _identities(instances: Mapping[str, VrrpInstance]) -> Iterator[Finding]:
    routers: dict[tuple[str, int, bool], str] = {}
    holders: dict[_Ip, str] = {}
    for name, instance in instances.items():
        loc: Loc = ("vrrp", "instances", name)
        for is_ipv6 in sorted({":" in vip.address for vip in instance.virtual_ipaddress}):
            other = routers.setdefault((instance.interface, instance.virtual_router_id, is_ipv6), name)
            if other != name:
                family = "IPv6" if is_ipv6 else "IPv4"
                text = f"{instance.virtual_router_id} is the id of {other} too, on {instance.interface} ({family})"
                yield Finding((*loc, "virtual_router_id"), text)
        for i, vip in enumerate(instance.virtual_ipaddress):
            holder = holders.setdefault(_ip(vip), name)
            if holder != name:
                yield Finding((*loc, "virtual_ipaddress", i), f"{vip.address} is an address of {holder} too")


def _addresses(loc: Loc, instance: VrrpInstance) -> Iterator[Finding]:
    vips = instance.virtual_ipaddress
    if len({":" in vip.address for vip in vips}) > 1:
        text = "has IPv4 and IPv6 addresses; a virtual router has one family (RFC 9568), write two instances"
        yield Finding((*loc, "virtual_ipaddress"), text)
    if len(vips) > _MOST_ADDRESSES:
        text = f"has {len(vips)} addresses; an advertisement holds {_MOST_ADDRESSES}, write two instances"
        yield Finding((*loc, "virtual_ipaddress"), text)
    first: dict[_Ip, str] = {}
    for i, vip in enumerate(vips):
        at = (*loc, "virtual_ipaddress", i)
        why = _unfit(ipaddress.ip_interface(vip.address))
        twin = first.get(_ip(vip))
        first.setdefault(_ip(vip), vip.address)
        if why:
            yield Finding(at, f"{vip.address} {why}")
        elif twin is not None:
            again = "twice" if twin == vip.address else f"already, as {twin}"
            yield Finding(at, f"{vip.address} stands here {again}")
        for key in ("label", "scope"):
            if ":" in vip.address and key in vip.model_fields_set:
                yield Finding((*at, key), "is for IPv4 addresses only; take it away", "key")
        name = instance.interface
        if vip.label is not None and vip.label != name and not vip.label.startswith(f"{name}:"):
            yield Finding((*at, "label"), f"a label on {name} is {name} itself, or {name}: and more")


def _ip(vip: VirtualAddress) -> _Ip:
    return ipaddress.ip_interface(vip.address).ip


def _unfit(own: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> str:
    """Why it cannot be a virtual address; empty when it can."""
    ip, network = own.ip, own.network
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return f"is no address of an interface; write {ip.ipv4_mapped}"
    if ip.is_unspecified or ip.is_multicast or ip.is_loopback or ip == _BROADCAST:
        return "is no address that a host can be reached by"
    if network.prefixlen == 0:
        return "puts the whole world on this network; write the network's prefix length"
    if ip.version == 4 and network.prefixlen <= _WITH_BROADCAST:
        if ip == network.network_address:
            return f"is the address of the network {network} itself"
        if ip == network.broadcast_address:
            return f"is the broadcast address of the network {network}"
    return ""


def _authentication(loc: Loc, instance: VrrpInstance) -> Iterator[Finding]:
    authentication = instance.authentication
    if authentication is None or authentication.type == "none":
        return
    if authentication.password is None:
        text = "is missing; type pass wants one"
        yield Finding((*loc, "authentication", "password"), text, "missing")
    if any(":" in vip.address for vip in instance.virtual_ipaddress):
        text = "exists in VRRPv2 only, which has no IPv6; take it away"
        yield Finding((*loc, "authentication"), text, "key")
    elif instance.version == 3:
        yield Finding((*loc, "authentication"), "exists in version 2 only; take it away", "key")


def _interval(loc: Loc, instance: VrrpInstance) -> Iterator[Finding]:
    version, interval = effective.vrrp_version(instance), instance.advert_int
    if instance.version == 2 and effective.is_ipv6(instance):
        yield Finding((*loc, "version"), "2 has no IPv6; write 3, or take the key away")
    elif version == 2 and (interval != int(interval) or interval > _LONGEST_ADVERT_INT_2):
        text = f"VRRPv2 counts whole seconds, 1s to {_LONGEST_ADVERT_INT_2}s; less wants `version: 3` on all directors"
        yield Finding((*loc, "advert_int"), text)
    elif version == 3:
        hundredths = round(interval * 100, 6)
        if hundredths != int(hundredths) or not 1 <= hundredths <= _LONGEST_ADVERT_INT_3:
            yield Finding((*loc, "advert_int"), "VRRPv3 counts hundredths of a second, 10ms to 40.95s")


def _paths(loc: Loc, instance: VrrpInstance, virtual: Mapping[_Ip, str]) -> Iterator[Finding]:
    """Where advertisements come from and go to. `virtual` tells whose a virtual address is."""
    is_ipv6 = effective.is_ipv6(instance)
    family = "IPv6" if is_ipv6 else "IPv4"
    given: list[tuple[Loc, str | None]]
    given = [((key,), getattr(instance, key)) for key in ("mcast_src_ip", "unicast_src_ip")]
    given += [(("unicast_peer", i), peer) for i, peer in enumerate(instance.unicast_peer)]
    for at, address in given:
        if address is not None and (":" in address) != is_ipv6:
            yield Finding((*loc, *at), f"{address} is none of {family}, as the virtual addresses are")
        elif address is not None and ipaddress.ip_address(address) in virtual:
            whose = virtual[ipaddress.ip_address(address)]
            yield Finding((*loc, *at), f"{address} is a virtual address of {whose}; write a director's own")
        elif address is not None and "%" in address and at[0] != "unicast_peer":
            text = f"{address} names an interface, as `interface` does; write {address.partition('%')[0]}"
            yield Finding((*loc, *at), text)
    if instance.unicast_src_ip is not None and not instance.unicast_peer:
        yield Finding((*loc, "unicast_src_ip"), "has no effect without `unicast_peer`; add it, or write mcast_src_ip")
    if instance.mcast_src_ip is not None and instance.unicast_peer:
        yield Finding((*loc, "mcast_src_ip"), "has no effect with `unicast_peer`; write unicast_src_ip")
    own = ipaddress.ip_address(instance.unicast_src_ip) if instance.unicast_src_ip is not None else None
    for i, text in enumerate(instance.unicast_peer):
        peer = ipaddress.ip_address(text)
        if peer == own:
            yield Finding((*loc, "unicast_peer", i), f"{peer} is our own address (unicast_src_ip)")
        elif peer.is_multicast or peer.is_unspecified or peer.is_loopback:
            yield Finding((*loc, "unicast_peer", i), f"{peer} is no address of another host")
        elif text in instance.unicast_peer[:i]:
            yield Finding((*loc, "unicast_peer", i), f"{peer} stands here twice")
    if instance.v3_checksum_as_v2 and (effective.vrrp_version(instance) == 2 or is_ipv6):
        text = "is for version 3 over IPv4 only; take it away"
        yield Finding((*loc, "v3_checksum_as_v2"), text, "key")


def _trackers(loc: Loc, instance: VrrpInstance, config: Config) -> Iterator[Finding]:
    vrrp = config.vrrp
    known: dict[str, tuple[str, Collection[str]]] = {
        "script": ("vrrp.scripts", vrrp.scripts),
        "file": ("vrrp.files", vrrp.files),
        "backend": ("backends", config.backends),
    }
    for kind, (place, names) in known.items():
        for i, each in enumerate(getattr(instance, f"track_{kind}")):
            name = getattr(each, kind)
            if name not in names:
                text = f"there is no {kind} {name!r} under {place}{did_you_mean(name, names)}"
                yield Finding((*loc, f"track_{kind}", i, kind), text)
    for key in ("interface", "script", "file", "backend"):
        tracked = [getattr(each, key) for each in getattr(instance, f"track_{key}")]
        for i, name in enumerate(tracked):
            if name in tracked[:i]:
                yield Finding((*loc, f"track_{key}", i), f"{name} stands here twice")
    for i, each in enumerate(instance.track_interface):
        if each.interface == instance.interface:
            text = f"{each.interface} is the instance's own and tracked already"
            yield Finding((*loc, "track_interface", i), text)
    if instance.track_backend and vrrp.heartbeat is None:
        text = "wants `vrrp.heartbeat`: by it the directors compare what each of them sees"
        yield Finding((*loc, "track_backend"), text, "key")


def _notified(loc: Loc, told: VrrpInstance | SyncGroup) -> Iterator[Finding]:
    for key in ("notify", "notify_master", "notify_backup", "notify_fault", "notify_stop"):
        words = getattr(told, key)
        if words is not None:
            yield from _program((*loc, key), words)


def _program(loc: Loc, words: tuple[str, ...]) -> Iterator[Finding]:
    if not (Path(words[0]).is_file() and os.access(words[0], os.X_OK)):
        yield Finding(loc, f"{words[0]} is no program that can be started; give its whole path, and chmod +x it")


def _sync_groups(config: Config) -> Iterator[Finding]:
    instances = config.vrrp.instances
    groups: dict[str, str] = {}
    for group, own in config.vrrp.sync_groups.items():
        loc: Loc = ("vrrp", "sync_groups", group)
        yield from _notified(loc, own)
        for i, member in enumerate(own.group):
            at = (*loc, "group", i)
            if member not in instances:
                text = f"there is no instance {member!r} under vrrp.instances{did_you_mean(member, instances)}"
                yield Finding(at, text)
            elif groups.setdefault(member, group) != group:
                yield Finding(at, f"{member} is in group {groups[member]} already")
            elif member in own.group[:i]:
                yield Finding(at, f"{member} stands here twice")


def _heartbeat(config: Config) -> Iterator[Finding]:
    heartbeat = config.vrrp.heartbeat
    assert heartbeat is not None
    loc: Loc = ("vrrp", "heartbeat")
    ends: list[tuple[Loc, Address]] = [(("bind",), heartbeat.bind)]
    ends += [(("peers", i), peer) for i, peer in enumerate(heartbeat.peers)]
    for at, end in ends:
        try:
            ip = ipaddress.ip_address(end.host)
        except ValueError:
            yield Finding((*loc, *at), f"wants an IP address and port, not {end}")
            continue
        if ip.is_unspecified or ip.is_multicast:
            yield Finding((*loc, *at), f"wants the address of one host, not {end}")
        elif at != ("bind",) and end == heartbeat.bind:
            yield Finding((*loc, *at), f"{end} is our own address (bind)")
        elif end.family is not heartbeat.bind.family:
            yield Finding((*loc, *at), f"{end} cannot be reached from {heartbeat.bind}: one is IPv4, the other IPv6")
        elif at != ("bind",) and end in heartbeat.peers[: ends.index((at, end)) - 1]:
            yield Finding((*loc, *at), f"{end} stands here twice")
    if heartbeat.interval is not None and heartbeat.interval < 0.01:
        yield Finding((*loc, "interval"), "is too short; at least 10ms")
