from __future__ import annotations

import asyncio
import json
import socket
import time

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from balancer.daemon import errands
from balancer.daemon.errands import Asking, Outcome, take
from balancer.daemon.memory import Line
from balancer.errors import NoSuchRouterError


class Router:
    """Does as it is told, and remembers it."""

    def __init__(self) -> None:
        self.done: list[tuple[object, ...]] = []

    def release(self, name: str | None, seconds: float) -> list[str]:
        if name == "nosuch":
            raise NoSuchRouterError("there is no nosuch; there is VI")
        self.done.append(("release", name, seconds))
        return [f"{name}: released for {seconds:g} s"]

    def hold(self, name: str | None) -> list[str]:
        self.done.append(("hold", name))
        return []


@pytest.fixture
def line():
    it = Line(*socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    for end in it:
        end.setblocking(False)
    yield it
    it.close()


@pytest.fixture
def router():
    return Router()


def run(main):
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(asyncio.wait_for(main, 20))


def asked(line, router, *order, pause: float = 0.0):
    """What came of an order, with a supervisor that takes what comes."""

    async def main() -> Outcome:
        loop = asyncio.get_running_loop()
        loop.add_reader(line.supervisor.fileno(), lambda: loop.call_later(pause, take, line.supervisor, router))
        asking = Asking(line.control)
        asking.attach(loop)
        return await asking.ask(*order)

    return run(main())


def order(body: bytes, *, wanted: float = 4.0) -> bytes:
    """A packet that wants what `body` says for so many seconds from now."""
    return b'{"id": 1, "until": %a, %b}' % (time.monotonic() + wanted, body)


def answer_to(packet: bytes, line, router):
    line.control.send(packet)
    assert take(line.supervisor, router)
    return json.loads(line.control.recv(65536))


def test_an_order_is_done_and_answered(line, router):
    assert asked(line, router, "release", "VI", 90.5) == Outcome(True, ("VI: released for 90.5 s",))
    assert asked(line, router, "hold", None) == Outcome(True, ())
    assert router.done == [("release", "VI", 90.5), ("hold", None)]


def test_that_there_is_no_such_router_comes_back(line, router):
    assert asked(line, router, "release", "nosuch", 1.0) == Outcome(False, ("there is no nosuch; there is VI",))


def test_each_asker_gets_its_own_answer(line, router):
    async def main() -> list[Outcome]:
        loop = asyncio.get_running_loop()
        loop.add_reader(line.supervisor.fileno(), take, line.supervisor, router)
        asking = Asking(line.control)
        asking.attach(loop)
        return await asyncio.gather(*(asking.ask("release", f"VI{i}", float(i)) for i in range(1, 20)))

    assert [outcome.lines for outcome in run(main())] == [(f"VI{i}: released for {i} s",) for i in range(1, 20)]


def test_a_supervisor_that_is_stuck_is_not_waited_for_long(line, monkeypatch):
    monkeypatch.setattr(errands, "_PATIENCE", 0.05)

    async def main() -> list[Outcome]:
        asking = Asking(line.control)
        asking.attach(asyncio.get_running_loop())
        # More than the socket holds: those that do not go in are not waited for at all.
        return await asyncio.gather(*(asking.ask("hold", "x" * 100) for _ in range(1000)))

    assert set(run(main())) == {Outcome(False, ("The supervisor does not answer; the order has expired.",))}


def test_what_was_not_done_in_time_is_not_done_later(line, router, monkeypatch):
    monkeypatch.setattr(errands, "_PATIENCE", 0.1)
    monkeypatch.setattr(errands, "_WANTED", 0.05)

    async def main() -> Outcome:
        asking = Asking(line.control)
        asking.attach(asyncio.get_running_loop())
        return await asking.ask("release", "VI", 3600.0)

    assert not run(main()).is_done
    assert take(line.supervisor, router)
    assert router.done == []
    assert json.loads(line.control.recv(65536))["lines"] == ["This order has waited for too long; nothing was done."]


def test_an_order_is_wanted_for_less_long_than_its_answer():
    assert errands._WANTED < errands._PATIENCE


def test_what_the_one_before_asked_is_nobodys_answer(line, router):
    line.control.send(order(b'"order": "hold", "name": null, "seconds": null'))
    line.supervisor.setblocking(False)
    take(line.supervisor, router)
    line.supervisor.send(b"[]")
    line.supervisor.send(b"nothing")
    line.supervisor.send(b'{"id": {}}')
    assert asked(line, router, "release", "VI", 1.0) == Outcome(True, ("VI: released for 1 s",))


BAD = [
    b"nothing", b"\xff", b"[]", b"7", b"null", b"{}", b'{"id": "1", "order": "hold"}', b'{"id": true, "order": "hold"}',
    b'{"id": -1, "order": "hold"}', b'{"id": 1e3, "order": "hold"}', b'{"id": 9999999999999999999999, "order": "hold"}',
    b'{"id": 1}', b'{"id": 1, "order": "hold", "name": null}',
    *(b'{"id": 1, "order": "hold", "name": null, "until": %b}' % until for until in (
        b"null", b'"1"', b"true", b"[]", b"NaN", b"Infinity", b"1e999", b"1" * 400)),
    b"[" * 4000, b'{"a":' * 800, b"1" * 4096,
]  # fmt: skip
BAD_BODIES = [
    b'"order": "stop"', b'"order": ["hold"]', b'"name": null',
    b'"order": "hold", "name": 7',
    b'"order": "hold", "name": ""', b'"order": "hold", "name": ["VI"]',
    b'"order": "hold", "name": "' + b"x" * 129 + b'"',
    *(b'"order": "release", "name": "VI", "seconds": %b' % seconds for seconds in (
        b"null", b'"1"', b"0", b"-1", b"NaN", b"true", b"[]")),
    b'"order": "release", "name": "VI"',
    b'"order": "hold", "name": null, "more": "' + b"x" * 5000 + b'"',
]  # fmt: skip


@pytest.mark.parametrize("packet", BAD, ids=lambda packet: packet[:60].decode("latin-1"))
def test_what_is_no_order_is_answered_so_and_does_nothing(line, router, packet):
    answer = answer_to(packet, line, router)
    assert answer["ok"] is False
    assert len(answer["lines"]) == 1 and answer["lines"][0].startswith("This order cannot be understood")
    assert router.done == []


@pytest.mark.parametrize("body", BAD_BODIES, ids=lambda body: body[:60].decode("latin-1"))
def test_what_wants_nothing_that_can_be_done_is_no_order(line, router, body):
    test_what_is_no_order_is_answered_so_and_does_nothing(line, router, order(body))


def test_an_order_for_some_later_time_is_none(line, router):
    answer = answer_to(order(b'"order": "hold", "name": null', wanted=60), line, router)
    assert answer["lines"] == ["This order cannot be understood: it does not say until when it is wanted."]
    assert router.done == []


@pytest.mark.parametrize("seconds", [b"2592001", b"34560000.0", b"Infinity", b"1e999", b"1" * 300])
def test_too_long_a_release_is_told_what_is_allowed(line, router, seconds):
    answer = answer_to(order(b'"order": "release", "name": "VI", "seconds": %b' % seconds), line, router)
    assert (answer["ok"], answer["lines"]) == (False, ["Addresses can be released for 30d at the most."])
    assert router.done == []


@given(st.binary(min_size=1, max_size=300))
def test_no_octets_do_any_harm(octets):
    line, router = Line(*socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)), Router()
    try:
        for end in line:
            end.setblocking(False)
        assert answer_to(octets, line, router)["ok"] is False
        assert not router.done
    finally:
        line.close()


def test_an_order_is_kept_within_bounds(line, router):
    answer_to(order(b'"order": "release", "name": null, "seconds": 2592000'), line, router)
    assert router.done == [("release", None, errands.LONGEST_RELEASE)]


def test_a_flood_is_taken_a_little_at_a_time(line, router):
    packet = order(b'"order": "hold", "name": null')
    sent = 0
    try:
        while True:
            line.control.send(packet)
            sent += 1
    except BlockingIOError:
        pass
    taken = 0
    while take(line.supervisor, router):
        assert 0 < len(router.done) - taken <= 4
        taken = len(router.done)
    assert taken == sent, "answers that nobody reads are lost, orders are not"
    assert not take(line.supervisor, router)
