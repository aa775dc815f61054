"""Who on the wire has our virtual addresses, and may they? Judged by what was answered and heard. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from ipaddress import IPv4Address, IPv6Address, ip_address

from balancer.doctor.case import Case, Router
from balancer.doctor.ear import Advert
from balancer.doctor.finding import Finding, ok, problem, warning

__all__ = ["judge"]

# RFC 9568 section 7.3: the last octet is the virtual router's number.
_VIRTUAL = {4: bytes.fromhex("00005e0001"), 6: bytes.fromhex("00005e0002")}
Ip = IPv4Address | IPv6Address


def judge(
    case: Case, claims: Mapping[tuple[str, Ip], Set[bytes]], adverts: Sequence[Advert], *, has_listened: bool
) -> Iterator[Finding]:
    """`claims`: of each interface and address that was asked for, the MACs of those others that have it."""
    for router in case.routers:
        asked = [vip.ip for vip in router.vips if (router.interface, vip.ip) in claims]
        said = [finding for ip in asked for finding in _address(case, router, ip, claims, adverts, has_listened)]
        yield from said
        if asked and not any(each.verdict != "ok" for each in said):
            others = sum(bool(claims[router.interface, ip]) for ip in asked)
            if not others:
                yield ok("duplicate", f"{router.name}: nobody else on {router.interface} has its addresses")


def _address(
    case: Case,
    router: Router,
    ip: Ip,
    claims: Mapping[tuple[str, Ip], Set[bytes]],
    adverts: Sequence[Advert],
    has_listened: bool,
) -> Iterator[Finding]:
    macs = claims[router.interface, ip]
    card = case.network.cards[router.interface]
    is_here = card.has(ip) is not None
    where = f"{ip} on {router.interface}"
    for mac in sorted(macs):
        who = _known(case, router, mac, adverts)
        at = f"{_text(mac)}{f' ({who})' if who else ''}"
        virtual = _virtual(router, mac)
        if is_here:
            yield problem(
                "duplicate",
                f"{where} is this host's, and {at} has it too",
                f"{router.key}: two hosts answer for one address, and clients come to the one or the other",
                f"# there: ip address del {ip} dev …; a director: pybalancer doctor",
                f"ip neighbour show to {ip}",
            )
        elif virtual not in (None, router.vrid):
            yield problem(
                "duplicate",
                f"{where} is at {at}, the address of virtual router {virtual}",
                f"{router.key} is number {router.vrid}: both will be master",
                f"# on all directors: {router.key}.virtual_router_id",
            )
        elif virtual == router.vrid or who:
            yield ok("duplicate", f"{where} is at {at}, which is its master" if not who else f"{where} is at {at}")
        elif has_listened:
            yield problem(
                "duplicate",
                f"{where} is at {at}, and no advertisement comes from there",
                f"{router.key}: whoever it is keeps the address when this host becomes master; or it is the other "
                "director, and we do not hear it",
                f"# find it: on each switch, the port of {_text(mac)}; on the host: ip address del {ip} dev …",
            )
        else:
            yield warning(
                "duplicate",
                f"{where} is at {at}; whether that is its master was not listened for",
                f"{router.key}: if it is no director, two hosts will answer for one address",
                "pybalancer doctor --listen 4",
            )
    if len(macs) > 1 and not is_here:
        yield problem(
            "duplicate",
            f"{where} is at {len(macs)} places: {', '.join(map(_text, sorted(macs)))}",
            f"{router.key}: clients come to the one or the other",
            f"# on each: ip address show to {ip}",
        )


def _known(case: Case, router: Router, mac: bytes, adverts: Sequence[Advert]) -> str:
    """What director it is."""
    for advert in adverts:
        is_ours = (advert.interface, advert.family) == (router.interface, router.family) and (
            len(advert.message) > 1 and advert.message[1] == router.vrid
        )
        if is_ours and advert.mac == mac and not advert.is_own:
            return f"{ip_address(advert.source)}, the master"
    for peer in router.instance.unicast_peer:
        if mac in case.network.macs(peer):
            return f"{peer}, a unicast_peer"
    return ""


def _virtual(router: Router, mac: bytes) -> int | None:
    """The number of the virtual router whose MAC it is."""
    return mac[5] if mac[:5] == _VIRTUAL[router.family] else None


def _text(mac: bytes) -> str:
    return mac.hex(":")
