"""What changed on the statistics page, second by second, as server-sent events (HTML standard, section 9.2).

    hello   {fields, epoch, names, trends, process, events}  once: what the arrays mean, and the last minutes
    rows    {KEY: [value, …]}                       whole rows; all of them to begin with, then those that changed
    tick    {t, top, trend, process, events, drains, vrrp}   the end of a second's news

Nobody looks, nothing is done: the rows are compared by one task for all who listen, in short pieces, and only while
somebody does. Who reads too slowly is let go.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from operator import itemgetter
from typing import Any

from balancer.observe import page
from balancer.observe.log import Recent
from balancer.observe.snapshot import BackendRow, FrontendRow, LastCheck, Rate, Roster, ServerRow, Snapshot
from balancer.observe.trends import Drain, Trends

__all__ = ["Listener", "Live", "in_turns"]

_PERIOD = 1.0
_MOST_LISTENERS = 32
# Octets that wait for one who listens: some five seconds of 5 000 servers that all have much to do.
_MOST_WAITING = 8 << 20
# Rows of one message, about a millisecond to put together, and looked at in one go.
_ROWS = 64
_STRETCH = 512
# Checks end all the time: that one did, with the same result as before, is told every so many periods.
_CHECKS = 10
# Virtual routers that are told of each period; more of them every so many.
_MANY_ROUTERS = 32

_RATES = ("rate", "rate_max", "t_queue", "t_connect", "t_response", "t_total")
_OF_ALL = ("scur", "smax", "stot", "bin", "bout", "dresp", "req_tot", "hrsp_1xx", "hrsp_2xx", "hrsp_3xx", "hrsp_4xx",
           "hrsp_5xx", "hrsp_other")  # fmt: skip
_SERVED = ("qcur", "qmax", "lbtot", "lastsess", "econ", "eresp", "wretr", "wredis", "cli_abrt", "srv_abrt", "connect",
           "reuse", "qtime_max", "ctime_max", "rtime_max", "ttime_max")  # fmt: skip
_COUNTED = {"f": (*_OF_ALL, "dreq", "ereq"), "b": (*_OF_ALL, *_SERVED, "dreq"), "s": (*_OF_ALL, *_SERVED)}
_read = {kind: itemgetter(*names) for kind, names in _COUNTED.items()}
_FIELDS = {
    "f": (*_COUNTED["f"], *_RATES, "status", "tone"),
    "b": (*_COUNTED["b"], *_RATES, "status", "tone", "since", "weight", "act", "bck", "downs", "downtime", "is_down"),
    "s": (*_COUNTED["s"], *_RATES, "status", "tone", "since", "weight", "chkfail", "downs", "downtime", "is_down",
          "throttle", "check", "words", "checked", "changed"),
}  # fmt: skip

_Values = tuple[Any, ...]
_Row = FrontendRow | BackendRow | ServerRow


async def in_turns(pieces: Generator[None, None, Snapshot]) -> Snapshot:
    """What they make in the end, with a turn for others after each."""
    while True:
        try:
            next(pieces)
        except StopIteration as done:
            snapshot: Snapshot = done.value
            return snapshot
        await asyncio.sleep(0)


class Listener:
    """One who listens."""

    def __init__(self) -> None:
        self.is_over = False
        """No more news: too slow, or the end."""
        self.is_late = False
        """Too slow."""
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._wake = asyncio.Event()

    def tell(self, message: bytes) -> None:
        self._size += len(message)
        if self._size > _MOST_WAITING:
            self.is_late = True
            self.end()
            return
        self._waiting.append(message)
        self._wake.set()

    def end(self) -> None:
        self.is_over = True
        self._waiting.clear()
        self._wake.set()

    async def news(self) -> AsyncIterator[bytes]:
        """As it comes, to the end."""
        while not self.is_over:
            while self._waiting:
                message = self._waiting.popleft()
                self._size -= len(message)
                yield message
            self._wake.clear()
            if not self.is_over:
                await self._wake.wait()


class Live:
    """Tells what changed. `picture` makes a snapshot in pieces, `recent` are the last events, `drains` those of now."""

    def __init__(
        self,
        roster: Roster,
        picture: Callable[[], Generator[None, None, Snapshot]],
        *,
        trends: Trends,
        recent: Iterable[Recent],
        drains: Callable[[], list[Drain]],
        period: float = _PERIOD,
    ) -> None:
        self._picture = picture
        self.trends = trends
        self.recent = recent
        self.drains = drains
        self.epoch = _epoch(roster)
        """Changes where the page has other rows."""
        self._period = period
        self._listeners: list[Listener] = []
        self._task: asyncio.Task[None] | None = None
        self._rows: dict[str, tuple[_Row, _Values]] = {}
        self._round = 0
        self._told = 0
        self._vrrp = ""

    async def picture(self) -> Snapshot:
        """Everything as it is now; others have their turn in between."""
        return await in_turns(self._picture())

    def join(self) -> Listener | None:
        """One more who listens; None where there are enough. `leave` must follow."""
        if len(self._listeners) >= _MOST_LISTENERS:
            return None
        listener = Listener()
        self._listeners.append(listener)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._tell())
        return listener

    def leave(self, listener: Listener) -> None:
        self._listeners.remove(listener)
        if not self._listeners and self._task is not None:
            self._task.cancel()
            self._task = None

    def close(self) -> None:
        """Nothing more is told."""
        for listener in self._listeners:
            listener.end()

    def greeting(self) -> Iterator[bytes]:
        """All that one who has just joined does not know, in pieces."""
        trends = self.trends
        yield _event(
            "hello",
            {
                "epoch": self.epoch,
                "fields": _FIELDS,
                "names": list(trends.proxies),
                "process": list(trends.process),
                "events": [_told(each) for each in self.recent],
            },
        )
        for name, samples in trends.proxies.items():
            yield _event("trend", {"name": name, "samples": list(samples)})
        known = list(self._rows.items())
        for start in range(0, len(known), _ROWS):
            yield _event("rows", {key: values for key, (_, values) in known[start : start + _ROWS]})

    # News

    async def _tell(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            snapshot = await self.picture()
            changed = {}
            for number, (key, kind, row) in enumerate(_rows(snapshot), 1):
                known = self._rows.get(key)
                if known is None or self._is_news(known[0], row):
                    changed[key] = values = _values(kind, row, snapshot)
                    self._rows[key] = row, values
                if len(changed) >= _ROWS:
                    self._say("rows", changed)
                    changed = {}
                    await asyncio.sleep(0)
                elif not number % _STRETCH:
                    await asyncio.sleep(0)
            if changed:
                self._say("rows", changed)
            self._say("tick", self._tick(snapshot))
            self._round += 1
            spent = loop.time() - began
            await asyncio.sleep(max(self._period - spent, spent))

    def _say(self, kind: str, content: object) -> None:
        message = _event(kind, content)
        for listener in self._listeners:
            listener.tell(message)

    def _is_news(self, old: _Row, new: _Row) -> bool:
        if old.counters is not new.counters or old.rate != new.rate:
            return True
        if isinstance(old, ServerRow) and isinstance(new, ServerRow):
            if old.state != new.state or old.overrides != new.overrides:
                return True
            if old.check is new.check:
                return False
            return not self._round % _CHECKS or _result(old.check) != _result(new.check)
        if isinstance(old, BackendRow) and isinstance(new, BackendRow):
            return (old.status, old.active, old.backup, old.weight) != (new.status, new.active, new.backup, new.weight)
        return old.status != new.status

    def _tick(self, snapshot: Snapshot) -> dict[str, object]:
        trends = self.trends
        events = [each for each in self.recent if each.number > self._told]
        self._told = max((each.number for each in events), default=self._told)
        tick: dict[str, object] = {
            "t": snapshot.now,
            "top": page.top(snapshot),
            "process": list(trends.process[-1]) if trends.process else [],
            "trend": [samples[-1] if samples else 0 for samples in trends.proxies.values()],
            "drains": [list(each) for each in self.drains()],
        }
        if events:
            tick["events"] = [_told(each) for each in events]
        routers = snapshot.routers
        if routers is not None and (len(routers.routers) <= _MANY_ROUTERS or not self._round % _CHECKS):
            text = page.routers_of(snapshot)
            if text != self._vrrp:
                tick["vrrp"] = self._vrrp = text
        return tick


def _event(kind: str, content: object) -> bytes:
    # JSON in ASCII has no line breaks.
    return f"event: {kind}\ndata: {json.dumps(content, separators=(',', ':'))}\n\n".encode("ascii")


def _epoch(roster: Roster) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for entry in roster.frontends:
        digest.update(f"f {entry.name} {entry.binds} {entry.backend}\n".encode())
    for backend in roster.backends:
        digest.update(f"b {backend.name} {backend.balance}\n".encode())
        for server in backend.servers:
            digest.update(f"s {server.name} {server.address} {server.weight}\n".encode())
    return digest.hexdigest()


def _rows(snapshot: Snapshot) -> Iterator[tuple[str, str, _Row]]:
    """With the ids that their rows have on the page."""
    for frontend in snapshot.frontends:
        yield f"f/{frontend.name}", "f", frontend
    for backend in snapshot.backends:
        for server in backend.servers:
            yield f"s/{server.entry.row}", "s", server
        yield f"b/{backend.name}", "b", backend


def _values(kind: str, row: _Row, snapshot: Snapshot) -> _Values:
    rate = row.rate
    values = (*_read[kind](row.counters), rate.sessions, rate.sessions_max, *_times(rate), row.status)
    if isinstance(row, FrontendRow):
        return (*values, page.tone_of(row))
    since = round(snapshot.now - row.since, 3)
    if isinstance(row, BackendRow):
        is_down = row.status == "DOWN"
        downtime = row.downtime - (row.since if is_down else 0.0)
        own = (since, row.weight, row.active, row.backup, row.downs, round(downtime, 3), is_down)
        return (*values, row.status.lower(), *own)
    state = row.state
    is_checked = row.entry.is_checked
    check, words = page.check_words(row)
    return (
        *values,
        row.tone,
        since,
        state.weight,
        state.check_failures if is_checked else None,
        state.downs if is_checked else None,
        round(state.downtime * 1e-6, 3) if is_checked else None,
        row.tone in ("down", "going-up"),
        state.throttle,
        check,
        words,
        row.check.at if row.check is not None else 0,
        page.overruled(row),
    )


def _times(rate: Rate) -> tuple[float, ...]:
    """Milliseconds."""
    return tuple(
        round(each * 1000, 4) for each in (rate.queue_time, rate.connect_time, rate.response_time, rate.total_time)
    )


def _result(check: LastCheck | None) -> tuple[object, ...]:
    return () if check is None else (check.code, check.status, check.info)


def _told(event: Recent) -> list[object]:
    return [event.number, round(event.at, 3), event.level.name, event.text]
