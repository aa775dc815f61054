"""Interfaces that the configuration names, and the addresses that are to be there."""

from __future__ import annotations

from collections.abc import Iterator

from balancer.doctor.cards import Card, Held
from balancer.doctor.case import Case, Router
from balancer.doctor.finding import Finding, ok, problem, unknown, warning
from balancer.doctor.settings import remedy

__all__ = ["addresses", "cards"]

# RFC 8200 section 5, RFC 791 section 3.1.
_LEAST_MTU = {4: 576, 6: 1280}
# Priority of the owner of the addresses (RFC 9568 section 5.2.4).
_OWNER = 255


def cards(case: Case) -> Iterator[Finding]:
    """Are they there, and up?"""
    for name, keys in case.interfaces.items():
        card = case.network.cards.get(name)
        wanted = f"{', '.join(keys[:3])}{', …' if len(keys) > 3 else ''} "
        is_vrrp = any(router.interface == name for router in case.routers)
        effect = f"{wanted}{'stays in FAULT: no address moves here' if is_vrrp else 'has no use of it so'}"
        if card is None:
            there = ", ".join(each for each in case.network.cards if each != "lo") or "none but lo"
            yield problem("interface", f"there is no interface {name} (there are: {there})", effect, "ip link show")
        elif not card.is_on:
            yield problem("interface", f"{name} is switched off", effect, f"ip link set dev {name} up")
        elif not card.is_up:
            yield problem(
                "interface",
                f"{name} is on, but has no carrier",
                f"{effect}; a cable, a switch's port, or a virtual machine's adapter is off",
                f"ip -details link show dev {name}",
            )
        else:
            yield ok("interface", f"{name} is up, MTU {card.mtu}")
        if card is not None:
            yield from _traits(case, card)


def _traits(case: Case, card: Card) -> Iterator[Finding]:
    routers = [router for router in case.routers if router.interface == card.name]
    groups = [router for router in routers if not router.is_unicast]
    if groups and not card.takes_groups and not card.is_loopback:
        yield warning(
            "multicast",
            f"{card.name} is not marked for multicast",
            f"{groups[0].key} speaks to all by multicast; the card may let none of it in, and both directors be master",
            f"ip link set dev {card.name} multicast on",
        )
    for family in sorted({router.family for router in routers}):
        if 0 < card.mtu < _LEAST_MTU[family]:
            yield problem(
                "mtu",
                f"{card.name} has an MTU of {card.mtu}, less than IPv{family} works with",
                f"{routers[0].key} is there",
                f"ip link set dev {card.name} mtu 1500",
            )
    if any(router.family == 6 for router in routers) or (
        6 in case.forwards and card.name in case.interfaces and not card.is_loopback
    ):
        name = f"net/ipv6/conf/{card.name}/disable_ipv6"
        if case.settings.get(name) == "1":
            now, always = remedy(name, 0)
            yield problem("ipv6", f"IPv6 is switched off on {card.name}", _who(case, card), now, always=(always,))
    for held in card.held:
        if held.is_refused and not _is_vip(case, held):
            yield problem(
                "duplicate",
                f"{card.name}: {held.ip} is not used, since another host has it (duplicate address detection)",
                _who(case, card),
                f"ip -6 address show dev {card.name} dadfailed",
                f"ip address del {held.address} dev {card.name}",
            )


def _who(case: Case, card: Card) -> str:
    return f"{', '.join(case.interfaces[card.name][:3])} is there"


def _is_vip(case: Case, held: Held) -> bool:
    return any(held.ip == vip.ip for router in case.routers for vip in router.vips)


def addresses(case: Case) -> Iterator[Finding]:
    """Virtual addresses, and what each virtual router is to speak from."""
    virtual = {vip.ip for router in case.routers for vip in router.vips}
    for router in case.routers:
        card = case.network.cards.get(router.interface)
        if card is None:
            continue
        yield from _own(case, router, card)
        yield from _networks(router, card, [held for held in card.held if held.ip not in virtual])
        found = [finding for vip in router.vips for finding in _holders(case, router, vip.ip)]
        yield from found
        if not found:
            here = [str(vip.ip) for vip in router.vips if card.has(vip.ip)]
            what = f"has {', '.join(here[:4])}{', …' if len(here) > 4 else ''}" if here else "has none of its addresses"
            yield ok("vip", f"{router.name}: {card.name} {what}{', as master' if here else ''}")


def _own(case: Case, router: Router, card: Card) -> Iterator[Finding]:
    """An address to speak from (as the daemon looks for it)."""
    virtual = {vip.ip for each in case.routers for vip in each.vips}
    wanted = router.instance.unicast_src_ip or router.instance.mcast_src_ip
    own = [held for held in card.held if held.address.version == router.family and held.ip not in virtual]
    if wanted is not None:
        if not any(str(held.ip) == wanted for held in card.held):
            key = "unicast_src_ip" if router.instance.unicast_src_ip else "mcast_src_ip"
            there = ", ".join(str(held.ip) for held in own) or "none"
            yield problem(
                "source",
                f"{card.name} has no address {wanted} (it has: {there})",
                f"{router.key}.{key} wants to speak from it, and stays in FAULT",
                f"ip address add {wanted}/{own[0].address.network.prefixlen if own else 24} dev {card.name}",
            )
        return
    if router.family == 6 and not router.is_unicast:
        own = [held for held in own if held.ip.is_link_local]
    if not [held for held in own if not held.is_refused and not held.is_tentative]:
        kind = "link-local IPv6" if router.family == 6 and not router.is_unicast else f"IPv{router.family}"
        fix = (
            f"ip address add ADDRESS/24 dev {card.name}"
            if router.family == 4
            else f"sysctl -w net.ipv6.conf.{card.name}.addr_gen_mode=0 && ip link set dev {card.name} down && "
            f"ip link set dev {card.name} up"
        )
        yield problem(
            "source",
            f"{card.name} has no {kind} address of its own",
            f"{router.key} has nothing to speak from, and stays in FAULT",
            fix,
        )


def _networks(router: Router, card: Card, own: list[Held]) -> Iterator[Finding]:
    for vip in router.vips:
        if vip.network.prefixlen < vip.max_prefixlen or not own or vip.ip.is_link_local:
            # It brings a network along.
            continue
        networks = [held.address.network for held in own if held.address.version == vip.version]
        networks = [network for network in networks if not network.is_link_local]
        if networks and not any(vip.ip in network for network in networks):
            there = ", ".join(map(str, networks))
            yield warning(
                "subnet",
                f"{vip.ip} is of no network of {card.name} ({there})",
                f"{router.key}.virtual_ipaddress: who is there looks for it elsewhere, unless a router sends it here",
                f"# if hosts beside it are to reach it, write it with its prefix length: {vip.ip}/24",
            )


def _holders(case: Case, router: Router, ip: object) -> Iterator[Finding]:
    runs = router.name in case.running
    for card, held in case.network.holders(ip):  # type: ignore[arg-type]
        if router.instance.priority == _OWNER:
            continue
        take = f"ip address del {held.address} dev {card.name}"
        if card.name != router.interface:
            yield problem(
                "vip",
                f"{ip} is on {card.name}, but belongs on {router.interface}",
                f"{router.key}: this host takes it for its own, and answers for it, even while the other is master",
                take,
                always=(f"# and take {ip} out of what sets up {card.name} (/etc/network, netplan, nmcli)",),
            )
        elif held.is_permanent and not runs and case.processes.named("keepalived"):
            # Which is a trouble of its own.
            yield unknown("vip", f"{ip} is on {card.name}: keepalived runs here, and may have put it there", router.key)
        elif held.is_permanent:
            who = "" if runs else "no pybalancer runs here, and "
            yield problem(
                "vip",
                f"{ip} is on {card.name} for good: {who}nobody takes it away when this host is not master",
                f"{router.key}: it is to be on one director alone",
                take,
                always=(f"# and take {ip} out of what sets up {card.name} (/etc/network, netplan, nmcli)",),
            )
        elif not runs:
            yield unknown(
                "vip",
                f"{ip} is on {card.name} for a time, though no pybalancer is at work for it here",
                f"{router.key}: somebody else has put it there, or a daemon has just gone",
                f"ip address show dev {card.name}",
            )
