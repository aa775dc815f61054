"""Servers that are added, deleted, or elsewhere while it runs.

The order is remembered as an override, and the supervisor reloads without a file: new workers have the servers as they
are then, and control is another process. So whoever gave the order is answered by that one (observe.runtime).
"""

from __future__ import annotations

import asyncio

from balancer.daemon.logbook import Logbook, Refusal
from balancer.daemon.plan import Plan
from balancer.daemon.remembered import Remembered
from balancer.observe.log import AccessLog, Level
from balancer.observe.servers import Order, SuccessionError
from balancer.observe.steering import SteeringError
from balancer.pool import overlay
from balancer.pool.overrides import Override, Target, server_words

__all__ = ["Shipyard"]

# New workers get 20 s to be ready, those whom they follow some more.
_PATIENCE = 30.0
_A_MOMENT = 1.0


class Shipyard:
    """Has it done, and says what came of it."""

    def __init__(self, plan: Plan, remembered: Remembered, logbook: Logbook, log: AccessLog) -> None:
        self._laid = plan.laid
        self._remembered = remembered
        self._logbook = logbook
        self._log = log
        self._wish = 0
        """The last one's number while it is open; 0: servers are as they are to be."""
        self._waiting: list[asyncio.Future[None]] = []
        self._before: dict[Target, tuple[Override, ...]] = {}
        """What was said of a server before it was changed, until that is so."""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Go on with what whoever was here before did not come to."""
        refusal = self._logbook.last_refusal
        is_settled = overlay.structural(self._remembered.all) == self._laid
        if not is_settled and refusal is not None and refusal.why and refusal.wish == self._logbook.wish:
            # Those who were to take over did not come up. Whoever waits for them is about to be handed to us.
            self._logbook.refused()
            self._wish = refusal.wish
            loop.call_later(_A_MOMENT, self._take, refusal)
        loop.add_reader(self._logbook.refusals, self._hear)
        if self._wish:
            return
        if not is_settled:
            self._ask()
        elif self._logbook.done < self._logbook.wish:
            # Those of before are about to be told that we are here.
            self._wish = self._logbook.wish

    async def __call__(self, order: Order, by: str) -> None:
        """Have it done. SteeringError where nothing came of it, SuccessionError where another process answers."""
        target = (order.backend, order.server)
        kept, why, until = self._remembered, order.reason.why, order.reason.until
        was_added = kept.get(target, "added") is not None
        if order.is_deleted and was_added and until is not None:
            raise SteeringError("It is not in the configuration, nobody would know it then: delete it without a time.")
        self._before.setdefault(target, kept.of_server(*target))
        self._log.event(Level.NOTICE, f"{by}: {_told(order)}{f' ({why})' if why else ''}")
        if order.added is not None:
            kept.keep(target, "added", dict(order.added), by=by, why=why, until=until, configured=None)
            kept.keep(target, "state", "maint", by=by)
        elif not order.is_deleted:
            kept.keep(target, "address", order.address, by=by, why=why, until=until)
        elif was_added:
            # A configured one of that name may have been deleted before.
            kept.drop(target, [kind for kind in kept.of(target) if kind != "deleted"])
        else:
            says = kept.written(target, "deleted")
            kept.keep(target, "deleted", True, by=by, why=why, until=until, configured=says)
        self._ask()
        await self.settle()

    def undo(self, gone: Override) -> None:
        """What was said of a server is forgotten: it is to be as configured again."""
        if gone.kind == "added":
            self._remembered.drop(gone.target, [kind for kind in self._remembered.of(gone.target) if kind != "deleted"])
        self._ask()

    async def settle(self) -> None:
        """Until servers are as they are to be; as `__call__`."""
        if not self._wish:
            return
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        try:
            async with asyncio.timeout(_PATIENCE):
                await waiting
        except TimeoutError:
            raise SteeringError("It takes long; 'show overrides' tells what is to be.") from None
        finally:
            self._waiting = [each for each in self._waiting if each is not waiting]

    def leave(self) -> None:
        """Another control process takes over; it knows what has come of it."""
        self._end(SuccessionError())

    def _ask(self) -> None:
        self._remembered.tell()
        self._wish = self._logbook.ask()

    def _hear(self) -> None:
        if (refusal := self._logbook.refused()) is not None:
            self._take(refusal)

    def _take(self, refusal: Refusal) -> None:
        if refusal.wish < self._wish or not self._wish:
            # There is a later one, with all of this in it; or this has been heard.
            return
        self._wish = 0
        if refusal.why:
            self._go_back(refusal.why)
            self._end(SteeringError(refusal.why))
        else:
            self._end(None)
        self._before.clear()

    def _go_back(self, why: str) -> None:
        """What is remembered is what is."""
        kept = self._remembered
        now = overlay.structural(kept.all)
        for target in {
            target
            for target, kind in now.keys() | self._laid.keys()
            if now.get((target, kind)) != self._laid.get((target, kind))
        }:
            self._log.event(Level.WARNING, f"{'/'.join(target)} stays as it is: {why}")
            if target in self._before:
                kept.drop(target)
                kept.put(self._before[target])
            else:
                kept.drop(target, overlay.STRUCTURAL)
                kept.put([each for key, each in self._laid.items() if key[0] == target])

    def _end(self, error: Exception | None) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                if error is None:
                    waiting.set_result(None)
                else:
                    waiting.set_exception(error)


def _told(order: Order) -> str:
    name = f"{order.backend}/{order.server}"
    if order.added is not None:
        return f"add server {name} {server_words(order.added)}"
    return f"del server {name}" if order.is_deleted else f"set server {name} addr {order.address}"
