"""Whether virtual routers can work on this host: before they are to be, and by whoever has time for it."""

from __future__ import annotations

from balancer.config.vrrp import Vrrp
from balancer.errors import StartError
from balancer.vrrp.address import Addresses, Card
from balancer.vrrp.change import heirs
from balancer.vrrp.holder import open_addresses
from balancer.vrrp.router import VirtualRouter

__all__ = ["refuse_own_addresses", "trial"]


def trial(before: Vrrp, after: Vrrp) -> None:
    """StartError where what a reload brings cannot work: an interface that is not there, or without the address that is
    needed. What was in trouble before is no reason, and neither is an interface that is down: a cable comes back."""
    addresses = open_addresses()
    try:
        _try(before, after, addresses)
    finally:
        addresses.close()


def _try(before: Vrrp, after: Vrrp, addresses: Addresses) -> None:
    old = {name: VirtualRouter(name, before, group=None) for name in before.instances}
    new = {name: VirtualRouter(name, after, group=None) for name in after.instances}
    virtual = frozenset(vip.ip for router in (*old.values(), *new.values()) for vip in router.vips)
    goes_on = heirs(before, after)
    cards: dict[str, Card | None] = {}
    for name, router in new.items():
        known = goes_on.get(name)
        if known is not None and before.instances[known] == after.instances[name]:
            continue
        if router.interface not in cards:
            cards[router.interface] = addresses.card(router.interface)
        card = cards[router.interface]
        wrong, _ = router.inspect(card, virtual)
        was_wrong = old[known].inspect(card, virtual)[0] if known is not None else ""
        if wrong and not was_wrong and (card is None or card.is_up):
            raise StartError(f"vrrp.instances.{name}: {wrong}")
        refuse_own_addresses(router, card)
    tracked = {each.interface for instance in before.instances.values() for each in instance.track_interface}
    for name, instance in after.instances.items():
        for each in instance.track_interface:
            if each.interface not in tracked and addresses.card(each.interface) is None:
                raise StartError(f"vrrp.instances.{name}.track_interface: there is no interface {each.interface}")


def refuse_own_addresses(router: VirtualRouter, card: Card | None) -> None:
    """Or else the host would lose its only address as soon as it is not master. StartError."""
    if card is None:
        return
    version = router.vips[0].ip.version
    own = [one for one in card.addresses if one.version == version and not one.is_link_local]
    if own and all(router.holds(one.ip) and one.ip in card.permanent for one in own):
        raise StartError(
            f"vrrp.instances.{router.name}.virtual_ipaddress: {own[0].ip} is the only address of "
            f"{router.interface}: a virtual address moves, so give the interface another one of its own"
        )
