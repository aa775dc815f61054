"""The flow log: a line for each connection that the kernel carries, as its table of connections tells of it.

It may keep nobody from anything: little is read at a time, then others have as long a turn. What waits, waits in the
kernel, and what finds no room there is lost and counted.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from math import inf
from typing import NamedTuple

from balancer.config import effective
from balancer.config.model import Config
from balancer.kernel import sysctl
from balancer.kernel.events import Event, Events
from balancer.kernel.plan import Service
from balancer.observe.log import AccessLog, Level
from balancer.pool.facts import Counters, Entity, Ledger
from balancer.pool.orders import Condition, ServerState
from balancer.pool.records import FlowRecord

__all__ = ["FlowLog", "frontends", "has_flows"]

# Events read in one go: some milliseconds.
_AT_ONCE = 200
# Seconds in which events gather, so that each does not have a turn of its own.
_PAUSE = 0.005
# How often it is tried again where the log takes no more now.
_AGAIN = 0.05
_TROUBLED = 1.0
# How often losses are told.
_RARELY = 30.0
# How long the end may take.
_LAST_WORDS = 0.5
_U32 = 1 << 32
# Two of the kernel's, which its timeouts are counted in (HZ 100 at least).
_TICKS = 0.02
_UNANSWERED = {"SYN_SENT", "SYN_SENT2"}
_OVER = {"TIME_WAIT", "LAST_ACK"}


class _Place(NamedTuple):
    """Who it is that a connection led to."""

    frontend: str
    backend: str
    server: str
    seat: int | None
    """Its row on the board; None: a server of before the last start."""
    rows: tuple[Counters, Counters, Counters | None]


def frontends(config: Config) -> dict[str, bool]:
    """Whose flows are logged: whether as they begin, too."""
    wishes = {
        name: effective.frontend(config, name).flow_log
        for name, frontend in config.frontends.items()
        if frontend.engine == "kernel" and effective.frontend(config, name).records.targets
    }
    return {name: wish == "both" for name, wish in wishes.items() if wish != "none"}


def has_flows(service: Service) -> bool:
    """Of datagrams that are balanced each on its own the kernel remembers nothing."""
    return not service.is_per_query


class FlowLog:
    """Connections that begin from now on, into `log`. OSError where the kernel does not tell of them.

    `wanted`: frontends, and whether flows are told of as they begin, too. `state_of`: of a server, by its row.
    """

    def __init__(
        self,
        log: AccessLog,
        services: Iterable[Service],
        wanted: Mapping[str, bool],
        ledger: Ledger,
        state_of: Callable[[int], ServerState],
    ) -> None:
        self._log, self._ledger, self._state_of = log, ledger, state_of
        # A frontend may have several, whose servers are not the same.
        self._services = {str(i): service for i, service in enumerate(services)}
        own = {label for label, service in self._services.items() if service.frontend in wanted and has_flows(service)}
        self._begins = {label for label in own if wanted[self._services[label].frontend]}
        labelled = [dataclasses.replace(service, frontend=label) for label, service in self._services.items()]
        self._fronts = [
            ledger[Entity("frontend", name)]
            for name in dict.fromkeys(service.frontend for service in self._services.values())
        ]
        self._own = own
        self._places: dict[tuple[str, tuple[str, int]], _Place] = {}
        self._former: dict[tuple[str, tuple[str, int]], _Place] = {}
        """Where servers were until they moved last."""
        self._learn()
        self._events = Events(labelled, frontends=own, with_begins=bool(self._begins))
        self._told = 0
        self._tell_at = 0.0
        self.lost = 0
        """Lines that are not in the log, for their events came too fast."""
        self.is_waiting = True
        """For events, and not until `due`."""
        self.due = inf
        self.look()

    def _learn(self) -> None:
        for label in self._own:
            service = self._services[label]
            for target in service.targets:
                self._places[label, (target.address, target.port)] = self._place(service, target.server, target.index)

    def follow(self, services: Iterable[Service]) -> None:
        """The same services, whose servers are elsewhere from now on."""
        self._services = {str(i): service for i, service in enumerate(services)}
        self._former, self._places = self._places, {}
        self._learn()
        labelled = [dataclasses.replace(service, frontend=label) for label, service in self._services.items()]
        self._events.follow(labelled)

    def fileno(self) -> int:
        """Readable when there may be something to do."""
        return self._events.fileno()

    def turn(self) -> None:
        """Read and log what has happened, as far as is good at once."""
        began = time.monotonic()
        # What the log has not taken yet comes first; the rest waits where there is room for more.
        left = self._log.flush(_AT_ONCE)
        try:
            number = 0 if left else self._read(_AT_ONCE)
        except OSError as error:
            self._log.event(Level.ERR, f"flows cannot be logged: {error.strerror}", kind="flows")
            self.is_waiting, self.due = False, began + _TROUBLED
            return
        if number:
            left = self._log.flush(_AT_ONCE)
        now = time.monotonic()
        self.is_waiting = not number and not left
        if left:
            self.due = now + _AGAIN
        else:
            self.due = now + max(_PAUSE, now - began) if number else inf

    def _read(self, limit: int) -> int:
        """How many events there were."""
        number = 0
        active = sum(row.scur for row in self._fronts)
        for event in self._events.read(limit):
            number += 1
            if event is not None and (event.is_end or event.frontend in self._begins):
                self._log.write(self._record(event, active))
        return number

    def look(self) -> None:
        """Once in a while: what else has to be known."""
        self._timeouts = sysctl.timeouts()

    def tell(self, now: float) -> None:
        """Of losses, if there were any, and not too often."""
        self.lost += (self._events.lost - self.lost) % _U32
        if self.lost == self._told or now < self._tell_at:
            return
        self._log.event(
            Level.WARNING,
            f"{self.lost - self._told} flows that began or ended are missing from the log: "
            "it was more than could be written",
        )
        self._told, self._tell_at = self.lost, now + _RARELY

    def close(self) -> None:
        """What has happened until now is logged yet, if it does not take long."""
        until = time.monotonic() + _LAST_WORDS
        with suppress(OSError):
            while time.monotonic() < until and self._read(_AT_ONCE):
                if self._log.flush():
                    break
        self.tell(inf)
        self._events.close()

    def _place(self, service: Service, server: str, index: int | None) -> _Place:
        rows = (
            self._ledger[Entity("frontend", service.frontend)],
            self._ledger[Entity("backend", service.backend)],
            None if index is None else self._ledger[Entity("server", service.backend, server)],
        )
        return _Place(service.frontend, service.backend, server, index, rows)

    def _record(self, event: Event, active: int) -> FlowRecord:
        flow = event.flow
        host, port = flow.server
        end = event.frontend, flow.server
        place = self._places.get(end) or self._former.get(end)
        if place is None:
            place = self._place(self._services[event.frontend], f"{host}:{port}", None)
        front, back, own = place.rows
        began = event.at if event.began is None else event.began
        length = 0
        if event.is_end:
            length = -1 if event.began is None else round(1000 * (event.at - began - self._silence(event)))
        return FlowRecord(
            *flow.client, began, place.frontend, place.backend, place.server, flow.protocol, event.is_end,
            -1 if event.is_end and _is_unanswered(event) else 0, length,
            flow.octets_in, flow.octets_out, flow.packets_in, flow.packets_out,
            self._termination(event, place) if event.is_end else "--",
            active, front.scur, back.scur, own.scur if own is not None else 0,
            *flow.service, host, port,
        )  # fmt: skip

    def _silence(self, event: Event) -> float:
        """Seconds without a packet at the end: a flow is forgotten when there were none for as long as its state
        allows."""
        flow = event.flow
        state = flow.state
        if flow.protocol == "udp":
            state = "UDP_STREAM" if event.is_assured else "UDP"
        age = event.at - (event.began or event.at)
        # Connections whose data nobody acknowledges are not given as much.
        for word in (state, "UNACKNOWLEDGED"):
            silence = self._timeouts.get(word, 0) - flow.timeout
            if silence <= age + _TICKS:
                return min(max(silence, 0.0), age)
        return 0.0

    def _termination(self, event: Event, place: _Place) -> str:
        """HAProxy's letters (configuration manual, section 8.5), as far as the kernel knows."""
        flow = event.flow
        if flow.state in _OVER:
            return "--"
        if flow.state == "CLOSE":
            # A reset; whose it was nobody has noted.
            return "-D" if event.is_assured else "SC"
        is_unanswered = _is_unanswered(event)
        # Only what is forgotten before its time has time left.
        if flow.timeout:
            is_down = place.seat is not None and self._state_of(place.seat).condition is Condition.DOWN
            return ("D" if is_down else "K") + ("C" if is_unanswered else "D")
        if flow.protocol == "udp":
            return "sH" if is_unanswered else "--"
        if is_unanswered:
            return "sC"
        if flow.state == "SYN_RECV":
            return "CC"
        return "cD" if flow.state else "--"


def _is_unanswered(event: Event) -> bool:
    """Has the server never said anything, or nothing but no?"""
    flow = event.flow
    if flow.state:
        return flow.state in _UNANSWERED or (flow.state == "CLOSE" and not event.is_assured)
    return not flow.packets_out
