"""What control asks of the supervisor: to release the virtual addresses by hand, and to hold them again.

    control ── {"id": 7, "until": 61.2, "order": "release", "name": "VI_E", "seconds": 3600} ──► supervisor
            ◄── {"id": 7, "ok": true, "lines": ["VI_E: released for 1h"]} ─────────────────────

A packet each, JSON. Control may be anybody's by now, it listens to the network: what it sends is a request like a
stranger's, small, checked, and answered only so often. `until` is a moment of CLOCK_MONOTONIC, which is the same in all
processes: an order that waited longer, as the supervisor was held up, is nobody's wish any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeGuard

from balancer.errors import BalancerError

__all__ = ["LONGEST_RELEASE", "Asking", "Outcome", "Router", "take"]

_DAY = 86400.0
LONGEST_RELEASE = 30 * _DAY
"""Seconds."""
_LONGEST = 4096
_LONGEST_NAME = 128
# An answer has a line for each virtual router; there are 255 of them on an interface.
_LONGEST_ANSWER = 128 * 1024
# So many are seen to in one turn.
_MOST = 4
# The supervisor is never busy for so long (seconds). An order is wanted for less: one that is done in time is heard of.
_PATIENCE = 5.0
_WANTED = 4.0


class _RefusedError(BalancerError):
    """An order that is understood, and not to be done."""


class Router(Protocol):
    """Who can do it. BalancerError where there is no virtual router of the name."""

    def release(self, name: str | None, seconds: float) -> list[str]: ...

    def hold(self, name: str | None) -> list[str]: ...


def take(line: socket.socket, router: Router) -> bool:
    """In the supervisor: do what has been asked for, but not much at once, and answer. Whether there was anything."""
    for turn in range(_MOST):
        try:
            packet = line.recv(_LONGEST)
        except OSError:
            return turn > 0
        answer = json.dumps(_do(packet, router)).encode()
        with contextlib.suppress(OSError):
            # Whoever asks and does not listen goes without.
            line.send(answer)
    return True


def _do(packet: bytes, router: Router) -> dict[str, Any]:
    number = None
    try:
        # Too deeply nested: RecursionError.
        request = json.loads(packet)
        if not isinstance(request, dict) or not _is_number(request.get("id")):
            raise ValueError("it has no number")
        number = request["id"]
        _check_time(request.get("until"))
        lines = _obey(request, router)
    except BalancerError as error:
        return {"id": number, "ok": False, "lines": [str(error)]}
    except (ValueError, RecursionError) as error:
        return {"id": number, "ok": False, "lines": [f"This order cannot be understood: {error}."]}
    return {"id": number, "ok": True, "lines": lines}


def _check_time(until: object) -> None:
    now = time.monotonic()
    if not _is_amount(until) or not until <= now + _PATIENCE:
        raise ValueError("it does not say until when it is wanted")
    if until < now:
        raise _RefusedError("This order has waited for too long; nothing was done.")


def _obey(request: dict[str, Any], router: Router) -> list[str]:
    order, name, seconds = request.get("order"), request.get("name"), request.get("seconds")
    if name is not None and not (isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME):
        raise ValueError("its name is none")
    if order == "hold":
        return router.hold(name)
    if order != "release":
        raise ValueError("it is neither release nor hold")
    if not _is_amount(seconds) or not seconds > 0:
        raise ValueError("its seconds are none")
    if seconds > LONGEST_RELEASE:
        raise _RefusedError(f"Addresses can be released for {LONGEST_RELEASE / _DAY:g}d at the most.")
    return router.release(name, float(seconds))


def _is_amount(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


class Outcome(NamedTuple):
    """What came of an order."""

    is_done: bool
    lines: tuple[str, ...]


class Asking:
    """In control: asks, and waits for the answers. `attach` it to the running loop first."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._waiting: dict[int, asyncio.Future[Outcome]] = {}
        # An answer to a control process that has died meanwhile is none to the one in its place.
        self._numbers = itertools.count(os.getpid() << 32)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.add_reader(self._line.fileno(), self._hear)

    async def ask(self, order: str, name: str | None, seconds: float | None = None) -> Outcome:
        """Have it done; never fails, but it may not be done."""
        number = next(self._numbers)
        until = time.monotonic() + _WANTED
        request = {"id": number, "until": until, "order": order, "name": name, "seconds": seconds}
        waiting: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        try:
            self._line.send(json.dumps(request).encode())
            async with asyncio.timeout(_PATIENCE):
                return await waiting
        except (OSError, TimeoutError):
            # TimeoutError is an OSError too: nobody takes it, or nobody answers.
            return Outcome(False, ("The supervisor does not answer; the order has expired.",))
        finally:
            del self._waiting[number]

    def _hear(self) -> None:
        try:
            packet = self._line.recv(_LONGEST_ANSWER)
        except OSError:
            return
        with contextlib.suppress(ValueError, KeyError, TypeError):
            answer = json.loads(packet)
            waiting = self._waiting[answer["id"]]
            if not waiting.done():
                waiting.set_result(Outcome(bool(answer["ok"]), _lines(answer["lines"])))


def _lines(given: Sequence[object]) -> tuple[str, ...]:
    return tuple(map(str, given))
