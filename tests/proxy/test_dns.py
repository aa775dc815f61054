"""A client, a server, and the forwarder between them, datagram by datagram."""

from __future__ import annotations

import errno
import os
import socket
from collections import Counter

import dns.message
import dns.rcode
import pytest

from balancer.addr import Address
from balancer.pool.records import UdpRecord
from balancer.proxy.dns import DnsForwarder
from balancer.proxy.udp import Receiver
from tests.proxy.datagrams import Faulty, Udp, backend, closed_port, house, run, until


def query(ident=0x1234, name="www.example.org", kind="A", **how):
    message = dns.message.make_query(name, kind, id=ident, **how)
    return message.to_wire()


def answer(asked, *, ident=None, flags=b"\x81\x80", rest=b""):
    """The answer to a query as a server got it."""
    return (asked[:2] if ident is None else ident) + flags + asked[4:] + rest


def is_servfail(message, asked):
    asked = dns.message.from_wire(asked)
    got = dns.message.from_wire(message)
    return asked.is_response(got) and got.rcode() == dns.rcode.SERVFAIL


def dns_house(*servers, needs="", **settings):
    return house(DnsForwarder, backend(*(server.address for server in servers), needs=needs), **settings)


def test_a_query_and_its_answer_pass_with_only_the_id_changed():
    async def main():
        server = Udp()
        it = dns_house(server)
        client = it.client()
        asked = query(use_edns=0, payload=4096) + b"\0 trailing octets"
        client.send(asked)
        got, forwarder = await server.take()
        assert got[2:] == asked[2:]
        replied = answer(got, rest=b"\xc0\xff not looked at \xff\xff")
        server.send(replied, forwarder)
        assert await client.recv() == asked[:2] + replied[2:]
        assert it.forwarder.outstanding == 0
        it.close()

    run(main)


def test_every_query_is_balanced_on_its_own():
    async def main():
        servers = [Udp(), Udp(), Udp()]
        it = dns_house(*servers)
        client = it.client()
        for turn in range(6):
            client.send(query(turn))
            assert (await servers[turn % 3].recv())[12:] == query()[12:]
        it.close()

    run(main)


def test_a_thousand_clients_with_the_same_id_answered_in_reverse():
    async def main():
        server = Udp()
        it = dns_house(server)
        clients = [it.client() for _ in range(200)]
        waiting = []
        for i, client in enumerate(clients):
            for j in range(5):
                client.send(query(0x4242, f"client{i}-{j}.example"))
                waiting.append(await server.take())
        assert len({(got[:2], forwarder) for got, forwarder in waiting}) == 1000
        for got, forwarder in reversed(waiting):
            server.send(answer(got, rest=got[12:]), forwarder)
        for i, client in enumerate(clients):
            texts = set()
            for _ in range(5):
                got = await client.recv()
                assert got[:2] == b"\x42\x42"
                texts.add(got[12:])
            assert texts == {query(0, f"client{i}-{j}.example")[12:] * 2 for j in range(5)}
        it.close()

    run(main)


@pytest.mark.parametrize("size", [512, 1500, 9000, 60000, 65507])
def test_any_size_passes_both_ways(size):
    async def main():
        server = Udp()
        it = dns_house(server)
        client = it.client()
        asked = query()
        asked += os.urandom(size - len(asked))
        client.send(asked)
        got, forwarder = await server.take()
        assert got[2:] == asked[2:]
        replied = answer(got)
        server.send(replied, forwarder)
        assert await client.recv() == asked[:2] + replied[2:]
        it.close()

    run(main)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"x" * 11,
        query()[:-1],
        answer(query()),
        query()[:4] + bytes(8) + query()[12:],
        query()[:12] + b"\xc0\x0c\0\1\0\1",
        query()[:12] + b"\x40" * 70,
    ],
    ids=["empty", "short", "cut", "answer", "no question", "pointer", "label type"],
)
def test_what_is_no_query_is_dropped_and_counted(message):
    async def main():
        server = Udp()
        it = dns_house(server)
        client = it.client()
        client.send(message)
        await until(lambda: it.counters.udp_dropped == 1)
        client.send(query(7))
        assert (await server.recv())[12:] == query()[12:]
        assert client.is_silent()
        assert (it.counters.stot, it.counters.ereq) == (1, 1)
        assert it.counters.bin == len(message) + len(query())
        it.close()

    run(main)


# Forgers


def test_five_hundred_guesses_before_the_answer_do_not_keep_it_out():
    async def main():
        server = Udp()
        it = dns_house(server)
        client = it.client()
        client.send(query())
        got, forwarder = await server.take()
        right = int.from_bytes(got[:2], "big")
        for guess in range(1, 501):
            server.send(answer(got, ident=(right ^ guess).to_bytes(2, "big"), rest=b"forged"), forwarder)
            if guess % 100 == 0:
                await until(lambda count=guess: it.counters.udp_forged + it.counters.udp_late == count)
        server.send(answer(got, rest=b"true"), forwarder)
        assert (await client.recv()).endswith(b"true")
        # A guess may hit one of the ids drawn for queries to come; it then passes for late.
        assert it.counters.udp_late <= 31
        assert client.is_silent()
        it.close()

    run(main)


@pytest.mark.parametrize(
    "forge",
    [
        lambda got: got[:2] + b"\x81\x80" + query(name="www.example.net")[4:],
        lambda got: got[:2] + b"\x81\x80" + query(kind="AAAA")[4:],
        lambda got: got,
        lambda got: got[:5],
        lambda got: b"",
        lambda got: got[:2] + b"\x81\x80" + bytes(8),
        lambda got: answer(got)[:-1],
    ],
    ids=["another name", "another type", "QR 0", "5 octets", "empty", "only a header, NOERROR", "cut"],
)
def test_a_wrong_answer_under_the_right_id_takes_nothing_from_the_right_one(forge):
    async def main():
        server = Udp()
        it = dns_house(server)
        client = it.client()
        client.send(query())
        got, forwarder = await server.take()
        server.send(forge(got), forwarder)
        await until(lambda: it.counters.udp_forged == 1)
        assert it.forwarder.outstanding == 1
        server.send(answer(got, rest=b"true"), forwarder)
        assert (await client.recv()).endswith(b"true")
        assert client.is_silent()
        it.close()

    run(main)


def test_an_answer_from_elsewhere_does_not_arrive():
    async def main():
        server, other = Udp(), Udp("127.0.0.2")
        it = dns_house(server)
        client = it.client()
        client.send(query())
        got, forwarder = await server.take()
        for stranger in (Udp("127.0.0.1"), Udp("127.0.0.2", server.port), other):
            stranger.send(answer(got, rest=b"forged"), forwarder)
        server.send(answer(got, rest=b"true"), forwarder)
        assert (await client.recv()).endswith(b"true")
        assert client.is_silent()
        it.close()

    run(main)


@pytest.mark.parametrize(
    "change",
    [
        lambda got: got[:2] + b"\x81\x85" + bytes(8),
        lambda got: got[:2] + b"\x83\x80" + got[4:],
        lambda got: got[:2] + b"\x81\x80" + got[4:].replace(b"example", b"EXAMPLE"),
        lambda got: got[:2] + b"\x81\x80" + got[4:6] + b"\xff\xff" + got[8:],
    ],
    ids=["header-only REFUSED", "TC", "changed case", "ANCOUNT 65535"],
)
def test_what_is_odd_but_an_answer_passes(change):
    async def main():
        server = Udp()
        it = dns_house(server)
        client = it.client()
        client.send(query())
        got, forwarder = await server.take()
        server.send(change(got), forwarder)
        assert await client.recv() == query()[:2] + change(got)[2:]
        it.close()

    run(main)


def test_the_second_of_two_answers_is_dropped_as_late():
    async def main():
        server = Udp()
        it = dns_house(server)
        client = it.client()
        client.send(query())
        got, forwarder = await server.take()
        server.send(answer(got, rest=b"first"), forwarder)
        server.send(answer(got, rest=b"second"), forwarder)
        assert (await client.recv()).endswith(b"first")
        await until(lambda: it.counters.udp_late == 1)
        client.send(query(8))
        got, forwarder = await server.take()
        server.send(answer(got, rest=b"its own"), forwarder)
        assert (await client.recv()).endswith(b"its own")
        assert it.counters.udp_forged == 0
        it.close()

    run(main)


def test_ids_and_ports_are_hard_to_guess():
    async def main():
        server = Udp()
        it = dns_house(server)
        client = it.client()
        ids, ports = [], Counter()
        for turn in range(4000):
            client.send(query(turn))
            got, forwarder = await server.take()
            server.send(answer(got), forwarder)
            await client.recv()
            ids.append(int.from_bytes(got[:2], "big"))
            ports[forwarder[1]] += 1
            if turn % 500 == 0:
                it.later(11)
        # 16 cells of 250 expected: above 50 once in 90 000 times by chance (15 degrees of freedom).
        for part in (lambda ident: ident >> 12, lambda ident: ident & 15):
            cells = Counter(map(part, ids))
            assert sum((cells[i] - 250) ** 2 / 250 for i in range(16)) < 50
        assert len(ports) >= 16
        assert ports.most_common(1)[0][1] < 500
        it.close()

    run(main)


def test_a_socket_uses_an_id_once_and_is_replaced_before_it_runs_out(monkeypatch):
    monkeypatch.setattr("balancer.proxy.dns._MOST_SOCKETS", 2)

    async def main():
        server = Udp()
        it = dns_house(server)
        client = it.client()
        used = Counter()
        for turn in range(12000):
            client.send(query(turn & 0xFFFF))
            if turn % 100 == 99:
                for _ in range(100):
                    got, forwarder = await server.take()
                    used[forwarder[1], got[:2]] += 1
                    server.send(answer(got), forwarder)
                for _ in range(100):
                    await client.recv()
        assert set(used.values()) == {1}
        assert max(Counter(port for port, _ in used).values()) <= 4096 + 32
        it.later(0)
        assert len(it.forwarder._channels) <= 2
        it.close()

    run(main)


def test_idle_sockets_are_closed():
    async def main():
        server = Udp()
        it = dns_house(server)
        client = it.client()
        client.send(query())
        got, forwarder = await server.take()
        server.send(answer(got), forwarder)
        await client.recv()
        it.later(11)
        it.later(11)
        assert not it.forwarder._channels
        client.send(query())
        assert (await server.take())[1] != forwarder
        it.close()

    run(main)


# Servers that fail


def test_a_query_without_an_answer_goes_to_another_server():
    async def main():
        servers = [Udp(), Udp()]
        it = dns_house(*servers)
        client = it.client()
        client.send(query())
        first = await servers[0].take()
        it.later(1.9)
        assert servers[1].is_silent()
        it.later(0.2)
        got, forwarder = await servers[1].take()
        assert got[2:] == query()[2:]
        servers[0].send(answer(first[0], rest=b"late"), first[1])
        await until(lambda: it.counters.udp_late == 1)
        servers[1].send(answer(got, rest=b"in time"), forwarder)
        assert (await client.recv()).endswith(b"in time")
        assert client.is_silent()
        slow = it.backend.servers[0].counters
        assert (slow.econ, slow.wredis) == (0, 1)
        assert it.records[0].retries == 1
        it.close()

    run(main)


def test_when_both_attempts_time_out_the_client_gets_servfail():
    async def main():
        servers = [Udp(), Udp(), Udp()]
        it = dns_house(*servers)
        client = it.client()
        asked = query(use_edns=0)
        client.send(asked)
        await servers[0].take()
        it.later(2.1)
        await until(lambda: not all(server.is_silent() for server in servers[1:]))
        assert it.forwarder.outstanding == 1
        it.later(2.1)
        assert is_servfail(await client.recv(), asked)
        assert client.is_silent()
        assert all(server.is_silent() for server in servers)
        assert it.records[0].termination == "sH"
        it.close()

    run(main)


def test_a_lone_server_that_does_not_answer_is_not_asked_twice():
    async def main():
        server = Udp()
        it = dns_house(server)
        client = it.client()
        client.send(query())
        await server.take()
        it.later(2.1)
        assert is_servfail(await client.recv(), query())
        assert server.is_silent()
        lone = it.backend.servers[0].counters
        assert (lone.econ, lone.wredis) == (1, 0)
        it.close()

    run(main)


def test_a_refused_query_goes_to_another_server_at_once():
    async def main():
        server = Udp()
        it = house(DnsForwarder, backend(closed_port(), server.address))
        client = it.client()
        for ident in range(20):
            client.send(query(ident))
            got, forwarder = await server.take()
            server.send(answer(got), forwarder)
            assert (await client.recv())[:2] == ident.to_bytes(2, "big")
        refusing = it.backend.servers[0].counters
        assert refusing.wredis > 0
        assert it.backend.servers[1].counters.econ == 0
        it.close()

    run(main)


def test_all_that_waits_for_a_server_moves_when_it_refuses():
    async def main():
        dead, alive = Udp(), Udp()
        it = dns_house(dead, alive)
        client = it.client()
        for ident in range(100):
            client.send(query(ident))
        mine = [await alive.take() for _ in range(50)]
        await until(lambda: it.forwarder.outstanding == 100)
        dead.close()
        # Only those that come now find the port closed; where one does, all that went the same way follow it.
        for ident in range(100, 120):
            client.send(query(ident))
        mine += [await alive.take() for _ in range(70)]
        for got, forwarder in mine:
            alive.send(answer(got), forwarder)
        idents = {(await client.recv())[:2] for _ in range(120)}
        assert idents == {ident.to_bytes(2, "big") for ident in range(120)}
        it.close()

    run(main)


def test_when_every_server_refuses_the_client_gets_servfail_at_once():
    async def main():
        it = house(DnsForwarder, backend(closed_port(), closed_port(), closed_port()))
        client = it.client()
        for ident in range(50):
            client.send(query(ident))
        for _ in range(50):
            got = await client.recv()
            assert is_servfail(got, query(int.from_bytes(got[:2], "big")))
        assert {record.termination for record in it.records} == {"SC"}
        assert sum(server.counters.wredis for server in it.backend.servers) == 50
        assert sum(server.counters.econ for server in it.backend.servers) == 50
        it.close()

    run(main)


def test_without_a_usable_server_the_client_gets_servfail():
    async def main():
        server = Udp()
        it = dns_house(server)
        it.down(0)
        client = it.client()
        client.send(query())
        assert is_servfail(await client.recv(), query())
        assert it.records[0].server == "<NOSRV>"
        assert it.backend.counters.econ == it.counters.intercepted == 1
        assert it.records[0].termination == "SC"
        assert server.is_silent()
        it.close()

    run(main)


def test_a_server_whose_name_is_not_resolved_is_one_that_fails():
    async def main():
        server = Udp()
        it = dns_house(server, server)
        it.backend.servers[0].sockaddr = None
        client = it.client()
        client.send(query())
        assert (await server.recv())[2:] == query()[2:]
        assert it.backend.servers[0].counters.wredis == 1
        it.close()

    run(main)


def test_a_server_whose_name_gets_another_address_is_asked_there():
    async def main():
        old, new = Udp(), Udp()
        it = dns_house(old)
        client = it.client()
        client.send(query())
        got, forwarder = await old.take()
        it.backend.servers[0].address = Address("127.0.0.1", new.port)
        it.backend.servers[0].sockaddr = new.address
        it.later(0.1)
        client.send(query(2))
        assert (await new.recv())[12:] == query()[12:]
        old.send(answer(got, rest=b"still good"), forwarder)
        assert (await client.recv()).endswith(b"still good")
        it.close()

    run(main)


# Trouble on this machine


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOBUFS, errno.EMSGSIZE])
def test_a_query_that_this_machine_cannot_send_is_dropped(code):
    async def main():
        servers = [Udp(), Udp()]
        it = dns_house(*servers)
        client = it.client()
        client.send(query())
        await servers[0].take()
        client.send(query())
        await servers[1].take()
        for channel in it.forwarder._channels:
            channel.send = Faulty(code)
        client.send(query())
        await until(lambda: it.counters.udp_dropped == 1)
        assert all(server.counters.econ + server.counters.wredis == 0 for server in it.backend.servers)
        assert it.forwarder.outstanding == 2
        it.close()

    run(main)


@pytest.mark.parametrize("code", [errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EPERM, errno.ECONNREFUSED])
def test_a_server_that_cannot_be_reached_is_left_for_another(code):
    async def main():
        servers = [Udp(), Udp()]
        it = dns_house(*servers)
        client = it.client()
        client.send(query())
        await servers[0].take()
        for channel in it.forwarder._channels:
            channel.send = Faulty(code)
        client.send(query())
        await servers[1].take()
        # This one would have been the first server's, and so would the one it holds.
        client.send(query())
        await servers[1].take()
        await servers[1].take()
        assert it.backend.servers[0].counters.wredis == 2
        it.close()

    run(main)


def test_an_answer_that_this_machine_cannot_send_is_dropped(monkeypatch):
    async def main():
        server = Udp()
        it = dns_house(server)
        client = it.client()
        with monkeypatch.context() as patch:
            patch.setattr(Receiver, "send", lambda _, answers: len(answers))
            client.send(query())
            got, forwarder = await server.take()
            server.send(answer(got), forwarder)
            await until(lambda: it.counters.udp_dropped == 1)
        assert it.forwarder.outstanding == 0
        client.send(query(3))
        got, forwarder = await server.take()
        server.send(answer(got), forwarder)
        assert (await client.recv())[:2] == b"\0\3"
        it.close()

    run(main)


def test_without_descriptors_what_is_open_serves_on(monkeypatch):
    async def main():
        server = Udp()
        it = dns_house(server)
        client = it.client()
        client.send(query())
        await server.take()
        monkeypatch.setattr("balancer.proxy.dns.connected", Faulty(errno.EMFILE))
        it.later(1)
        it.clock.now += 15
        for _ in range(100):
            client.send(query())
            got, forwarder = await server.take()
            server.send(answer(got), forwarder)
            await client.recv()
        it.close()

    run(main)


def test_a_listening_socket_outlives_an_error(monkeypatch):
    async def main():
        server = Udp()
        it = dns_house(server)
        client = it.client()
        failures = []

        def fail(receiver):
            failures.append(receiver)
            raise ConnectionAbortedError

        with monkeypatch.context() as patch:
            patch.setattr(Receiver, "receive", fail)
            client.send(query())
            await until(lambda: failures)
        assert (await server.recv())[2:] == query()[2:]
        it.close()

    run(main)


def test_answers_that_came_before_their_server_died_still_count():
    async def main():
        server = Udp()
        it = dns_house(server)
        client = it.client()
        client.send(query(1))
        client.send(query(2))
        first, forwarder = await server.take()
        await server.take()
        await until(lambda: it.forwarder.outstanding == 2)
        # All of this happens before the forwarder has its next turn.
        server.send(answer(first), forwarder)
        server.close()
        (channel,) = it.forwarder._channels
        channel.sock.send(b"into the void")
        answered, refused = await client.recv(), await client.recv()
        assert answered == query(1)[:2] + answer(first)[2:]
        assert is_servfail(refused, query(2))
        it.close()

    run(main)


def test_too_many_outstanding_queries_push_out_the_oldest():
    async def main():
        servers = [Udp(), Udp()]
        it = dns_house(*servers, max_flows=10)
        client = it.client()
        taken = []
        for ident in range(15):
            client.send(query(ident))
            taken.append(await servers[ident % 2].take())
            it.clock.now += 0.01
        await until(lambda: it.counters.udp_dropped == 5)
        assert it.forwarder.outstanding == 10
        for i, (got, forwarder) in enumerate(taken):
            servers[i % 2].send(answer(got), forwarder)
        idents = {int.from_bytes((await client.recv())[:2], "big") for _ in range(10)}
        assert idents == set(range(5, 15))
        await until(lambda: it.counters.udp_late == 5)
        it.close()

    run(main)


def test_large_queries_are_held_within_64_mebibytes():
    async def main():
        server = Udp()
        it = dns_house(server)
        client = it.client()
        big = query() + bytes(60000)
        for _ in range(1200):
            client.send(big)
            await server.take()
        await until(lambda: it.counters.udp_dropped)
        assert it.forwarder.outstanding * len(big) <= 64 << 20
        assert it.forwarder.outstanding + it.counters.udp_dropped == 1200
        it.close()

    run(main)


# Addresses


@pytest.mark.parametrize(("bind", "hosts"), [("0.0.0.0", ["127.0.0.1", "127.0.0.2", "127.9.9.9"]), ("::", ["::1"])])
def test_on_a_wildcard_bind_the_answer_leaves_from_the_address_that_was_asked(bind, hosts):
    async def main():
        server = Udp()
        it = dns_house(server, binds=(bind,))
        for host in hosts:
            # An unconnected client, so that an answer from a wrong address would be seen.
            client = Udp("::" if ":" in host else "0.0.0.0")
            client.send(query(), (host, it.listeners[0].port))
            got, forwarder = await server.take()
            server.send(answer(got), forwarder)
            replied, source = await client.take()
            assert source[:2] == (host, it.listeners[0].port)
            assert replied == query()[:2] + answer(got)[2:]
            await until(lambda: it.records)
            assert it.records.pop().client_port == client.port
        it.close()

    run(main)


def test_a_bind_for_both_families_answers_ipv4_from_the_address_that_was_asked():
    async def main():
        server = Udp()
        it = dns_house(server, binds=(Udp("::", both_families=True),), needs="source")
        client = Udp("0.0.0.0")
        client.send(query(), ("127.0.0.2", it.listeners[0].port))
        got, forwarder = await server.take()
        server.send(answer(got), forwarder)
        replied, source = await client.take()
        assert source == ("127.0.0.2", it.listeners[0].port)
        assert replied[:2] == query()[:2]
        assert it.backend.algorithm.keys == [socket.inet_aton("127.0.0.1")]
        it.close()

    run(main)


def test_each_bind_answers_its_own_clients_over_ipv4_and_ipv6():
    async def main():
        server = Udp("::1")
        it = dns_house(server, binds=("127.0.0.1", "127.0.0.2", "::1"))
        clients = [it.client("127.0.0.1"), it.client("127.0.0.1", to=1), it.client("::1", to=2)]
        for i, client in enumerate(clients):
            client.send(query(i))
        for _ in clients:
            got, forwarder = await server.take()
            assert forwarder[0] == "::1"
            server.send(answer(got), forwarder)
        for i, client in enumerate(clients):
            assert (await client.recv())[:2] == bytes((0, i))
        it.close()

    run(main)


# What the algorithm is told, what is counted and what is logged


def test_the_key_is_the_clients_address():
    async def main():
        server = Udp()
        it = dns_house(server, binds=("127.0.0.1", "::1"), needs="source")
        for client in (it.client("127.0.0.5"), it.client("::1", to=1)):
            client.send(query())
            await server.recv()
        assert it.backend.algorithm.keys == [bytes((127, 0, 0, 5)), bytes(15) + b"\1"]
        it.close()

    run(main)


def test_the_key_is_the_name_whatever_its_case():
    async def main():
        server = Udp()
        it = dns_house(server, needs="uri")
        client = it.client()
        for name in ("www.example.org", "WWW.eXample.ORG"):
            client.send(query(name=name))
            await server.recv()
        assert it.backend.algorithm.keys == [b"\3www\7example\3org\0"] * 2
        it.close()

    run(main)


def test_names_that_begin_with_a_label_of_63_have_different_keys():
    async def main():
        server = Udp()
        it = dns_house(server, needs="uri")
        client = it.client()
        for letter in "ab":
            client.send(query(name=letter * 63 + ".example"))
            await server.recv()
        assert len({key.partition(b"?")[0] for key in it.backend.algorithm.keys}) == 2
        it.close()

    run(main)


def test_the_second_attempt_has_the_key_of_the_first():
    async def main():
        servers = [Udp(), Udp()]
        it = dns_house(*servers, needs="uri")
        client = it.client()
        client.send(query())
        await servers[0].recv()
        it.later(2.1)
        await servers[1].recv()
        assert len(set(it.backend.algorithm.keys)) == 1
        it.close()

    run(main)


def test_what_is_counted_and_logged():
    async def main():
        server = Udp()
        it = dns_house(server)
        client = it.client()
        client.send(query())
        got, forwarder = await server.take()
        assert it.counters.scur == 1
        it.clock.now += 0.003
        server.send(answer(got, rest=b"rest"), forwarder)
        replied = await client.recv()
        await until(lambda: it.records)
        assert it.records == [
            UdpRecord(
                client="127.0.0.1",
                client_port=client.port,
                began=pytest.approx(1_700_000_000 - 0.003),
                frontend="front",
                backend="names",
                server="s0",
                tt=pytest.approx(3, abs=1),
                bytes_in=len(query()),
                bytes_out=len(replied),
                termination="--",
                retries=0,
                query="www.example.org. A",
            )
        ]
        front, own, times = it.counters, it.backend.servers[0].counters, it.backend.counters.response_times
        assert (front.stot, front.req_tot, front.smax, own.lbtot) == (1, 1, 1, 1)
        for row in (front, own):
            assert (row.scur, row.stot, row.bin, row.bout) == (0, 1, len(query()), len(replied))
        assert own.rtime == own.ttime == own.rtime_max == own.ttime_max == pytest.approx(3000, abs=1)
        assert (own.econ, own.wredis, own.lastsess) == (0, 0, 1_700_000_000)
        assert times[12] == sum(times) == 1
        assert (front.udp_dropped, front.udp_late, front.udp_forged) == (0, 0, 0)
        it.close()

    run(main)


def test_the_time_of_a_retried_query_begins_with_its_arrival():
    async def main():
        servers = [Udp(), Udp()]
        it = dns_house(*servers)
        client = it.client()
        client.send(query())
        await servers[0].recv()
        it.later(2.5)
        got, forwarder = await servers[1].take()
        it.clock.now += 0.5
        servers[1].send(answer(got), forwarder)
        await client.recv()
        await until(lambda: it.records)
        answered = it.backend.servers[1].counters
        assert answered.rtime == pytest.approx(500_000, abs=1)
        assert answered.ttime == pytest.approx(3_000_000, abs=1)
        assert it.records[0].tt == pytest.approx(3000, abs=1)
        it.close()

    run(main)


def test_nothing_is_logged_where_that_was_not_asked_for():
    async def main():
        server = Udp()
        it = dns_house(server, log=None)
        client = it.client()
        client.send(query())
        got, forwarder = await server.take()
        server.send(answer(got), forwarder)
        await client.recv()
        it.down(0)
        client.send(query())
        assert is_servfail(await client.recv(), query())
        it.close()

    run(main)


def test_what_is_outstanding_is_answered_after_listening_has_stopped():
    async def main():
        server = Udp()
        it = dns_house(server)
        client = it.client()
        client.send(query())
        got, forwarder = await server.take()
        it.forwarder.stop_accepting()
        client.send(query(2))
        assert it.forwarder.outstanding == 1
        server.send(answer(got), forwarder)
        assert (await client.recv())[:2] == query()[:2]
        it.later(0.1)
        assert server.is_silent()
        assert it.forwarder.outstanding == 0
        it.close()

    run(main)


def test_closing_lets_go_of_everything():
    async def main():
        servers = [Udp(), Udp()]
        it = dns_house(*servers)
        client = it.client()
        for ident in range(20):
            client.send(query(ident))
        await until(lambda: it.forwarder.outstanding == 20)
        it.close()
        assert not it.forwarder._channels

    run(main)


def test_who_is_refused_is_told_so_and_what_is_outstanding_is_answered():
    async def main():
        server = Udp()
        it = dns_house(server)
        client = it.client()
        client.send(query(1))
        got, forwarder = await server.take()
        it.forwarder.refuse()
        client.send(query(2))
        client.send(b"no query")
        assert is_servfail(await client.recv(), query(2))
        await until(lambda: it.counters.udp_dropped == 1)
        server.send(answer(got), forwarder)
        assert (await client.recv())[:2] == query(1)[:2]
        assert server.is_silent() and it.forwarder.outstanding == 0
        assert (it.counters.req_tot, it.counters.intercepted, it.counters.ereq) == (2, 1, 1)
        it.forwarder.admit()
        client.send(query(3))
        await server.take()
        # Nobody listens after this, whatever is said.
        it.forwarder.stop_accepting()
        it.forwarder.refuse()
        it.forwarder.admit()
        client.send(query(4))
        assert server.is_silent()
        it.close()

    run(main)


def test_without_any_server_clients_are_told_so():
    async def main():
        it = dns_house()
        client = it.client()
        client.send(query())
        assert is_servfail(await client.recv(), query())
        it.close()

    run(main)
