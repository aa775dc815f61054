"""Reloads that somebody asks for, and what came of them: over the control processes' heads, of which each reload makes
another.

    control ── number ─► supervisor    have the file read again, or only looked at (dry-run)
            ◄─ report ──               what came of it (observe.reloading)

In memory that all generations share: whoever is control by the time that there is an answer finds it there. Control may
be anybody's by now; all that it can do is to raise a number, for which the file is read once more, one time after the
other, by a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import time
from typing import Literal

from balancer.observe import reloading
from balancer.observe.log import AccessLog, Level
from balancer.observe.reloading import Outcome
from balancer.observe.servers import SuccessionError
from balancer.observe.steering import SteeringError
from balancer.pool import shared
from balancer.pool.notice import Notice

__all__ = ["Docket", "Kind", "Reloading", "Reloads"]

Kind = Literal["reload", "dry-run"]
_PLACES: dict[Kind, int] = {"reload": 0, "dry-run": 1}
# Of some MB; memory that is never touched is never used.
_LARGEST = 16 << 20
# To read the file, until addresses are free, until new workers are ready, until those who decide are; and twice that
# for one that is under way (daemon.reload, daemon.changeover).
_PATIENCE = 180.0
# After a look at the file, this long belongs to other work.
_REST = 0.1


class Reloads:
    """What both sides share. Made before the first fork."""

    def __init__(self) -> None:
        self._asked = memoryview(shared.allocate(mmap.PAGESIZE)).cast("q")
        self._done = memoryview(shared.allocate(mmap.PAGESIZE)).cast("q")
        self._reports = [Notice(memoryview(shared.allocate(Notice.size(_LARGEST)))) for _ in _PLACES]
        self.asked = self.told = -1
        try:
            self.asked = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            """Rung for the supervisor."""
            self.told = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            """Rung for control."""
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """As far as this process is concerned."""
        for bell in (self.asked, self.told):
            if bell >= 0:
                os.close(bell)
        self.asked = self.told = -1

    # In control

    def ask(self, kind: Kind) -> int:
        """The number of the order."""
        self._asked[_PLACES[kind]] += 1
        os.eventfd_write(self.asked, 1)
        return self._asked[_PLACES[kind]]

    def done(self, kind: Kind) -> int:
        """The number of the last order that there is an answer to; to those before it, too."""
        return self._done[_PLACES[kind]]

    def report(self, kind: Kind) -> bytes:
        """What came of the last one; empty where there was none."""
        return self._reports[_PLACES[kind]].read() or b""

    # In the supervisor

    def wanted(self, kind: Kind) -> int:
        """The number of the last order."""
        return self._asked[_PLACES[kind]]

    def tell(self, kind: Kind, number: int, report: bytes) -> None:
        """Answer all orders up to that one."""
        place = _PLACES[kind]
        if len(report) > self._reports[place].longest:
            report = report.partition(b"\n")[0] + b"\n" + reloading.EMPTY
        self._reports[place].write(report)
        self._done[place] = number
        # Full, as a stranger in control may have made it, it rings already.
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self.told, 1)


def _answered(bell: int) -> bool:
    try:
        return os.eventfd_read(bell) > 0
    except BlockingIOError:
        return False


class Docket:
    """The supervisor's side: what is asked for, and the one that is being carried out."""

    def __init__(self, reloads: Reloads | None = None) -> None:
        """None: nobody can ask."""
        self._reloads = reloads
        self._taken: dict[Kind, int] = {kind: reloads.done(kind) if reloads is not None else 0 for kind in _PLACES}
        self._open: Kind | None = None
        self._began = 0.0
        self._body = reloading.EMPTY
        self._not_before = 0.0

    def hear(self) -> None:
        """To be called where the bell can be read."""
        if self._reloads is not None:
            _answered(self._reloads.asked)

    @property
    def has_orders(self) -> bool:
        """Whether any have not been begun."""
        return any(map(self.wants, _PLACES))

    def wants(self, kind: Kind) -> bool:
        """Whether an order of that kind has not been begun."""
        return self._reloads is not None and self._reloads.wanted(kind) != self._taken[kind]

    @property
    def wants_a_look(self) -> bool:
        """Whether it is time for one that is only to look."""
        return self.wants("dry-run") and time.monotonic() >= self._not_before

    @property
    def is_looking(self) -> bool:
        """Whether the one that is being carried out only looks."""
        return self._open == "dry-run"

    def begin(self, kind: Kind) -> None:
        """Carry out all orders of that kind until now, or what nobody of these has asked for (SIGHUP)."""
        self._open = kind
        if self._reloads is not None:
            self._taken[kind] = self._reloads.wanted(kind)
        self._began = time.monotonic()
        self._body = reloading.EMPTY

    def find(self, body: bytes) -> None:
        """What would become different (reloading.body)."""
        self._body = body

    def end(self, outcome: Outcome, file: str, why: str = "") -> float:
        """Say what came of it; after how many seconds."""
        kind, self._open = self._open, None
        now = time.monotonic()
        seconds = now - self._began
        if kind is not None and self._reloads is not None:
            head = reloading.head(outcome, file, at=time.time(), seconds=seconds, why=why)
            self._reloads.tell(kind, self._taken[kind], head + b"\n" + self._body)
            if kind == "dry-run":
                self._not_before = now + _REST
        return seconds


class Reloading:
    """Control's side: asks, and waits for the answers."""

    def __init__(self, reloads: Reloads, log: AccessLog) -> None:
        self._reloads = reloads
        self._log = log
        self._is_leaving = False
        self._waiting: dict[asyncio.Future[None], tuple[Kind, int]] = {}

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.add_reader(self._reloads.told, self._hear)

    async def __call__(self, is_dry: bool, number: int | None, by: str) -> tuple[int, bytes]:
        """As observe.reloading.Asking says."""
        kind: Kind = "dry-run" if is_dry else "reload"
        if by:
            if not is_dry:
                self._log.event(Level.NOTICE, f"{by}: reload")
            number = self._reloads.ask(kind)
        if number is not None:
            # Nobody waits for what nobody has asked for.
            number = min(number, self._reloads.wanted(kind))
            await self._until(kind, number)
        return number or 0, self._reloads.report(kind)

    async def _until(self, kind: Kind, number: int) -> None:
        if self._reloads.done(kind) >= number:
            return
        if self._is_leaving:
            raise SuccessionError(number)
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[waiting] = kind, number
        try:
            async with asyncio.timeout(_PATIENCE):
                await waiting
        except TimeoutError:
            raise SteeringError("It takes long; the log, and 'show reload', tell what came of it.") from None
        finally:
            del self._waiting[waiting]

    def leave(self) -> None:
        """Another control process takes over, and will know what came of it."""
        self._is_leaving = True
        asyncio.get_running_loop().remove_reader(self._reloads.told)
        for waiting, (kind, number) in self._waiting.items():
            if not waiting.done():
                if self._reloads.done(kind) >= number:
                    waiting.set_result(None)
                else:
                    waiting.set_exception(SuccessionError(number))

    def _hear(self) -> None:
        _answered(self._reloads.told)
        for waiting, (kind, number) in self._waiting.items():
            if not waiting.done() and self._reloads.done(kind) >= number:
                waiting.set_result(None)
