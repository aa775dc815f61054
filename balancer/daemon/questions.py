"""What control asks of the process `kernel`, and the answers, which may be long.

    control ── {"id": 7, "ask": "rules"} ──► kernel
            ◄── 7, more, octets ────────────
            ◄── 7, last, octets ────────────

A packet each. Control may be anybody's by now: what it asks is bounded, and answered only so often.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import NamedTuple

from balancer.errors import BalancerError

__all__ = ["LONGEST_ANSWER", "Answer", "Answering", "Asking"]

LONGEST_ANSWER = 32 << 20
"""Octets; what is longer is cut off."""
_LONGEST_QUESTION = 1024
_PIECE = 32 << 10
_HEAD = struct.Struct("=QB")
_MORE, _LAST, _FAILED = range(3)
# Pieces taken in one go.
_MOST = 32
# After an answer, this many times the time that it took belongs to other work.
_REST = 3
# Seconds. The rules of thousands of services take one or two to list.
_PATIENCE = 12.0


class Answer(NamedTuple):
    """What was said, and whether it is what was asked for: else it says why not."""

    is_good: bool
    octets: bytes


class Answering:
    """In the process `kernel`: takes questions from `line`, one at a time. `answer` gets the question and whether
    names are unwanted; BalancerError or OSError: why there is no answer."""

    def __init__(self, line: socket.socket, answer: Callable[[str, bool], bytes]) -> None:
        self._line = line
        self._answer = answer
        self._number = 0
        self._left: memoryview | None = None
        self._end = _LAST
        self._not_before = 0.0

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
            piece, rest = self._left[:_PIECE], self._left[_PIECE:]
            kind = _MORE if rest else self._end
            try:
                self._line.send(_HEAD.pack(self._number, kind) + piece)
            except BlockingIOError:
                return
            except OSError:
                rest = rest[:0]
            self._left = rest if rest else None

    def _take(self) -> None:
        try:
            question = json.loads(self._line.recv(_LONGEST_QUESTION))
            number, asked, is_numeric = int(question["id"]), str(question["ask"]), bool(question.get("numeric"))
            if not 0 <= number < 1 << 64:
                return
        except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            return
        began = time.monotonic()
        try:
            octets, self._end = self._answer(asked, is_numeric)[:LONGEST_ANSWER], _LAST
        except (BalancerError, OSError) as error:
            octets, self._end = str(error).encode(), _FAILED
        now = time.monotonic()
        self._not_before = now + _REST * (now - began)
        # An empty answer is a packet too.
        self._number, self._left = number, memoryview(octets)


class Asking:
    """In control: asks, and puts answers together. `attach` it to the running loop first."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._waiting: dict[int, tuple[asyncio.Future[Answer], bytearray]] = {}
        # An answer to a control process that has died meanwhile is none to the one in its place.
        self._numbers = itertools.count(os.getpid() << 32)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.add_reader(self._line.fileno(), self._hear)

    async def ask(self, what: str, *, is_numeric: bool = False) -> Answer:
        """Never fails, but there may be no answer."""
        number = next(self._numbers)
        waiting: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting, bytearray()
        try:
            self._line.send(json.dumps({"id": number, "ask": what, "numeric": is_numeric}).encode())
            async with asyncio.timeout(_PATIENCE):
                return await waiting
        except (OSError, TimeoutError):
            return Answer(False, b"The kernel process does not answer.")
        finally:
            del self._waiting[number]

    def _hear(self) -> None:
        for _ in range(_MOST):
            try:
                packet = self._line.recv(_HEAD.size + _PIECE)
            except OSError:
                return
            if len(packet) < _HEAD.size:
                return
            number, kind = _HEAD.unpack_from(packet)
            with contextlib.suppress(KeyError):
                waiting, octets = self._waiting[number]
                octets += packet[_HEAD.size :]
                is_over = kind != _MORE or len(octets) > LONGEST_ANSWER
                if is_over and not waiting.done():
                    waiting.set_result(Answer(kind == _LAST, bytes(octets)))
