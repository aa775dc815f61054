"""A worker's cache of small objects for one backend, after HAProxy's `cache`: what servers let everybody keep, the
longest unused first out when there is no more room.

An object is found by host and target as the server was asked for them, then by what else chose it: the scheme, headers
that steer servers, and those that its Vary names. Of several who ask for what is not there, one asks the server and the
others wait for what comes of it, unless answers to such questions were not for everybody before.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Protocol

from balancer.config import model
from balancer.pool.facts import Counters
from balancer.pool.outdated import Voice
from balancer.wire.caching import Freshness, Wish, judge, kept, selected, steering, varies_on
from balancer.wire.encoding import encoded, varied
from balancer.wire.http1 import Response, Section

__all__ = ["Cache", "Capture", "Entry", "Key", "Question", "Waiter"]

Key = tuple[bytes, bytes]
"""Host and target."""

# What an object takes besides its octets. A head is there in several forms (`http1.Response`).
_OVERHEAD = 1024
_FORMS = 5
# Without `max_object_size` (HAProxy's).
_SHARE = 256
# Of what is on its way in, at most so much of the whole.
_MOST_COMING = 2
# So many questions are remembered whose answers were not for everybody.
_MOST_PASSED = 4096
# What anybody may want who has no credentials.
_ANY = Wish()


class Waiter(Protocol):
    """Who waits for what another one is asking for."""

    def go_on(self, *, leads: bool) -> None:
        """The wait is over: it is there, or it is to be asked for; `leads`: for others too, who wait still."""


class Question:
    """What a GET or HEAD asks for, as far as a cache goes. `said` are the fields as the client sent them, or a trusted
    proxy; `sent` those that go to the server."""

    __slots__ = ("is_https", "key", "sent", "steering", "wish")

    def __init__(self, key: Key, wish: Wish, said: Section, sent: Section, *, is_https: bool) -> None:
        self.key = key
        self.wish = wish
        self.sent = sent
        self.steering = steering(said)
        self.is_https = is_https

    @property
    def group(self) -> tuple[Key, bytes, bool]:
        """The same for those who may get the same answer, as far as one can tell before there is one."""
        return self.key, self.steering, self.is_https


class Entry:
    """One object."""

    __slots__ = (
        "body", "encoded", "fresh", "heads", "is_https", "key", "names", "response", "selected", "size", "steering"
    )  # fmt: skip

    def __init__(self, question: Question, names: tuple[bytes, ...], response: Response, fresh: Freshness) -> None:
        self.key = question.key
        self.is_https = question.is_https
        self.steering = question.steering
        self.names = names
        self.selected = selected(names, question.sent)
        self.response = response
        """Its head; with everything of it once the object is stored."""
        self.fresh = fresh
        self.body = b""
        self.encoded: dict[bytes, bytes] = {}
        """The content in other codings, as far as anybody has asked for these."""
        self.heads: dict[bytes, Response] = {}
        self.size = 0

    def head(self, response: Response, coding: bytes, length: int) -> Response:
        """`response`, which is its own or what rules have made of it, as it is with so many octets in a coding; with
        none, as it is because it might have had one."""
        if response is not self.response:
            return encoded(response, coding, length) if coding else varied(response)
        known = self.heads.get(coding)
        if known is None:
            known = self.heads[coding] = encoded(response, coding, length) if coding else varied(response)
        return known

    def answers(self, question: Question) -> bool:
        """Whether it was chosen as `question` chooses (RFC 9111 section 4.1)."""
        return (
            self.is_https == question.is_https
            and self.steering == question.steering
            and (not self.names or self.selected == selected(self.names, question.sent))
        )

    def replaces(self, other: Entry) -> bool:
        """Whether it was chosen by the same."""
        return (
            self.is_https == other.is_https
            and self.steering == other.steering
            and self.names == other.names
            and self.selected == other.selected
        )


class Capture:
    """A response on its way to a client that is to be kept: `add` its content, then `Cache.store` it, or `drop` it."""

    __slots__ = ("_cache", "_pieces", "entry", "is_outdated", "size")

    def __init__(self, cache: Cache, entry: Entry) -> None:
        self._cache = cache
        self._pieces: list[bytes] = []
        self.entry = entry
        self.size = 0
        self.is_outdated = False
        """Something was done to what it is of since it began."""

    def add(self, data: bytes) -> bool:
        """False where it has become too large; then it is dropped."""
        self.size += len(data)
        if not self._cache.makes_room(self, len(data)):
            self.size -= len(data)
            self.drop()
            return False
        self._pieces.append(data)
        return True

    def drop(self) -> None:
        """It will not be whole."""
        self._cache.coming -= self.size
        self.size = 0
        self._pieces.clear()
        self._cache.end(self)

    def content(self) -> bytes:
        """All of it."""
        return b"".join(self._pieces)


class Cache:
    """`counters` are the backend's, which tell how much there is. Each of the workers has an equal share, and tells the
    others by `voice` what has become outdated."""

    __slots__ = (
        "_asked", "_captures", "_counters", "_entries", "_keys", "_limit", "_max_age", "_most", "_order", "_passed",
        "_process_vary", "_used", "_variants", "_voice", "coming",
    )  # fmt: skip

    def __init__(self, config: model.Cache, *, workers: int, counters: Counters, voice: Voice | None = None) -> None:
        self._voice = voice
        self._limit = config.total_max_size // workers
        self._most = min(config.max_object_size or config.total_max_size // _SHARE, self._limit // 2)
        self._max_age = config.max_age
        self._process_vary = config.process_vary
        self._variants = config.max_secondary_entries
        self._counters = counters
        self._entries: dict[Key, list[Entry]] = {}
        # What others tell of: the keys by their numbers, and what is on its way in by the numbers of its keys.
        self._keys: dict[int, Key] = {}
        self._captures: dict[int, list[Capture]] = {}
        self._order: OrderedDict[Entry, None] = OrderedDict()
        self._used = 0
        self.coming = 0
        """Octets of what is on its way in."""
        # Who waits for whose answer; and what was asked in vain, the longest ago first.
        self._asked: dict[tuple[Key, bytes, bool], list[Waiter]] = {}
        # That is by their hashes: they may be as long as heads are, and who asks for himself for nothing is not harmed.
        self._passed: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._order)

    @property
    def used(self) -> int:
        """Octets, of what is on its way in too."""
        return self._used + self.coming

    def find(self, question: Question, now: float) -> Entry | None:
        """What answers `question` at this time (Unix time)."""
        self._listen()
        entries = self._entries.get(question.key)
        if entries is None:
            return None
        for entry in reversed(entries):
            if entry.answers(question):
                if entry.fresh.suits(question.wish, now, self._max_age):
                    self._order.move_to_end(entry)
                    if entry is not entries[-1]:
                        entries.remove(entry)
                        entries.append(entry)
                    return entry
                if not entry.fresh.suits(_ANY, now, self._max_age):
                    self._remove(entry)
                return None
        return None

    def begin(
        self, question: Question, response: Response, *, untold: bytes, now: float, delay: float
    ) -> Capture | None:
        """If the response that has come `now`, `delay` seconds after it was asked for, is to be kept. `untold`: a field
        that servers get and that does not stand in the sections looked at here."""
        fresh = judge(question.wish, response, now=now, delay=delay)
        if fresh is None or response.body > self._most:
            return None
        names = varies_on(response)
        if names and (not self._process_vary or untold in names):
            return None
        if len(response.fields) > self._most:
            return None
        capture = Capture(self, Entry(question, names, response, fresh))
        self._captures.setdefault(_number(question.key), []).append(capture)
        return capture

    def end(self, capture: Capture) -> None:
        """It is here, or will not come."""
        number = _number(capture.entry.key)
        captures = self._captures.get(number, ())
        if capture in captures:
            captures.remove(capture)  # type: ignore[union-attr]
            if not captures:
                del self._captures[number]

    def makes_room(self, capture: Capture, size: int) -> bool:
        """Whether so many octets more of a response may come in."""
        if capture.size > self._most or self.coming + size > self._limit // _MOST_COMING:
            return False
        self.coming += size
        self._shrink(self._limit)
        return True

    def store(self, capture: Capture) -> None:
        """The response is here, whole."""
        self._listen()
        entry = capture.entry
        body = capture.content()
        capture.drop()
        if capture.is_outdated:
            return
        entry.body = body
        entry.response = kept(entry.response, len(body), entry.fresh.at)
        entry.size = _OVERHEAD + len(body) + _FORMS * len(entry.response.fields) + sum(map(len, entry.key))
        entry.size += len(entry.steering) + sum(map(len, entry.selected))
        if entry.size > self._limit // 2:
            return
        self._passed.pop(hash((entry.key, entry.steering, entry.is_https)), None)
        entries = self._entries.setdefault(entry.key, [])
        self._keys[_number(entry.key)] = entry.key
        for other in entries:
            if other.replaces(entry):
                self._forget(other, entries)
                break
        while len(entries) >= self._variants:
            self._forget(entries[0], entries)
        entries.append(entry)
        self._order[entry] = None
        self._used += entry.size
        self._shrink(self._limit)
        self._tell()

    def keep_encoded(self, entry: Entry, coding: bytes, octets: bytes) -> None:
        """Keep an object's content in a coding too, if the object is still here."""
        if entry in self._order and coding not in entry.encoded:
            entry.encoded[coding] = octets
            size = len(octets) + _FORMS * len(entry.response.fields)
            entry.size += size
            self._used += size
            self._order.move_to_end(entry)
            self._shrink(self._limit)
            self._tell()

    # Who asks the server

    def is_asked(self, question: Question, waiter: Waiter, *, leads: bool) -> bool | None:
        """Whether another one asks already, for whose answer `waiter` then waits. False: it is to ask for others too,
        and to tell them by `pass_by`, `let_in` or `give_up`; if it `leads`. None: it is to ask for itself."""
        group = question.group
        if question.wish.has_credentials or hash(group) in self._passed:
            return None
        waiting = self._asked.get(group)
        if waiting is None:
            if not leads:
                return None
            self._asked[group] = []
            return False
        waiting.append(waiter)
        return True

    def pass_by(self, question: Question) -> None:
        """The answer is not for everybody: all are to ask for themselves, now and in future."""
        self._passed[hash(question.group)] = None
        if len(self._passed) > _MOST_PASSED:
            self._passed.popitem(last=False)
        self.let_in(question)

    def let_in(self, question: Question) -> None:
        """The answer is here."""
        for waiter in self._asked.pop(question.group, ()):
            waiter.go_on(leads=False)

    def give_up(self, question: Question) -> None:
        """There is no answer: the next one is to ask."""
        waiting = self._asked.get(question.group)
        if waiting:
            waiting.pop(0).go_on(leads=True)
        else:
            self._asked.pop(question.group, None)

    def leave(self, question: Question, waiter: Waiter) -> None:
        """Wait no more."""
        waiting = self._asked.get(question.group)
        if waiting is not None and waiter in waiting:
            waiting.remove(waiter)

    # Coming and going

    def invalidate(self, key: Key) -> None:
        """Something was done to what stands there (RFC 9111 section 4.4), here or in another worker."""
        number = _number(key)
        self._outdate(number)
        if self._voice is not None:
            self._voice.tell(number)

    def _outdate(self, number: int) -> None:
        for capture in self._captures.get(number, ()):
            capture.is_outdated = True
        key = self._keys.pop(number, None)
        if key is not None:
            for entry in self._entries.pop(key, ()):
                del self._order[entry]
                self._used -= entry.size
            self._tell()

    def _listen(self) -> None:
        """Forget what other workers say is outdated."""
        news = self._voice.heard() if self._voice is not None else ()
        if news is None:
            # More than there is room to tell of.
            for number in [*self._keys, *self._captures]:
                self._outdate(number)
            return
        for number in news:
            self._outdate(number)

    def _shrink(self, limit: int) -> None:
        while self.used > limit and self._order:
            self._remove(next(iter(self._order)))

    def _remove(self, entry: Entry) -> None:
        entries = self._entries[entry.key]
        self._forget(entry, entries)
        if not entries:
            del self._entries[entry.key]
            self._keys.pop(_number(entry.key), None)
        self._tell()

    def _forget(self, entry: Entry, entries: list[Entry]) -> None:
        entries.remove(entry)
        del self._order[entry]
        self._used -= entry.size

    def _tell(self) -> None:
        self._counters.cache_objects = len(self._order)
        self._counters.cache_octets = self._used


def _number(key: Key) -> int:
    """What stands for a key among workers, also those of another interpreter; signed, 64 bits."""
    digest = hashlib.blake2b(b"\n".join(key), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
