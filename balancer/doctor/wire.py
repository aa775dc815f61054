"""Listening on the interfaces of virtual routers, while the other checks are made."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

from balancer.doctor import adverts, firewall, neighbours
from balancer.doctor.case import Case, Router
from balancer.doctor.ear import Claims, Ear
from balancer.doctor.finding import Finding, unknown

__all__ = ["Listening"]

# Whoever advertises each second is heard three times.
_INTERVALS = 3
_LONGEST, _MORE = 30.0, 0.3
# A probe that is lost is sent again; who has the address answers at once (seconds).
_PROBE_AGAIN, _PROBED = 0.3, 0.9
_LOOK_EVERY = 0.05
# The firewall and the rest of the way take less (seconds).
_ON_THE_WAY = 0.02

Ip = IPv4Address | IPv6Address


class Listening:
    """Begun when it is made."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._ears: dict[tuple[str, int], Ear] = {}
        self._claims: dict[str, Claims] = {}
        self._asked: dict[tuple[str, Ip], set[bytes]] = {}
        self._deaf: dict[str, str] = {}
        self._begin = time.monotonic()
        self._asked_again = False
        wish = case.wish
        intervals = [router.instance.advert_int for router in case.routers]
        default = min(_INTERVALS * max(intervals, default=0.0) + _MORE, _LONGEST)
        self.seconds = 0.0 if wish.is_quiet or not case.routers else default if wish.listen is None else wish.listen
        if wish.is_quiet:
            return
        for router in case.routers:
            card = case.network.cards.get(router.interface)
            if card is None or not card.is_up:
                # Their own check says so.
                self._deaf[router.name] = ""
                continue
            try:
                self._open(router)
            except OSError as error:
                self._deaf[router.name] = _why(error)
        self._ask()

    def _open(self, router: Router) -> None:
        card = self._case.network.cards[router.interface]
        if self.seconds and (card.name, router.family) not in self._ears:
            self._ears[card.name, router.family] = Ear(card, router.family)
        if card.asks:
            if card.name not in self._claims:
                self._claims[card.name] = Claims(card)
            self._asked |= {(card.name, vip.ip): set() for vip in router.vips}

    def _ask(self) -> None:
        for name, claims in self._claims.items():
            try:
                claims.ask(ip for interface, ip in self._asked if interface == name)
            except OSError:
                # It has gone down.
                continue

    def turn(self) -> None:
        """Take what has come."""
        for ear in self._ears.values():
            ear.hear()
        for name, claims in self._claims.items():
            for packed, mac in claims.hear():
                place = name, ip_address(packed)
                if place in self._asked:
                    self._asked[place].add(mac)
        if not self._asked_again and time.monotonic() - self._begin >= _PROBE_AGAIN:
            self._asked_again = True
            self._ask()

    def finish(self) -> Iterator[Finding]:
        """When the time is over: what was heard."""
        end = self._begin + max(self.seconds if self._ears else 0.0, _PROBED if self._asked else 0.0)
        while time.monotonic() < end:
            time.sleep(_LOOK_EVERY)
            self.turn()
        self.turn()
        if self._ears:
            time.sleep(_ON_THE_WAY)
        for ear in self._ears.values():
            ear.settle()
        heard = [advert for ear in self._ears.values() for advert in ear.heard]
        case = self._case
        for name, why in self._deaf.items():
            if why:
                yield unknown("vrrp", f"{name}: nobody could be listened to: {why}")
        if self.seconds:
            yield from adverts.judge(
                [router for router in case.routers if (router.interface, router.family) in self._ears],
                heard,
                running=case.running,
                seconds=self.seconds,
                allowing=lambda router: firewall.allowing(case, router),
            )
        yield from neighbours.judge(case, self._asked, heard, has_listened=bool(self.seconds))
        if case.wish.is_quiet and case.routers:
            yield unknown("vrrp", "nobody was listened to, and no address asked for (--quiet-net)")

    def close(self) -> None:
        for ear in self._ears.values():
            ear.close()
        for claims in self._claims.values():
            claims.close()


def _why(error: OSError) -> str:
    if error.errno in (errno.EPERM, errno.EACCES):
        return "that takes root, or CAP_NET_RAW"
    return error.strerror or str(error)
