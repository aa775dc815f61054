"""What others say of virtual routers, judged by what we would say of ours. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address
from itertools import pairwise

from balancer.doctor.case import Router
from balancer.doctor.ear import Advert
from balancer.doctor.finding import Finding, ok, problem, unknown, warning
from balancer.errors import BadAdvertisement
from balancer.wire import vrrp

__all__ = ["Allowing", "judge"]

# RFC 2338 section 5.3.6: of a password so many octets are sent.
_PASSWORD = 8
_OWNER = 255
# Octets of a message before its addresses.
_HEAD = 8
# One master after the other is a change of masters; to and fro are two of them.
_TO_AND_FRO = 3
_MOST_SHOWN = 4

# What lets the advertisements for a router in: now, and for good.
Allowing = Callable[[Router], tuple[tuple[str, ...], tuple[str, ...]]]


def judge(
    routers: Sequence[Router],
    heard: Sequence[Advert],
    *,
    running: Iterable[str],
    seconds: float,
    allowing: Allowing,
    deaf: Iterable[str] = (),
) -> list[Finding]:
    """`running`: names of the routers that a daemon of this host is at work for; all was heard in so many seconds;
    `deaf`: routers that could not be listened to."""
    found: list[Finding] = []
    at_work, skipped = set(running), set(deaf)
    for router in routers:
        if router.name not in skipped:
            own = [each for each in heard if _is_for(router, each)]
            found += _router(router, own, is_running=router.name in at_work, seconds=seconds, allowing=allowing)
    found += _others(routers, heard)
    return found


def _is_for(router: Router, advert: Advert) -> bool:
    return (advert.interface, advert.family, _vrid(advert)) == (router.interface, router.family, router.vrid)


def _vrid(advert: Advert) -> int:
    return advert.message[1] if len(advert.message) > 1 else 0


def _router(
    router: Router, adverts: list[Advert], *, is_running: bool, seconds: float, allowing: Allowing
) -> Iterator[Finding]:
    name = f"{router.name} (virtual router {router.vrid} on {router.interface})"
    foreign = [each for each in adverts if not each.is_own]
    if not foreign:
        is_sending = any(each.is_own for each in adverts)
        yield _silence(router, name, is_running=is_running, is_sending=is_sending, seconds=seconds)
        return
    said = []
    for source in dict.fromkeys(each.source for each in foreign):
        of_one = [each for each in foreign if each.source == source]
        who = f"{name}: {ip_address(source)}"
        if not any(each.passed for each in of_one):
            now, always = allowing(router)
            said.append(
                problem(
                    "vrrp_filter",
                    f"{who}: {len(of_one)} advertisements came to the card, and none to where a daemon hears it",
                    f"a firewall of this host drops them (or rp_filter does): with {router.key} both will be master",
                    *now,
                    always=always,
                )
            )
        said += _source(router, who, of_one[-1], is_running=is_running)
    said += _masters(router, name, adverts)
    yield from said
    if not said:
        last = foreign[-1]
        rank = f"priority {last.message[2]}" if last.message[2] else "and resigns"
        yield ok("vrrp", f"{name}: {ip_address(last.source)} is master, {rank}, and is understood here")


def _silence(router: Router, name: str, *, is_running: bool, is_sending: bool, seconds: float) -> Finding:
    look = f"tcpdump -nvi {router.interface} 'ip{6 if router.family == 6 else ''} proto 112'"
    if is_sending:
        return ok("vrrp", f"{name}: this host is master, and nobody else says to be")
    if is_running:
        return problem(
            "vrrp",
            f"{name}: in {seconds:.1f} s neither we nor anybody else said to be master, though the daemon runs",
            f"{router.key}: nobody has its addresses, or its master is not heard here",
            f"pybalancer why {router.name}",
            look,
        )
    return unknown(
        "vrrp",
        f"{name}: nobody was heard in {seconds:.1f} s",
        "no other director is master, or its advertisements do not come here; on it, and here, this shows them:",
        look,
    )


def _source(router: Router, who: str, advert: Advert, *, is_running: bool) -> Iterator[Finding]:
    """What is wrong with one that speaks for our router."""
    both = f"its advertisements do not count here, nor ours there: with {router.key} both will be master"
    try:
        heard = _read(router, advert)
    except BadAdvertisement as error:
        yield problem("vrrp", f"{who} is not understood: {error.why}", both, _fix(router, error.cause))
        return
    ours = {vip.ip.packed for vip in router.vips}
    source = str(ip_address(advert.source))
    if router.is_unicast and source not in router.instance.unicast_peer:
        yield problem(
            "vrrp",
            f"{who} is none of unicast_peer",
            both,
            f"# {router.key}.unicast_peer: {source}, or there the source that is expected here",
        )
    elif set(heard.addresses) != ours:
        yield problem(
            "vrrp",
            f"{who} says to be master of {_shown(heard.addresses)}; ours are {_shown(ours)}",
            f"its file is another, or it is somebody else's virtual router, and {router.key} needs another number",
            f"# on all directors: {router.key}.virtual_ipaddress, or virtual_router_id",
        )
    elif round(heard.interval * 100) != round(router.instance.advert_int * 100):
        intervals = f"{who} advertises every {heard.interval:g} s, we every {router.instance.advert_int:g} s"
        fix = f"# on all directors: {router.key}.advert_int"
        if router.version == 2:
            yield problem("vrrp", intervals, both, fix)
        else:
            yield warning("vrrp", intervals, f"{router.key}: each notices another's death at a different time", fix)
    elif heard.priority == router.instance.priority != _OWNER and not is_running:
        yield warning(
            "vrrp",
            f"{who} has priority {heard.priority}, as this host has",
            f"{router.key}: which of them is master its address decides, the higher one, not the file",
            f"# under `nodes:` give each director another {router.key}.priority",
        )


def _read(router: Router, advert: Advert) -> vrrp.Advertisement:
    own = router.instance.authentication
    password = own.password.encode()[:_PASSWORD] if own is not None and own.type == "pass" and own.password else None
    return vrrp.parse(
        advert.message,
        version=router.version,
        source=advert.source,
        destination=advert.destination,
        hop_limit=advert.hop_limit,
        password=password,
        is_unicast=router.is_unicast,
    )


def _fix(router: Router, cause: str) -> str:
    keys = {
        "version_err": "version",
        "authtype_mismatch": "authentication.type",
        "auth_failure": "authentication.password",
        "addr_list_err": "unicast_peer (or none) and virtual_ipaddress",
        "advert_interval_err": "advert_int",
        "ip_ttl_err": "interface: what comes from here has crossed a router",
    }
    if cause in keys:
        return f"# on all directors alike: {router.key}.{keys[cause]}"
    return f"tcpdump -nvvi {router.interface} 'ip{6 if router.family == 6 else ''} proto 112'"


def _masters(router: Router, name: str, adverts: Sequence[Advert]) -> Iterator[Finding]:
    """More than one at a time?"""
    order = [each.source for each in adverts if len(each.message) >= _HEAD and each.message[2]]
    changes = sum(before != after for before, after in pairwise(order))
    if changes >= _TO_AND_FRO:
        own = {each.source for each in adverts if each.is_own}
        who = ", ".join(f"{ip_address(each)}{' (this host)' if each in own else ''}" for each in dict.fromkeys(order))
        yield problem(
            "vrrp_masters",
            f"{name} has more than one master: {who}",
            f"{router.key}: clients come to the one or the other; they do not hear or do not understand each other",
            f"# on each of them: pybalancer doctor, and tcpdump -nvi {router.interface} proto 112",
        )


def _others(routers: Sequence[Router], heard: Sequence[Advert]) -> Iterator[Finding]:
    """Virtual routers that are none of ours."""
    told = set()
    for advert in heard:
        key = advert.interface, advert.family, _vrid(advert), advert.source
        if advert.is_own or key in told or not _vrid(advert) or any(_is_for(each, advert) for each in routers):
            continue
        told.add(key)
        addresses = _addresses(advert)
        who = f"{ip_address(advert.source)} on {advert.interface} is master of virtual router {_vrid(advert)}"
        taken = [(router, vip) for router in routers for vip in router.vips if vip.ip.packed in addresses]
        if taken:
            router, vip = taken[0]
            yield problem(
                "vrid",
                f"{who}, with {vip.ip} among its addresses; ours of that address is {router.vrid}",
                f"two virtual routers have one address, and both will be master: {router.key}.virtual_router_id has to "
                "be the same on all directors",
                f"# on all directors: {router.key}.virtual_router_id",
            )
        else:
            yield ok("vrid", f"{who} ({_shown(addresses)}), which is somebody else's: not to be used here")


def _addresses(advert: Advert) -> list[bytes]:
    size = len(advert.source)
    octets = advert.message[_HEAD : _HEAD + advert.message[3] * size] if len(advert.message) > _HEAD else b""
    return [octets[at : at + size] for at in range(0, len(octets) - size + 1, size)]


def _shown(addresses: Iterable[bytes]) -> str:
    each = sorted(addresses)
    return ", ".join(str(ip_address(one)) for one in each[:_MOST_SHOWN]) + (", …" if len(each) > _MOST_SHOWN else "")
