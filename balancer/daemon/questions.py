"""What control asks of the process `kernel`, and the answers, which may be long.

    control ── {"id": 7, "ask": "rules"} ──► kernel
            ◄── 7, more, octets ────────────
            ◄── 7, last, octets ────────────

A packet each. Control may be anybody's by now: what it asks is bounded, and answered only so often. What takes long
is answered by a process made for it, so that `kernel` does not wait for it when a server fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import resource
import select
import signal
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

from balancer.daemon import privileges
from balancer.errors import BalancerError

__all__ = ["HEAD", "LAST", "LONGEST_ANSWER", "MORE", "PIECE", "Answer", "Answering", "Asking"]

LONGEST_ANSWER = 32 << 20
"""Octets; what is longer is cut off."""
_LONGEST_QUESTION = 1024
PIECE = 32 << 10
HEAD = struct.Struct("=QB")
MORE, LAST, _FAILED = range(3)
# Pieces taken in one go.
_MOST = 32
# Questions that wait for a process to answer them.
_MOST_WAITING = 8
# What such a process may take: seconds, a little less than anybody waits, and octets; how nice it is (nice(2)).
_LONGEST, _MOST_MEMORY, _MODEST = 10, 1 << 30, 3
_TOO_MUCH = b"It takes more time or memory to tell than is good for this host: ask nft(8) or conntrack(8)."
# After an answer, this many times the time that it took belongs to other work.
_REST = 3
# Seconds. The rules of thousands of services take one or two to list.
_PATIENCE = 12.0


class Answer(NamedTuple):
    """What was said, and whether it is what was asked for: else it says why not."""

    is_good: bool
    octets: bytes


class _Question(NamedTuple):
    number: int
    asked: str
    is_numeric: bool


class Answering:
    """In the process `kernel`: takes questions from `line`, one at a time. `answer` gets the question and whether
    names are unwanted; BalancerError or OSError: why there is no answer. `aside`: what is answered by a process of its
    own, one at a time too; `reap` is to be called when there may be one less (SIGCHLD)."""

    def __init__(
        self, line: socket.socket, answer: Callable[[str, bool], bytes], *, aside: Collection[str] = ()
    ) -> None:
        self._line = line
        self._answer = answer
        self._aside = aside
        self._number = 0
        self._left: memoryview | None = None
        self._end = LAST
        self._not_before = 0.0
        self._waiting: deque[_Question] = deque()
        self._child = 0
        self._of_child = _Question(0, "", False)
        self._child_since = self._next_child_at = 0.0

    @property
    def is_sending(self) -> bool:
        """Wait until the line can be written to; else until it can be read from, but not before `due`."""
        return self._left is not None

    @property
    def due(self) -> float:
        """Monotonic seconds."""
        return self._not_before

    def turn(self) -> None:
        """Take a question, or go on with an answer; never blocks on the line."""
        if self._left is None and time.monotonic() >= self._not_before:
            self._take()
        while self._left is not None:
            piece, rest = self._left[:PIECE], self._left[PIECE:]
            kind = MORE if rest else self._end
            try:
                self._line.send(HEAD.pack(self._number, kind) + piece)
            except BlockingIOError:
                return
            except OSError:
                rest = rest[:0]
            self._left = rest if rest else None

    def _take(self) -> None:
        try:
            asked = json.loads(self._line.recv(_LONGEST_QUESTION))
            question = _Question(int(asked["id"]), str(asked["ask"]), bool(asked.get("numeric")))
            if not 0 <= question.number < 1 << 64:
                return
        except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            return
        if question.asked in self._aside:
            if len(self._waiting) < _MOST_WAITING:
                self._waiting.append(question)
                self.reap()
            else:
                self._say(question, _FAILED, b"Too much is asked of the kernel process.")
            return
        began = time.monotonic()
        kind, octets = self._found(question)
        now = time.monotonic()
        self._not_before = now + _REST * (now - began)
        self._say(question, kind, octets)

    def _say(self, question: _Question, kind: int, octets: bytes) -> None:
        # An empty answer is a packet too.
        self._number, self._end, self._left = question.number, kind, memoryview(octets)

    def _found(self, question: _Question) -> tuple[int, bytes]:
        try:
            return LAST, self._answer(question.asked, question.is_numeric)[:LONGEST_ANSWER]
        except (BalancerError, OSError) as error:
            return _FAILED, str(error).encode()

    # The process aside

    @property
    def is_busy(self) -> bool:
        """Is there one, or to be one?"""
        return bool(self._child or self._waiting)

    def reap(self) -> None:
        """See whether it is over, and begin the next one."""
        now = time.monotonic()
        if self._left is not None:
            return
        if self._child:
            pid, status = os.waitpid(self._child, os.WNOHANG)
            if not pid:
                return
            self._child = 0
            self._next_child_at = now + (now - self._child_since)
            # It has said something itself, unless it was killed.
            if status:
                self._say(self._of_child, _FAILED, _TOO_MUCH)
                return
        if self._waiting and now >= self._next_child_at:
            self._begin(self._waiting.popleft(), now)

    def _begin(self, question: _Question, now: float) -> None:
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._say(question, _FAILED, f"There is no process for it: {error.strerror}.".encode())
            return
        if pid:
            self._child, self._of_child, self._child_since = pid, question, now
            return
        status = 1
        try:
            _be_modest(parent)
            kind, octets = self._found(question)
            self._send_all(question.number, kind, octets)
            status = 0
        finally:
            os._exit(status)

    def _send_all(self, number: int, kind: int, octets: bytes) -> None:
        """Blocks; the line itself must not, which another process has too."""
        poll = select.poll()
        poll.register(self._line, select.POLLOUT)
        left = memoryview(octets)
        while True:
            try:
                self._line.send(HEAD.pack(number, MORE if left[PIECE:] else kind) + left[:PIECE])
            except BlockingIOError:
                poll.poll()
                continue
            left = left[PIECE:]
            if not left:
                return


def _be_modest(parent: int) -> None:
    """In the process aside: leave processor and memory to others, and end by the time that nobody waits any more."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    privileges.die_with_parent(parent)
    signal.alarm(_LONGEST)
    os.nice(_MODEST)
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_MEMORY, _MOST_MEMORY))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


class Asking:
    """In control: asks, and puts answers together. `attach` it to the running loop first."""

    def __init__(self, line: socket.socket, *, who: str = "The kernel process") -> None:
        self._line = line
        self._who = who
        self._waiting: dict[int, tuple[asyncio.Future[Answer], bytearray]] = {}
        # An answer to a control process that has died meanwhile is none to the one in its place.
        self._numbers = itertools.count(os.getpid() << 32)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.add_reader(self._line.fileno(), self._hear)

    async def ask(self, what: str, *, is_numeric: bool = False, **details: Any) -> Answer:
        """Never fails, but there may be no answer."""
        number = next(self._numbers)
        waiting: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting, bytearray()
        try:
            self._line.send(json.dumps({"id": number, "ask": what, "numeric": is_numeric, **details}).encode())
            async with asyncio.timeout(_PATIENCE):
                return await waiting
        except (OSError, TimeoutError):
            return Answer(False, f"{self._who} does not answer.".encode())
        finally:
            del self._waiting[number]

    def _hear(self) -> None:
        for _ in range(_MOST):
            try:
                packet = self._line.recv(HEAD.size + PIECE)
            except OSError:
                return
            if len(packet) < HEAD.size:
                return
            number, kind = HEAD.unpack_from(packet)
            with contextlib.suppress(KeyError):
                waiting, octets = self._waiting[number]
                octets += packet[HEAD.size :]
                is_over = kind != MORE or len(octets) > LONGEST_ANSWER
                if is_over and not waiting.done():
                    waiting.set_result(Answer(kind == LAST, bytes(octets)))
