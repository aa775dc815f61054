"""Puts, takes and announces the addresses of virtual routers."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable
from typing import Protocol

from balancer.errors import StartError
from balancer.vrrp.address import Addresses, Card, Vip
from balancer.vrrp.router import VirtualRouter
from balancer.wire import vrrp as wire

__all__ = ["LEASE", "Complain", "Holder", "open_addresses"]

LEASE = 2
"""Lifetime of an address: whole seconds, the kernel's unit; it looks once a second and may be that much late."""


class Complain(Protocol):
    """Takes a router, a kind of trouble, and a line."""

    def __call__(self, router: VirtualRouter, kind: str, text: str) -> None: ...


class Holder:
    """What the kernel refuses, `complain` is told of."""

    def __init__(self, addresses: Addresses, complain: Complain) -> None:
        self._addresses = addresses
        self._complain = complain

    def put(self, router: VirtualRouter) -> None:
        """All of a router's addresses, or put them again before their lease is over."""
        if router.link is not None:
            router.put_at = time.monotonic()
            self._put(router, router.vips)

    def _put(self, router: VirtualRouter, vips: Iterable[Vip]) -> None:
        link = router.link
        if link is None:
            return
        for vip in vips:
            try:
                self._addresses.put(link.index, vip, lifetime=LEASE)
            except OSError as error:
                self._complain(
                    router, f"address {vip} {error.errno}", f"cannot put {vip} on {link.name}: {error.strerror}"
                )

    def leave(self, router: VirtualRouter, card: Card | OSError | None) -> None:
        """Take the addresses away, even while the interface is down: a predecessor may have left them."""
        # They may have been left with another prefix length.
        left = {Vip(one) for one in card.addresses if router.holds(one.ip)} if isinstance(card, Card) else set()
        vips = left.union(Vip(vip.address) for vip in router.vips)
        self.take(router, [vip for vip in vips if vip.address not in router.heirlooms])

    def take(self, router: VirtualRouter, vips: Iterable[Vip]) -> None:
        """Some, whether they are there or not."""
        for vip in vips:
            try:
                self._addresses.take(router.index, vip)
            except OSError as error:
                self._complain(
                    router,
                    f"address {vip} {error.errno}",
                    f"cannot take {vip} off {router.interface}: {error.strerror}",
                )

    def exchange(self, router: VirtualRouter, before: tuple[Vip, ...], now: float) -> None:
        """Of a master that had others before: those that stay are not touched, those that are new are announced."""
        has = {vip.address for vip in before}
        added = [vip for vip in router.vips if vip not in before]
        # The kernel changes neither label nor scope of one that is there.
        self.take(router, [Vip(vip.address) for vip in added if vip.address in has])
        self._put(router, added)
        gone = [Vip(vip.address) for vip in before if vip.address not in router.interfaces]
        self.take(router, [vip for vip in gone if vip.address not in router.heirlooms])
        if gone:
            # With the first of a subnet the kernel takes all others of it.
            self.put(router)
        known = {vip.ip for vip in before}
        fresh = tuple(vip for vip in added if vip.ip not in known)
        self._announce(router, fresh, router.announce_repeat)
        if fresh and router.announce_delay:
            still = tuple(vip for vip in router.fresh if vip in router.vips)
            router.fresh, router.fresh_at = (*still, *fresh), now + router.announce_delay

    def announce(self, router: VirtualRouter) -> None:
        """All at once."""
        self._announce(router, router.vips, router.announce_repeat)

    def announce_again(self, router: VirtualRouter, now: float) -> None:
        """What is due: the second set of a new master, then one of each so often; the second set of what is new."""
        if router.announce_at and now >= router.announce_at:
            self._announce(router, router.vips, router.announce_repeat if router.announce_all else 1)
            router.announce_all = False
            router.announce_at = now + router.announce_refresh if router.announce_refresh else 0.0
        if router.fresh_at and now >= router.fresh_at:
            self._announce(router, router.fresh, router.announce_repeat)
            router.fresh, router.fresh_at = (), 0.0

    def _announce(self, router: VirtualRouter, vips: Iterable[Vip], times: int) -> None:
        link = router.link
        if link is None:
            return
        try:
            for vip in vips:
                for _ in range(times):
                    link.announce(vip.ip)
                    router.counted["garp_sent"] += 1
        except OSError as error:
            self._complain(router, f"announce {error.errno}", f"cannot announce on {link.name}: {error.strerror}")


def open_addresses() -> Addresses:
    """StartError where the kernel does not let us change addresses, or send advertisements."""
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
