"""What operators have changed, kept in control: what holds, and when it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping

from balancer.config.model import Config
from balancer.daemon.logbook import Logbook, LogbookError, Storage
from balancer.observe.log import AccessLog, Level
from balancer.pool import overrides
from balancer.pool.orders import Admin, Condition, ServerState
from balancer.pool.overrides import Kind, Override, Overrides, Target, named, written

__all__ = ["Remembered", "holding", "imposed"]

# Seconds in which several changes are one write to the disk, and after which one that failed is tried again.
_TOGETHER, _AGAIN = 0.05, 60.0
# To tell takes the longer the more there is; this many times that belongs to other work.
_REST = 20


def holding(config: Config, logbook: Logbook) -> Overrides:
    """Those that hold now."""
    return overrides.reconciled(logbook.read().values(), config, time.time())[0]


def imposed(state: ServerState, its: Mapping[Kind, Override]) -> ServerState:
    """A server's row as operators want it."""
    if not its:
        return state
    if "state" in its:
        state = state._replace(admin=Admin[its["state"].value.upper()])
    if "weight" in its:
        state = state._replace(weight=its["weight"].value)
    if "checks" in its:
        state = state._replace(is_unwatched=its["checks"].value == "off")
    if state.is_unresolved:
        return state
    if "health" in its:
        state = state._replace(condition=Condition[its["health"].value.upper()])
    elif state.is_unwatched and state.condition is Condition.UNKNOWN:
        # No check will ever tell.
        state = state._replace(condition=Condition.UP)
    return state


class Remembered:
    """The overrides. `config` is the configuration as it is written."""

    def __init__(self, config: Config, logbook: Logbook, log: AccessLog) -> None:
        self._config = config
        self._logbook = logbook
        self._log = log
        kept, self._dropped = overrides.reconciled(logbook.read().values(), config, time.time())
        self._of: dict[Target, dict[Kind, Override]] = {}
        self._lines: dict[tuple[Target, Kind], str] = {}
        self._timed: set[tuple[Target, Kind]] = set()
        for each in kept.values():
            self._put(each)
        self._is_dirty = False
        self._telling: asyncio.TimerHandle | None = None
        self._tell_at = 0.0
        self._unsaved: bytes | None = None
        self._failure = ""
        self._again_at = 0.0
        self._is_closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._saving: asyncio.Task[None] | None = None

    def start(self, loop: asyncio.AbstractEventLoop, revert: Callable[[Override], None]) -> None:
        """Say what holds, have `revert` undo what does not hold any more, and keep things from now on."""
        self._loop = loop
        for each, why in self._dropped:
            if (each.target, "deleted") not in self._lines:
                self._log.event(Level.NOTICE, f"{named(each.target)}: {each.told} (by {each.by}) is forgotten: {why}")
            revert(each)
        self._dropped = []
        if number := len(self._lines):
            holds = "runtime changes hold" if number > 1 else "runtime change holds"
            self._log.event(Level.NOTICE, f"{number} {holds} besides the configuration (show overrides)")
        if self._logbook.was_written:
            # Whoever was here before may have been killed before all was kept.
            self._changed()

    @property
    def all(self) -> list[Override]:
        """By target, those of one in the order of their making."""
        return [each for target in sorted(self._of) for each in self.of_server(*target)]

    def get(self, target: Target, kind: Kind) -> Override | None:
        return self._of.get(target, {}).get(kind)

    def of(self, target: Target) -> Mapping[Kind, Override]:
        return self._of.get(target, {})

    def of_server(self, *target: str) -> tuple[Override, ...]:
        its = self._of.get(target)
        return tuple(sorted(its.values(), key=lambda each: each.at)) if its else ()

    def keep(
        self,
        target: Target,
        kind: Kind,
        value: object,
        *,
        by: str,
        why: str = "",
        until: float | None = None,
        configured: object = ...,
    ) -> None:
        """Remember that it was made so; what the configuration says anyway is no override. `configured`: what that is,
        where the configuration itself does not tell."""
        says = self.written(target, kind) if configured is ... else configured
        if value != says:
            self._put(Override(target, kind, value, says, by, time.time(), why, until))
            self._changed()
        else:
            self.drop(target, (kind,))

    def written(self, target: Target, kind: Kind) -> object:
        """What the configuration says, or what was said when the server was added."""
        return written(self._config, (target, kind), self.get(target, "added"))

    def put(self, overrides: Iterable[Override]) -> None:
        """Remember these as they are."""
        for each in overrides:
            self._put(each)
        self._changed()

    def drop(self, target: Target, kinds: Collection[Kind] | None = None) -> list[Override]:
        """Remember no more, of all kinds or these; what that was."""
        its = self._of.get(target, {})
        gone = [each for kind, each in its.items() if kinds is None or kind in kinds]
        for each in gone:
            del its[each.kind], self._lines[each.key]
            self._timed.discard(each.key)
        if gone:
            if not its:
                del self._of[target]
            self._changed()
        return gone

    def turn(self, now: float) -> list[Override]:
        """To be called each second: those whose time is over. They are remembered no more. `now` is Unix time."""
        if self._failure and time.monotonic() >= self._again_at:
            self._changed()
        timed = [self._of[target][kind] for target, kind in self._timed]
        due = [each for each in timed if each.until is not None and each.until <= now]
        for each in due:
            self.drop(each.target, (each.kind,))
        return due

    def _put(self, each: Override) -> None:
        self._of.setdefault(each.target, {})[each.kind] = each
        self._lines[each.key] = overrides.line(each)
        if each.until is not None:
            self._timed.add(each.key)
        else:
            self._timed.discard(each.key)

    # Keeping

    def _changed(self) -> None:
        self._is_dirty = True
        if self._loop is None or self._telling is not None:
            return
        wait = self._tell_at - time.monotonic()
        if wait > 0:
            self._telling = self._loop.call_later(wait, self._tell)
        else:
            # Before it is answered: whoever takes our place then knows it.
            self._tell()

    def tell(self) -> None:
        """Have other processes know at once."""
        if self._is_dirty:
            self._tell()

    def _tell(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        if not self._is_dirty:
            return
        self._is_dirty = False
        began = time.monotonic()
        octets = overrides.joined(self._lines.values())
        try:
            self._logbook.write(octets)
        except LogbookError as error:
            self._report(str(error))
            return
        finally:
            now = time.monotonic()
            self._tell_at = now + _REST * (now - began)
        self._unsaved = octets
        if self._loop is not None and (self._saving is None or self._saving.done()):
            self._saving = self._loop.create_task(self._save())

    async def _save(self) -> None:
        storage = self._logbook.storage
        while self._unsaved is not None:
            if not self._is_closing:
                await asyncio.sleep(_TOGETHER)
            octets, self._unsaved = self._unsaved, None
            if storage is not None:
                # A disk may take seconds.
                self._report(await asyncio.to_thread(_saved, storage, octets))

    def _report(self, failure: str) -> None:
        """Said once: each change that follows would say the same."""
        if failure and not self._failure:
            self._log.event(Level.WARNING, f"runtime changes are not kept for after a restart: {failure}")
        elif self._failure and not failure:
            self._log.event(Level.NOTICE, "runtime changes are kept for after a restart again")
        self._failure = failure
        self._again_at = time.monotonic() + _AGAIN

    async def close(self) -> None:
        """See that all is kept."""
        self._is_closing = True
        self.tell()
        if self._saving is not None:
            await self._saving


def _saved(storage: Storage, octets: bytes) -> str:
    try:
        storage.save(octets)
    except LogbookError as error:
        return str(error)
    return ""
