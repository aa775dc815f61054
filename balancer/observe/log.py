"""Access records and events: gathered as they come, formatted and sent in batches, never in the traffic's way.

A record is appended to a bounded list for each target as its connection ends; `flush` sends what has gathered. What a
target cannot take now waits in its list, what the list cannot hold is dropped and counted, and the target is told so
once it takes lines again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from balancer.config.effective import Records
from balancer.config.logs import Log
from balancer.observe import lines
from balancer.observe.lines import format_haproxy, format_json
from balancer.observe.logformat import compile_format
from balancer.observe.sinks import DEVLOG, JOURNAL, Level, Message, Sink, open_sink
from balancer.pool.records import FlowRecord, HttpRecord, Record, TcpRecord

__all__ = ["RECENT", "AccessLog", "Level", "Quota", "Recent", "Write", "format_haproxy", "format_json"]

Write = Callable[[Record], None]

# A worker holds at most this many records that its sink did not take: some 20 MB if each has the longest request.
_CAPACITY = 16384
# Room for events above that: a server's change of state is worth more than the record of one request.
_EVENT_CAPACITY = 256
RECENT = 100
"""Events kept for whoever looks at the statistics."""
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


def is_error(record: Record) -> bool:
    """What HAProxy's `dontlog-normal` keeps and `log-separate-errors` sets apart (log.c: strm_log)."""
    end = record.termination[0]
    if end not in "-L":
        return True
    if isinstance(record, FlowRecord):
        return False
    if end == "-" and record.retries:
        return True
    return isinstance(record, _REFUSABLE) and (
        record.redispatched or (isinstance(record, HttpRecord) and record.status >= 500)
    )


def _style(habits: Records, *, is_json: bool) -> Callable[[Record], str]:
    """How lines of a frontend that captures, or has a `log_format`, look."""
    of_requests = [each.request_header for each in habits.capture if each.request_header]
    of_responses = [each.response_header for each in habits.capture if each.response_header]
    if is_json:
        return partial(format_json, captured=(of_requests, of_responses))
    blank = lines.Blank(len(of_requests), len(of_responses))
    return compile_format(habits.log_format, blank) if habits.log_format is not None else lines.capturing(blank)


class _Outlet:
    """One target: what is to go there, until it has gone."""

    def __init__(self, config: Log, sink: Sink, capacity: int, clock: Callable[[], float]) -> None:
        self.config = config
        self.says_events = config.content != "traffic"
        self.least = Level[config.level.upper()]
        self._json = config.format == "json"
        is_file = config.target in ("stdout", "stderr") or config.target.startswith("/")
        self._dated = is_file and config.header is None
        self._capacity = capacity
        self._clock = clock
        self._sample = config.sample
        self._turn = 0
        self._queue: deque[Record | _Event] = deque()
        self._sink = sink
        self._overflow = 0
        self._told = 0
        self._separate: set[str] = set()
        self._style: Callable[[Record], str] = format_json if self._json else format_haproxy
        self._styles: dict[str, Callable[[Record], str]] = {}

    @property
    def dropped(self) -> int:
        return self._overflow + self._sink.lost

    def writer(self, frontend: str, habits: Records) -> Write | None:
        """Takes the records of a frontend, as far as they are wanted here; None: none of them is."""
        if habits.separate_errors:
            self._separate.add(frontend)
        if habits.capture or habits.log_format is not None:
            self._styles[frontend] = _style(habits, is_json=self._json)
        refusals = self.says_events and self.least >= Level.NOTICE and not self._json
        if self.config.content == "events":
            return self._write_refusal if refusals else None
        only_errors = habits.dontlog_normal
        if self.least < Level.INFO:
            if not habits.separate_errors or self.least < Level.ERR:
                return self._write_refusal if refusals else None
            only_errors = True
        plain = self.write if refusals else self._append
        if not only_errors and self._sample is None:
            return plain

        def write(record: Record) -> None:
            if (only_errors and not is_error(record)) or not self._is_sampled():
                if refusals:
                    self._write_refusal(record)
            else:
                plain(record)

        return write

    def _is_sampled(self) -> bool:
        sample = self._sample
        if sample is None:
            return True
        self._turn = self._turn % sample.size + 1
        return self._turn in sample

    def write(self, record: Record) -> None:
        """Keep a record for the next flush, and what is to be said of it besides."""
        queue = self._queue
        if len(queue) >= self._capacity:
            self._overflow += 1
            return
        if type(record) is HttpRecord and len(record.request_line) > lines.LONGEST_REQUEST:
            record = record._replace(request_line=record.request_line[: lines.LONGEST_REQUEST])
        queue.append(record)
        # P: refused by us. The other letters say by themselves what happened.
        if isinstance(record, _REFUSABLE) and record.why and record.termination[0] == "P":
            queue.append(_Event(Level.NOTICE, lines.refusal(record), None))

    def _append(self, record: Record) -> None:
        if len(self._queue) >= self._capacity:
            self._overflow += 1
            return
        if type(record) is HttpRecord and len(record.request_line) > lines.LONGEST_REQUEST:
            record = record._replace(request_line=record.request_line[: lines.LONGEST_REQUEST])
        self._queue.append(record)

    def _write_refusal(self, record: Record) -> None:
        if isinstance(record, _REFUSABLE) and record.why and record.termination[0] == "P":
            self.say(_Event(Level.NOTICE, lines.refusal(record), None))

    def say(self, event: _Event) -> None:
        if len(self._queue) >= self._capacity + _EVENT_CAPACITY:
            self._overflow += 1
        else:
            self._queue.append(event)

    def flush(self, limit: int | None) -> int:
        queue = self._queue
        left = len(queue) if limit is None else min(limit, len(queue))
        if not left:
            return len(queue)
        lost = self._sink.lost
        while left > 0:
            size = min(left, _BATCH)
            messages = [self._message(queue[i]) for i in range(size)]
            done = self._sink.send(messages)
            for _ in range(done):
                queue.popleft()
            if done < size:
                break
            left -= size
        if not queue and self._told < self.dropped and lost == self._sink.lost:
            self._tell_of_losses()
        return len(queue)

    def _tell_of_losses(self) -> None:
        """It takes lines again."""
        dropped, lost = self.dropped, self._sink.lost
        if self.least >= Level.WARNING:
            missing = dropped - self._told
            text = f"log target {self.config.target} did not take {missing} line{'s' if missing > 1 else ''}"
            said = self._sink.send([self._message(_Event(Level.WARNING, text, self._clock()))])
            if not said or self._sink.lost > lost:
                # Said again behind the next lines.
                return
        self._told = dropped

    def close(self) -> None:
        """Send what can be sent now, count the rest as dropped."""
        self._overflow += self.flush(None)
        self._queue.clear()
        self._sink.close()

    def _message(self, item: Record | _Event) -> Message:
        if not isinstance(item, _Event):
            level = Level.ERR if item.frontend in self._separate and is_error(item) else Level.INFO
            return Message(level, self._styles.get(item.frontend, self._style)(item), item)
        level, text, at = item
        if self._json:
            text = lines.to_json(
                {"time": lines.rfc3339_date(at or 0.0), "type": "event", "level": level.name.lower(), "message": text}
            )
        elif self._dated and at is not None:
            text = f"[{lines.clf_date(at)}] {level.name}: {text}"
        return Message(level, text)


class AccessLog:
    """The log of one process: `write` records of a frontend as they come, `flush` several times a second.

    `targets` get events and records, `frontends` says whose records go elsewhere. Raises StartError when the name in
    `udp://NAME:PORT` does not resolve. `stdout`, `devlog` and `journal` stand for the standard output and the system's
    sockets.
    """

    def __init__(
        self,
        targets: Iterable[Log],
        frontends: Mapping[str, Records] | None = None,
        *,
        capacity: int = _CAPACITY,
        clock: Callable[[], float] = time.time,
        stdout: int = 1,
        devlog: str = DEVLOG,
        journal: str = JOURNAL,
    ) -> None:
        self._clock = clock
        self._said = 0
        self.recent: deque[Recent] = deque(maxlen=RECENT)
        """The last events, whether or not a target took them."""
        self.keep: Callable[[float, Level, str], None] | None = None
        """Told of each event too: when, how bad, what."""
        self._quota = Quota()
        self._outlets: dict[Log, _Outlet] = {}
        targets = tuple(targets)
        habits = frontends or {}
        for config in dict.fromkeys([*targets, *(each for records in habits.values() for each in records.targets)]):
            sink = open_sink(config, clock, stdout=stdout, devlog=devlog, journal=journal)
            self._outlets[config] = _Outlet(config, sink, capacity, clock)
        self._tellers = [outlet for each in dict.fromkeys(targets) if (outlet := self._outlets[each]).says_events]
        self._habits = dict(habits)
        self._usual = Records(targets)
        self._writers: dict[str, Write | None] = {}

    @property
    def dropped(self) -> int:
        """Lines that did not reach a target."""
        return sum(outlet.dropped for outlet in self._outlets.values())

    def writer(self, frontend: str) -> Write | None:
        """Takes the records of a frontend; None where nobody wants them."""
        if frontend not in self._writers:
            records = self._habits.get(frontend, self._usual)
            found = [self._outlets[each].writer(frontend, records) for each in records.targets]
            self._writers[frontend] = _together([each for each in found if each is not None])
        return self._writers[frontend]

    def write(self, record: Record) -> None:
        """Keep a record for the next flush, as its frontend's habits are."""
        write = self.writer(record.frontend)
        if write is not None:
            write(record)

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
        if self.keep is not None:
            self.keep(now, level, text)
        for outlet in self._tellers:
            if level <= outlet.least:
                outlet.say(_Event(level, text, now))
                outlet.flush(None)

    def flush(self, limit: int | None = None) -> int:
        """Format and send what has gathered, `limit` lines of each target at most; the number that is left, because of
        the limit or because targets take no more now."""
        left = 0
        for outlet in self._outlets.values():
            left += outlet.flush(limit)
        return left

    def close(self) -> None:
        """Send what can be sent now, count the rest as dropped."""
        for outlet in self._outlets.values():
            outlet.close()


def _together(writers: Sequence[Write]) -> Write | None:
    if len(writers) < 2:
        return writers[0] if writers else None

    def write(record: Record) -> None:
        for each in writers:
            each(record)

    return write
