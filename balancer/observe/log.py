"""Access records and events: gathered as they come, formatted and sent in batches, never in the traffic's way.

A record is appended to a bounded list as its connection ends; `flush` sends what has gathered. What a sink cannot
take now waits in the list, what the list cannot hold is dropped and counted.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from balancer.config import model
from balancer.observe import lines
from balancer.observe.lines import format_haproxy, format_json
from balancer.observe.sinks import Level, Message, open_sink
from balancer.pool.records import HttpRecord, Record, TcpRecord

__all__ = ["AccessLog", "Level", "Quota", "Recent", "format_haproxy", "format_json"]

# A worker holds at most this many records that its sink did not take: some 20 MB if each has the longest request.
_CAPACITY = 16384
# Room for events above that: a server's change of state is worth more than the record of one request.
_EVENT_CAPACITY = 256
# Events kept for whoever looks at the statistics.
_RECENT = 100
# Records formatted and sent in one go: about a millisecond.
_BATCH = 128
_REFUSABLE = (HttpRecord, TcpRecord)


class _Event(NamedTuple):
    level: Level
    text: str
    at: float | None
    """None: the text has its own date."""


class Recent(NamedTuple):
    """An event that was said."""

    number: int
    """From 1 on."""
    at: float
    """Unix time."""
    level: Level
    text: str


class Quota:
    """Lets the first few of a kind through and counts the rest, so that a flood of one cause stays a few lines.

    Pure: `now` is an argument (seconds of any clock that does not jump)."""

    # Kinds may be made of what peers send: bounded.
    _KINDS = 1024

    def __init__(self, *, most: int = 5, per: float = 10.0) -> None:
        self._most = most
        self._per = per
        self._kinds: dict[str, tuple[float, int]] = {}

    def admit(self, kind: str, now: float) -> int | None:
        """None: keep silent. Else the number kept silent since the last one let through."""
        begin, count = self._kinds.get(kind, (now, 0))
        hidden = 0
        if now - begin >= self._per:
            begin, count, hidden = now, 0, max(count - self._most, 0)
        elif len(self._kinds) >= self._KINDS and kind not in self._kinds:
            self._kinds.clear()
        self._kinds[kind] = (begin, count + 1)
        return hidden if count < self._most else None


class AccessLog:
    """The log of one process: `write` records as they come, `flush` several times a second.

    Raises StartError when the name in `udp://NAME:PORT` does not resolve. `stdout` and `devlog` stand for the
    standard output and the system's syslog socket.
    """

    def __init__(
        self,
        config: model.Log,
        *,
        capacity: int = _CAPACITY,
        clock: Callable[[], float] = time.time,
        stdout: int = 1,
        devlog: str = "/dev/log",
    ) -> None:
        self._json = config.format == "json"
        self._plain = config.target == "stdout"
        self._capacity = capacity
        self._clock = clock
        self._queue: deque[Record | _Event] = deque()
        self._overflow = 0
        self._said = 0
        self.recent: deque[Recent] = deque(maxlen=_RECENT)
        """The last events, whether or not a sink took them."""
        self._quota = Quota()
        self._sink = open_sink(config, clock, stdout=stdout, devlog=devlog)

    @property
    def dropped(self) -> int:
        """Records and events that reached nobody."""
        return self._overflow + self._sink.lost

    def write(self, record: Record) -> None:
        """Keep a record for the next flush."""
        queue = self._queue
        if len(queue) >= self._capacity:
            self._overflow += 1
            return
        if type(record) is HttpRecord and len(record.request_line) > lines.LONGEST_REQUEST:
            record = record._replace(request_line=record.request_line[: lines.LONGEST_REQUEST])
        queue.append(record)
        # P: refused by us. The other letters say by themselves what happened.
        if isinstance(record, _REFUSABLE) and record.why and not self._json and record.termination[0] == "P":
            queue.append(_Event(Level.NOTICE, lines.refusal(record), None))

    def event(self, level: Level, text: str, *, kind: str = "") -> None:
        """Say at once that something happened. Of events of the same `kind` only the first few in ten seconds are
        said, the next one after that tells how many were not."""
        now = self._clock()
        if kind:
            hidden = self._quota.admit(kind, time.monotonic())
            if hidden is None:
                return
            if hidden:
                text = f"{text} ({hidden} more of this kind not logged)"
        text = lines.printable(text)
        self._said += 1
        self.recent.append(Recent(self._said, now, level, text))
        if len(self._queue) >= self._capacity + _EVENT_CAPACITY:
            self._overflow += 1
            return
        self._queue.append(_Event(level, text, now))
        self.flush()

    def flush(self, limit: int | None = None) -> int:
        """Format and send what has gathered, `limit` records at most; the number that is left, because of the
        limit or because the sink takes no more now."""
        queue = self._queue
        left = len(queue) if limit is None else min(limit, len(queue))
        while left > 0:
            size = min(left, _BATCH)
            messages = [self._message(queue[i]) for i in range(size)]
            done = self._sink.send(messages)
            for _ in range(done):
                queue.popleft()
            if done < size:
                break
            left -= size
        return len(queue)

    def close(self) -> None:
        """Send what can be sent now, count the rest as dropped."""
        self._overflow += self.flush()
        self._queue.clear()
        self._sink.close()

    def _message(self, item: Record | _Event) -> Message:
        if not isinstance(item, _Event):
            return Message(Level.INFO, format_json(item) if self._json else format_haproxy(item))
        level, text, at = item
        if self._json:
            text = lines.to_json(
                {"time": lines.rfc3339_date(at or 0.0), "type": "event", "level": level.name.lower(), "message": text}
            )
        elif self._plain and at is not None:
            text = f"[{lines.clf_date(at)}] {level.name}: {text}"
        return Message(level, text)
