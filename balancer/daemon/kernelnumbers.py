"""What the kernel has carried and carries now, of each server, in the ledger and for whoever asks."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from math import inf
from typing import Protocol

from balancer.errors import KernelError
from balancer.kernel import counters
from balancer.kernel.conntrack import Conntrack, Load
from balancer.kernel.counters import Tally
from balancer.kernel.nft import Nft
from balancer.kernel.plan import Service, Target
from balancer.observe.log import Level
from balancer.pool.facts import Counters, Entity, Ledger
from balancer.pool.services import Counts

__all__ = ["Numbers", "Say"]

_SECOND = 1.0
# To count takes the longer the more there is; this many times that belongs to other work.
_REST = 20
_MICROSECOND = 1e-6
# As IPVS weighs them (ip_vs_dest_conn_overhead).
_INACTIVE = 1 / 256
_NOTHING = Tally()


class Say(Protocol):
    """The same again and again is said now and then."""

    def __call__(self, level: Level, text: str) -> None: ...


class Numbers:
    """`clients`: what asks the kernel, which may not be there yet; `kept`: where totals outlive this process."""

    def __init__(
        self, ledger: Ledger, clients: Callable[[], tuple[Nft, Conntrack]], say: Say, kept: memoryview | None
    ) -> None:
        self._ledger = ledger
        self._clients = clients
        self._say = say
        self._kept = kept
        self._services: tuple[Service, ...] = ()
        self._labels = _Labels()
        self._totals = counters.Totals()
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._rates: dict[tuple[str, str], Counts] = {}
        self._sessions: dict[Entity, int] = {}
        self._placed: tuple[Service, ...] = ()
        self._places: dict[tuple[str, tuple[str, int]], tuple[Service, Target]] = {}
        self._loads: dict[tuple[str, tuple[str, int]], Load] = {}
        self._loads_at = self._tallies_at = self._tallied = 0.0

    def begin(self, planned: Iterable[Service], inherited: tuple[Service, ...]) -> None:
        """Where the process before this one was, or at 0: what an earlier daemon's rules have carried is not ours.

        `inherited`: those whose rules were in the kernel before.
        """
        names = ((_label(service), target.server) for service in planned for target in service.targets)
        self._totals = counters.Totals(names, self._kept)
        self._tallies = self._totals.all
        if self._totals.is_begun:
            return
        carried: dict[tuple[str, str], Tally] = {}
        if inherited:
            nft, _ = self._clients()
            with suppress(KernelError):
                carried = counters.read(nft, self._labels.of(inherited))
        self._totals.begin(carried)

    def follow(self, services: tuple[Service, ...]) -> None:
        """From now on it is these."""
        self._services = services

    def update(self, now: float) -> None:
        """As far as it is time for it."""
        if not self._services:
            return
        labelled = self._labels.of(self._services)
        if now >= self._loads_at:
            self.count_connections(now)
        if now >= self._tallies_at:
            nft, _ = self._clients()
            try:
                tallies = self._totals.update(counters.read(nft, labelled))
            except KernelError as error:
                self._say(Level.ERR, f"the kernel's counters cannot be read: {error}")
            else:
                self._account(tallies, now)
            self._tallies_at = _next(now)

    def update_totals(self) -> None:
        """Now, whenever that was done last."""
        self._tallies_at = 0.0
        self.update(time.monotonic())

    def update_last(self) -> None:
        """Who follows goes on from what the kernel says then."""
        self._loads_at = inf
        self.update_totals()

    def count_connections(self, now: float) -> None:
        _, conntrack = self._clients()
        try:
            self._loads = conntrack.counts(self._labels.of(self._services))
        except OSError as error:
            self._say(Level.ERR, f"the kernel's connections cannot be counted: {error.strerror}")
        self._loads_at = _next(now)

    @property
    def connections_at(self) -> float:
        """When they are to be counted again."""
        return self._loads_at

    @property
    def has_connections(self) -> bool:
        """When they were counted last, of those that do not end by themselves."""
        return any(load.active for (label, _), load in self._loads.items() if label.startswith("tcp"))

    def of(self, service: Service, target: Target) -> tuple[Load, Counts, Counts]:
        """Connections, totals, and how fast these grow."""
        label = _label(service)
        return (
            self._loads.get((label, (target.address, target.port)), Load()),
            _counts(self._tallies.get((label, target.server), _NOTHING)),
            self._rates.get((label, target.server), Counts()),
        )

    def weights(self) -> dict[int, float]:
        """Loads by the server's row, as leastconn weighs them."""
        found: dict[int, float] = {}
        for service, target, load in self._loaded():
            inactive = 1.0 if service.protocol == "udp" else _INACTIVE
            found[target.index] = found.get(target.index, 0.0) + load.active + load.inactive * inactive
        return found

    def _account(self, tallies: Mapping[tuple[str, str], Tally], now: float) -> None:
        """Into the ledger, for page, metrics and logs."""
        elapsed = max(now - self._tallied, _MICROSECOND) if self._tallied else inf
        second = int(time.time())
        before, self._tallies, self._tallied = self._tallies, dict(tallies), now
        self._rates = {}
        for of, tally in tallies.items():
            old = before.get(of, _NOTHING)
            if tally != old:
                grown = Tally(*(new - number for new, number in zip(tally, old, strict=True)))
                self._rates[of] = _counts(Tally(*(round(number / elapsed) for number in grown)))
                self._add(of, grown, second)
                self._totals.keep(of)
        self._gauge()

    def _add(self, of: tuple[str, str], grown: Tally, second: int) -> None:
        label, server = of
        service = self._labels.services[label]
        front = self._ledger[Entity("frontend", service.frontend)]
        own = self._ledger[Entity("server", service.backend, server)]
        for row in (front, own):
            row.stot += grown.flows
            row.bin += grown.octets_in
            row.bout += grown.octets_out
        own.lbtot += grown.flows
        if service.protocol == "tcp":
            front.conn_tot += grown.flows
        else:
            front.req_tot += grown.packets_in
        if grown.flows:
            own.lastsess = second
        self._touch(own)

    def _gauge(self) -> None:
        """How many there are at the moment."""
        sessions: dict[Entity, int] = {}
        for service, target, load in self._loaded():
            number = load.active + (load.inactive if service.protocol == "udp" else 0)
            for entity in (
                Entity("frontend", service.frontend),
                Entity("backend", service.backend),
                Entity("server", service.backend, target.server),
            ):
                sessions[entity] = sessions.get(entity, 0) + number
        for entity in self._sessions.keys() | sessions:
            row, number = self._ledger[entity], sessions.get(entity, 0)
            if row.scur != number:
                row.scur = number
                row.smax = max(row.smax, number)
                if entity.kind == "server":
                    self._touch(row)
        self._sessions = sessions

    def _touch(self, row: Counters) -> None:
        if not row.dirty:
            row.dirty = True
            self._ledger.touched.append(row)

    def _loaded(self) -> Iterator[tuple[Service, Target, Load]]:
        """Those servers of services that have connections."""
        if self._placed is not self._services:
            self._placed = self._services
            self._places = {}
            for service in self._services:
                label = _label(service)
                for target in service.targets:
                    self._places.setdefault((label, (target.address, target.port)), (service, target))
        for of, load in self._loads.items():
            place = self._places.get(of)
            # Servers of the time before the last start, whose connections are not over, are none.
            if place is not None:
                yield *place, load


class _Labels:
    """Services under names of their own where their frontend's would throw together what is counted apart."""

    def __init__(self) -> None:
        self.services: dict[str, Service] = {}
        """By label: the one that its numbers are the frontend's of."""
        self._known: dict[int, tuple[Service, Service]] = {}

    def of(self, services: Iterable[Service]) -> list[Service]:
        known = {}
        for service in services:
            found = self._known.get(id(service))
            if found is None or found[0] is not service:
                label = _label(service)
                self.services.setdefault(label, service)
                found = service, dataclasses.replace(service, frontend=label)
            known[id(service)] = found
        self._known = known
        return [labelled for _, labelled in known.values()]


def _label(service: Service) -> str:
    """The kernel counts by these."""
    return f"{service.protocol} {service.address or service.family} {service.port}"


def _counts(tally: Tally) -> Counts:
    return Counts(tally.flows, tally.packets_in, tally.packets_out, tally.octets_in, tally.octets_out)


def _next(began: float) -> float:
    """When to count again what it took until now to count."""
    took = time.monotonic() - began
    # A little before the second is over, or it would be missed.
    return began + max(_SECOND / 2, _REST * took)
