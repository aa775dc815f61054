"""Accepting within maxconn: who waits, in which order, and who leaves."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import resource
import socket
import struct
import time

import pytest

from balancer.pool.facts import Counters
from balancer.pool.places import Limit, Places
from balancer.pool.share import Share
from balancer.proxy.listen import Gate
from tests.proxy.rig import GET, OK, http, rig, run, tcp, turns, until


class Connection:
    def __init__(self):
        self.begun = False

    def unpark(self):
        self.begun = True


class Switch:
    """A listener that only remembers."""

    def __init__(self):
        self.accepts = False

    def resume(self):
        self.accepts = True

    def pause(self):
        self.accepts = False


class Rings(list):
    """Bells that nobody hears."""

    def __call__(self):
        self.append(True)


_made: list[Limit] = []


@pytest.fixture(autouse=True)
def _nothing_is_left():
    yield
    while _made:
        _made.pop().close()


def limited(total, processes=1, **how):
    """What each of so many processes has of a limit."""
    _made.append(Limit(memoryview(mmap.mmap(-1, Limit.size(4))), total))
    return [Share(Places(_made[-1], slot), **how) for slot in range(processes)]


def gate(limit, process=None, process_share=None):
    (share,) = limited(limit)
    it = Gate(Counters(), share, process or Counters(), process_share or limited(1000)[0], Rings())
    it.attach(Switch())
    it.admit()
    return it


def test_connections_over_the_limit_wait_in_order():
    it = gate(2)
    first, second, third, fourth = (Connection() for _ in range(4))
    assert it.enter(first) and it.enter(second)
    assert it.counters.scur == it.process.scur == 2
    assert not it.enter(third) and not it.enter(fourth)
    assert not it._listener.accepts
    it.leave()
    assert third.begun and not fourth.begun
    assert it.counters.scur == 2 and it.counters.conn_tot == 3
    assert not it._listener.accepts
    it.leave()
    assert fourth.begun
    assert it._listener.accepts, "the next one is parked"
    it.leave()
    it.leave()
    assert (it.counters.scur, it.counters.smax, it.counters.conn_tot) == (0, 2, 4)


def test_nobody_overtakes_those_who_wait():
    it = gate(1)
    first, second, third = (Connection() for _ in range(3))
    it.enter(first)
    it.enter(second)
    it.counters.scur = 0
    assert not it.enter(third)


def test_whoever_leaves_the_queue_is_not_called():
    it = gate(1)
    first, second, third = (Connection() for _ in range(3))
    it.enter(first)
    it.enter(second)
    it.enter(third)
    it.forget(second)
    it.leave()
    assert third.begun and not second.begun
    it.leave()
    assert it.counters.scur == 0 and it._listener.accepts


def test_room_in_the_process_is_room_at_every_gate():
    process = Counters()
    (share,) = limited(1)
    one, two = gate(10, process, share), gate(10, process, share)
    one.siblings = two.siblings = (one, two)
    waiting = Connection()
    assert one.enter(Connection())
    assert not two.enter(waiting)
    one.leave()
    assert waiting.begun
    assert (one.counters.scur, two.counters.scur, process.scur) == (0, 1, 1)
    two.leave()
    assert one._listener.accepts and two._listener.accepts


def test_a_stopping_gate_accepts_no_more():
    it = gate(1)
    first, waiting = Connection(), Connection()
    it.enter(first)
    it.enter(waiting)
    it.stopping = True
    it.leave()
    assert waiting.begun
    it.leave()
    assert not it._listener.accepts
    it.tidy()
    assert it.share.limit == 0, "others may have it"


@pytest.fixture
def workers():
    """Gates of one frontend in three workers: workers(limit)."""

    def make(limit, process_limit=1000, **how):
        gates = [
            Gate(Counters(), share, Counters(), of_process, Rings())
            for share, of_process in zip(limited(limit, 3, **how), limited(process_limit, 3, **how), strict=True)
        ]
        for each in gates:
            each.attach(Switch())
            each.admit()
        return gates

    return make


def hear(gates):
    """Everybody hears what was rung, until there is nothing more."""
    while any(each.ring for each in gates):
        for each in gates:
            each.ring.clear()
        for each in gates:
            each.on_ring()


def a_microsecond_passes():
    """Of those who come in the same one at several workers, any may be the first."""
    now = time.monotonic_ns() // 1000
    while time.monotonic_ns() // 1000 < now + 2:
        pass


@pytest.mark.parametrize("batch", [1, 4, 16])
@pytest.mark.parametrize("limits", [(10, 1000), (1000, 10), (10, 10)])
def test_the_limit_is_of_all_workers_and_all_of_it_is_used(workers, batch, limits):
    gates = workers(*limits, batch=batch)
    connections = []
    for i in range(40):
        connections.append(Connection())
        # Not evenly spread.
        if gates[i % 2 if i < 30 else 2].enter(connections[-1]):
            connections[-1].unpark()
        hear(gates)
    assert sum(each.counters.scur for each in gates) == 10
    assert [connection.begun for connection in connections] == [True] * 10 + [False] * 30
    for _ in range(30):
        next(each for each in gates if each.counters.scur).leave()
        hear(gates)
        assert sum(each.counters.scur for each in gates) == 10
    assert all(connection.begun for connection in connections)
    for each in gates:
        while each.counters.scur:
            each.leave()
        each.tidy()
    assert all(each._listener.accepts for each in gates)


def test_the_oldest_of_all_workers_is_next(workers):
    gates = workers(1)
    connections = [Connection() for _ in range(7)]
    gates[0].enter(connections[0])
    for connection, i in zip(connections[1:], (2, 1, 0, 0, 2, 1), strict=True):
        assert not gates[i].enter(connection)
        hear(gates)
        a_microsecond_passes()
    for n in range(1, 7):
        next(each for each in gates if each.counters.scur).leave()
        hear(gates)
        assert [connection.begun for connection in connections[1:]] == [True] * n + [False] * (6 - n)


def test_a_worker_that_hangs_holds_nobody_up(workers):
    one, hanging, patient = workers(1)
    first, second, third = (Connection() for _ in range(3))
    one.enter(first)
    hanging.enter(second)
    patient.enter(third)
    for each in (one, patient):
        each.on_ring()
    one.leave()
    patient.on_ring()
    assert not third.begun, "the other was there before"
    patient.tidy()
    assert third.begun and not second.begun


def test_a_worker_takes_no_more_than_it_has_descriptors_for():
    (share,) = limited(100, most=3, batch=2)
    it = gate(100, process_share=share)
    connections = [Connection() for _ in range(5)]
    assert [it.enter(connection) for connection in connections] == [True, True, True, False, False]
    assert not it.ring, "the others can do nothing for it"
    it.leave()
    assert connections[3].begun


def test_http_clients_over_maxconn_are_served_in_the_order_they_came():
    async def main():
        async with rig(http(frontend={"maxconn": 1}, backend={"http_reuse": "always"})) as it:
            first, server = await it.pair()
            waiting = []
            for i in range(5):
                waiting.append(await it.connect())
                await waiting[-1].send(b"GET /%d HTTP/1.1\r\nHost: t\r\n\r\n" % i)
            assert await waiting[0].is_silent()
            assert it.front.scur == it.front.smax == 1
            await server.head()
            await server.send(OK)
            await first.expect(OK)
            await first.close()
            for i, client in enumerate(waiting):
                assert (await server.head()).startswith(b"GET /%d " % i)
                await server.send(OK)
                await client.expect(OK)
                await client.close()
            await it.at_rest()
            assert (it.front.smax, it.front.conn_tot, it.front.req_tot) == (1, 6, 6)

    run(main)


def test_tcp_clients_over_maxconn_wait_and_lose_nothing():
    async def main():
        async with rig(tcp(frontend={"maxconn": 2})) as it:
            pairs = [await it.pair(b"%d" % i) for i in range(2)]
            third = await it.connect()
            await third.send(b"third")
            assert await third.is_silent()
            assert it.origin.waiting == 0
            await pairs[0][0].close()
            await pairs[0][1].is_gone()
            await pairs[0][1].close()
            server = await it.origin.accept()
            await server.expect(b"third")
            await server.send(b"at last")
            await third.expect(b"at last")
            await it.at_rest()
            assert it.front.smax == 2

    run(main)


@pytest.mark.parametrize("make", [http, tcp])
def test_a_client_that_gives_up_waiting_leaves_the_queue(make):
    async def main():
        async with rig(make(frontend={"maxconn": 1})) as it:
            first, _ = await it.pair()
            parked = [await it.connect() for _ in range(4)]
            await turns()
            gate = it.worker._gates[0]
            for client in parked[:2]:
                client.reset()
            await parked[2].close()
            if make is http:
                await until(lambda: len(gate._parked) <= 1, "three of them are gone")
            first.reset()
            await parked[3].send(b"GET /last HTTP/1.1\r\nHost: t\r\n\r\n")
            while True:
                server = await it.origin.accept()
                with contextlib.suppress(asyncio.IncompleteReadError):
                    if (await server.head()).startswith(b"GET /last "):
                        break
                await server.close()
            await it.at_rest()
            assert it.front.smax == 1
            assert not gate._parked

    run(main)


def test_a_frontend_at_the_limit_of_the_process_goes_on_when_another_has_room():
    config = http()
    config["global"] = {"maxconn": 1}
    config["frontends"]["second"] = config["frontends"]["front"] | {"bind": "127.0.0.1:{other}"}

    async def main():
        async with rig(config) as it:
            first, server = await it.pair()
            await server.head()
            other = await it.connect("second")
            await other.send(GET)
            assert await other.is_silent()
            await server.send(OK)
            await first.expect(OK)
            await first.close()
            await it.ask(other, server, b"")
            await it.at_rest()

    run(main)


@pytest.mark.parametrize("make", [http, tcp])
def test_a_client_reset_before_it_is_accepted_does_no_harm(make):
    async def main():
        async with rig(make()) as it:
            await turns()
            for _ in range(20):
                # The kernel accepts while this loop does not turn.
                with socket.create_connection(("127.0.0.1", it.port())) as sock:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await until(lambda: it.front.conn_tot == 20, "all are accepted")
            await it.at_rest()
            client = await it.connect()
            await client.send(GET)
            while True:
                server = await it.origin.accept()
                with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
                    await server.head()
                    break
            await server.send(OK)
            await client.expect(OK)
            await it.at_rest()

    run(main)


def test_out_of_file_descriptors_it_serves_again_once_there_are_some():
    async def main():
        async with rig(http(backend={"http_reuse": "always"})) as it:
            client, server = await it.pair()
            await server.head()
            await server.send(OK)
            await client.expect(OK)
            before = resource.getrlimit(resource.RLIMIT_NOFILE)
            crowd = [socket.socket() for _ in range(30)]
            for sock in crowd:
                sock.setblocking(False)
            highest = max(sock.fileno() for sock in crowd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 5, before[1]))
            try:
                for sock in crowd:
                    with contextlib.suppress(BlockingIOError):
                        sock.connect(("127.0.0.1", it.port()))
                await turns(50)
                # Whoever is in goes on.
                await it.ask(client, server)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
                for sock in crowd:
                    sock.close()
            again = await it.connect()
            await it.ask(again, server)
            await it.at_rest()

    run(main)


def test_a_listener_that_cannot_start_tries_again(monkeypatch):
    async def main():
        async with rig(http(frontend={"maxconn": 1})) as it:
            first, _ = await it.pair()
            waiting = await it.connect()
            await turns()
            (acceptor,) = it.worker._listeners[0]._acceptors
            take = acceptor._take
            failures = []

            def poor():
                failures.append(True)
                raise OSError(24, "Too many open files")

            acceptor._take = poor
            await waiting.close()
            first.reset()
            client = await it.connect()
            await until(lambda: failures, "an attempt")
            await asyncio.sleep(0.1)
            assert len(failures) == 1
            acceptor._take = take
            await client.send(GET)
            server = await it.origin.accept()
            with contextlib.suppress(asyncio.IncompleteReadError):
                await server.head()
            await it.at_rest()

    run(main)
