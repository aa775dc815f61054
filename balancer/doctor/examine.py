"""All checks, one after the other, while it is listened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from balancer.config.model import Config
from balancer.doctor import capacity, firewall, interfaces, machine, passage, ports, resolving, routing, servers
from balancer.doctor.case import Case, Wish
from balancer.doctor.finding import Finding, unknown
from balancer.doctor.wire import Listening
from balancer.errors import BalancerError

__all__ = ["AREAS", "Area", "examine"]

Check = Callable[[Case], Iterator[Finding]]


class Area(NamedTuple):
    """Checks under one title."""

    title: str
    checks: tuple[Check, ...]


AREAS = (
    Area(
        "this host",
        (machine.version, machine.rights, machine.clock, machine.cloud, machine.service, machine.unit_rights),
    ),
    Area("interfaces and addresses", (interfaces.cards, interfaces.addresses, machine.managers)),
    Area(
        "the kernel's settings",
        (
            routing.reverse_path,
            routing.forwarding,
            passage.bridges,
            routing.nonlocal_bind,
            routing.arp,
            routing.promotion,
            capacity.connections,
            capacity.backlog,
            capacity.local_ports,
        ),
    ),
    Area("the firewall", (firewall.through,)),
    Area("ports and others' programs", (ports.binds, ports.files, ports.rivals, ports.ipvs)),
    Area("room", (capacity.descriptors, capacity.memory, capacity.processors, machine.places)),
    Area(
        "names, routes, servers",
        (machine.names, resolving.resolved_again, routing.ways, servers.connects, machine.certificate),
    ),
)
_WIRE = "on the wire"


def examine(config: Config, wish: Wish) -> list[tuple[str, list[Finding]]]:
    """By title. OSError where the kernel tells nothing of its interfaces."""
    case = Case(config, wish)
    listening = Listening(case)
    try:
        found = []
        for area in AREAS:
            said: list[Finding] = []
            for check in area.checks:
                said += _made(check, case)
                listening.turn()
            found.append((area.title, said))
        found.append((_WIRE, list(listening.finish())))
    finally:
        listening.close()
    return [(title, said) for title, said in found if said]


def _made(check: Check, case: Case) -> list[Finding]:
    """One that cannot be made must not keep the others from it."""
    found: list[Finding] = []
    try:
        found += check(case)
    except (OSError, ValueError, BalancerError) as error:
        found.append(unknown(check.__name__, f"could not be looked at: {error}"))
    return found
