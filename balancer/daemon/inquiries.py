"""What control asks the workers: what goes on there, what was invalid, and to end one session.

    control ── {"id": 7, "ask": "sessions", …} ──► worker
            ◄── 7, more, octets ──────────────────
            ◄── 7, last, octets ──────────────────

A packet each, as `questions` has them. A worker makes an answer a piece at a time, with the traffic's turn in between;
a question that comes meanwhile waits. The workers of before a reload are asked too.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import socket
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from balancer.config.model import Config
from balancer.daemon import questions
from balancer.daemon.decisions import Former
from balancer.errors import BadRequest, BadResponse
from balancer.observe import captured as errors
from balancer.observe import sessions
from balancer.observe.columns import FIRST_ID
from balancer.observe.sessions import Asked
from balancer.pool.captures import Capture, Captures
from balancer.pool.facts import Entity, Sums
from balancer.pool.sessions import Wanted
from balancer.proxy.sessions import Moment, began, find, view
from balancer.proxy.sweep import Timed
from balancer.wire import fault
from balancer.wire.http1 import Limits

__all__ = ["Answering", "Inquiries", "Sessions", "captured"]

# Octets: a line of the runtime socket, whatever it holds.
_LONGEST_QUESTION = 128 << 10
# Of servers that are asked for in one go, beside what else stands in a question.
_LONGEST_PORTION = _LONGEST_QUESTION // 2
# Sessions described in one go: a millisecond.
_BATCH = 64
# The time that a piece took, this many times over, belongs to the traffic.
_REST = 1.0
# So many read long answers at a time; each has all of it in memory until it is read.
_MOST_LONG = 8
# A worker's heart beats three times a second. Who is silent for longer (seconds) is not asked.
_SILENCE = 5.0
_PROCESS = Entity("process", "")
_BUSY = "# Too many are being told so much already; ask again later.\n"


class Answering:
    """In a worker: `answers` has, by the name of the question, what makes its pieces."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        line: socket.socket,
        answers: Mapping[str, Callable[[dict[str, Any]], Iterator[bytes]]],
    ) -> None:
        self._loop = loop
        self._line = line
        self._answers = answers
        self._number = 0
        self._pieces: Iterator[bytes] = iter(())
        self._left: memoryview | None = None
        self._is_last = False
        loop.add_reader(line.fileno(), self._hear)

    def close(self) -> None:
        self._loop.remove_reader(self._line.fileno())
        self._loop.remove_writer(self._line.fileno())

    def _hear(self) -> None:
        try:
            asked = json.loads(self._line.recv(_LONGEST_QUESTION))
            self._number = int(asked["id"])
            answer = self._answers[asked["ask"]]
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return
        self._loop.remove_reader(self._line.fileno())
        self._pieces, self._is_last = answer(asked), False
        self._go_on()

    def _go_on(self) -> None:
        """The next piece. An answer that cannot be made ends where it is."""
        began = time.monotonic()
        try:
            piece = next(self._pieces, None)
        except (ValueError, TypeError, KeyError, AttributeError):
            piece = None
        self._is_last = piece is None
        self._left = memoryview(piece or b"")
        self._send((1 + _REST) * (time.monotonic() - began))

    def _send(self, pause: float = 0.0) -> None:
        while self._left is not None:
            part, rest = self._left[: questions.PIECE], self._left[questions.PIECE :]
            kind = questions.LAST if self._is_last and not rest else questions.MORE
            try:
                self._line.send(questions.HEAD.pack(self._number, kind) + part)
            except BlockingIOError:
                self._loop.add_writer(self._line.fileno(), self._on_room)
                return
            except OSError:
                # Nobody is there.
                self._pieces, self._is_last = iter(()), True
                rest = rest[:0]
            self._left = rest if rest else None
        if self._is_last:
            self._loop.add_reader(self._line.fileno(), self._hear)
        else:
            self._loop.call_later(pause, self._go_on)

    def _on_room(self) -> None:
        self._loop.remove_writer(self._line.fileno())
        self._send()


class Sessions:
    """In a worker: tells of what goes on, and ends it."""

    def __init__(self, members: set[Timed], slot: int, config: Config) -> None:
        self._members = members
        self._slot = slot
        self._ids = _numbers(config)

    def told(self, asked: dict[str, Any]) -> Iterator[bytes]:
        """In pieces."""
        wanted = Wanted(*asked["wanted"])
        is_whole, has_request = bool(asked["whole"]), bool(asked["request"])
        members = iter(list(self._members))
        while batch := list(itertools.islice(members, _BATCH)):
            moment = Moment.of(self._slot)
            found = (view(member, moment, whole=is_whole) for member in batch)
            texts = [
                sessions.details(each, self._ids) if is_whole else sessions.line(each, has_request=has_request)
                for each in found
                if each is not None and wanted.has(each)
            ]
            yield "".join(texts).encode("utf-8", "replace")

    def oldest(self, asked: dict[str, Any]) -> Iterator[bytes]:
        """Of what each of some servers holds, when the oldest began, in Unix time."""
        wanted = {tuple(each) for each in asked["servers"]}
        found: dict[tuple[str, str], float] = {}
        members = iter(list(self._members))
        while batch := list(itertools.islice(members, _BATCH)):
            moment = Moment.of(self._slot)
            for member in batch:
                if (held := began(member)) is not None and held[:2] in wanted:
                    found[held[:2]] = min(found.get(held[:2], math.inf), moment.wall - (moment.now - held[2]))
            yield b""
        yield json.dumps([[*server, since] for server, since in found.items()]).encode()

    def shut(self, asked: dict[str, Any]) -> Iterator[bytes]:
        """End one; whether it was there."""
        member = find(self._members, int(asked["number"]), self._slot)
        if member is not None:
            member.kill("K")
            yield b"1"


def captured(captures: Captures, _: dict[str, Any]) -> Iterator[bytes]:
    """In a worker: how many messages were refused, and the last ones, a line of JSON each."""
    yield b"%d\n" % captures.count
    for capture in list(captures.kept.values()):
        line = json.dumps(capture._replace(octets=capture.octets.hex()))  # type: ignore[arg-type]
        yield f"{line}\n".encode()


def _numbers(config: Config) -> dict[str, int]:
    """Of proxies by name, backends' behind a `/`, and of servers, as `/backend/server`."""
    names = [*config.frontends, *(f"/{name}" for name in config.backends)]
    numbers = {name: number for number, name in enumerate(names, FIRST_ID)}
    for name, backend in config.backends.items():
        numbers |= {f"/{name}/{server}": number for number, server in enumerate(backend.servers, 1)}
    return numbers


class Inquiries:
    """In control: asks all workers. `attach` it to the running loop first."""

    def __init__(self, generations: Sequence[Former]) -> None:
        """This generation, and those of before a reload."""
        self._config = generations[0].plan.config
        self._asking = [
            (generation, number, questions.Asking(inquiry.control, who="A worker"))
            for generation in generations
            for number, inquiry in enumerate(generation.memory.inquiries)
        ]
        self._long = 0

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        for _, _, asking in self._asking:
            asking.attach(loop)

    def _living(self) -> list[questions.Asking]:
        now = time.monotonic()
        found = []
        for generation, number, asking in self._asking:
            block = generation.memory.blocks[number]
            heartbeat = Sums.of(_PROCESS, [block], generation.plan.layout).counters["heartbeat"] * 1e-6
            # Zero: not started yet, or ended.
            if heartbeat and now - heartbeat < _SILENCE:
                found.append(asking)
        return found

    async def _ask(self, what: str, **details: Any) -> list[questions.Answer]:
        return await asyncio.gather(*(asking.ask(what, **details) for asking in self._living()))

    async def sessions(self, asked: Asked) -> AsyncIterator[str]:
        """What goes on, worker by worker."""
        if self._long >= _MOST_LONG:
            yield _BUSY
            return
        self._long += 1
        try:
            for asking in self._living():
                answer = await asking.ask(
                    "sessions", wanted=list(asked.wanted), whole=asked.is_whole, request=asked.has_request
                )
                yield answer.octets.decode("utf-8", "replace") if answer.is_good else f"# {answer.octets.decode()}\n"
        finally:
            self._long -= 1

    async def oldest(self, servers: Collection[tuple[str, str]]) -> dict[tuple[str, str], float]:
        """When the oldest session began of each of these (backend, server) that have one, in Unix time. A worker that
        does not answer has no say."""
        found: dict[tuple[str, str], float] = {}
        for portion in _portions(servers):
            for answer in await self._ask("oldest", servers=portion):
                if answer.is_good and answer.octets:
                    for backend, server, since in json.loads(answer.octets):
                        found[backend, server] = min(since, found.get((backend, server), math.inf))
        return found

    async def shut(self, number: int) -> bool:
        """End that session; whether there is one."""
        return any(answer.octets == b"1" for answer in await self._ask("shut", number=number))

    async def errors(self, proxy: str | None, side: str | None) -> AsyncIterator[str]:
        """The last messages that were refused, of all proxies and sides or of one (a name, or HAProxy's number)."""
        count, captures = 0, []
        for answer in await self._ask("errors"):
            first, *lines = answer.octets.splitlines() or [b"0"]
            count += int(first) if answer.is_good else 0
            captures += [_capture(line) for line in lines if answer.is_good]
        yield errors.title(time.time(), count)
        numbers = _numbers(self._config)
        if proxy is not None and proxy.isdecimal() and proxy not in numbers and f"/{proxy}" not in numbers:
            named = (name for name, number in numbers.items() if number == int(proxy) and name.count("/") < 2)
            # Nothing is named so.
            proxy = next(named, "/").removeprefix("/") or "/"
        for capture in sorted(errors.wanted(proxy, side, captures), key=lambda each: _place(each, numbers)):
            yield errors.dump(errors.Fault(capture, self._position(capture)), numbers)
            await asyncio.sleep(0)

    def _position(self, capture: Capture) -> int:
        of_all = self._config.global_
        limits = Limits(head=of_all.max_header_size, uri=of_all.max_uri_size, fields=of_all.max_headers)
        if capture.body_at >= 0:
            error = BadRequest if capture.side == "request" else BadResponse
            return fault.body_fault(capture.octets, capture.body_at, error)
        if capture.side == "request":
            return fault.request_fault(capture.octets, limits)
        return fault.response_fault(capture.octets, limits, capture.method.encode("latin-1"))


def _portions(servers: Collection[tuple[str, str]]) -> Iterator[list[list[str]]]:
    """As many at a time as a question holds; one at least, also of none."""
    portion: list[list[str]] = []
    length = 0
    for backend, server in servers:
        # With the comma and the space behind it.
        own = len(json.dumps([backend, server])) + 2
        if portion and length + own > _LONGEST_PORTION:
            yield portion
            portion, length = [], 0
        portion.append([backend, server])
        length += own
    yield portion


def _place(capture: Capture, numbers: Mapping[str, int]) -> int:
    """In the configuration's order."""
    return numbers.get(capture.proxy if capture.side == "request" else f"/{capture.proxy}", 0)


def _capture(line: bytes) -> Capture:
    capture = Capture(*json.loads(line))
    return capture._replace(octets=bytes.fromhex(capture.octets))  # type: ignore[arg-type]
