"""Flows, and the sockets that clients send to."""

from __future__ import annotations

import asyncio
import errno
import os
import socket

import pytest

from balancer.pool.orders import Admin, Condition, ServerState
from balancer.pool.records import UdpRecord
from balancer.proxy.udp import FlowForwarder, Receiver, connected
from tests.proxy.datagrams import Faulty, Udp, backend, closed_port, house, run, until


def flow_house(*servers, needs="", **settings):
    return house(FlowForwarder, backend(*(server.address for server in servers), needs=needs), **settings)


async def echo(client, server, data=b"ping"):
    """One datagram there and back; gives the forwarder's address towards the server."""
    client.send(data)
    got, forwarder = await server.take()
    assert got == data
    server.send(b"re: " + data[:60000], forwarder)
    assert await client.recv() == b"re: " + data[:60000]
    return forwarder


# Flows


def test_a_client_stays_with_its_server_and_the_next_client_gets_the_next():
    async def main():
        servers = [Udp(), Udp()]
        it = flow_house(*servers)
        for server in servers * 2:
            client = it.client()
            ports = {await echo(client, server) for _ in range(5)}
            assert len(ports) == 1
        assert it.forwarder.outstanding == 4
        it.close()

    run(main)


def test_a_flow_carries_any_number_of_answers_and_what_the_server_sends_on_its_own():
    async def main():
        server = Udp()
        it = flow_house(server)
        client = it.client()
        forwarder = await echo(client, server)
        for i in range(100):
            server.send(bytes((i,)), forwarder)
        assert [await client.recv() for _ in range(100)] == [bytes((i,)) for i in range(100)]
        it.close()

    run(main)


@pytest.mark.parametrize("size", [0, 1, 1500, 9000, 60000, 65507])
def test_any_size_passes_both_ways(size):
    async def main():
        server = Udp()
        it = flow_house(server)
        client = it.client()
        data = os.urandom(size)
        client.send(data)
        got, forwarder = await server.take()
        assert got == data
        server.send(data, forwarder)
        assert await client.recv() == data
        it.close()

    run(main)


def test_a_flow_ends_when_it_has_been_idle():
    async def main():
        servers = [Udp(), Udp()]
        it = flow_house(*servers, timeout=30.0)
        client = it.client()
        await echo(client, servers[0])
        it.later(29)
        before = await echo(client, servers[0])
        it.later(2)
        it.later(27)
        assert it.forwarder.outstanding == 1
        it.later(1.5)
        assert it.forwarder.outstanding == 0
        assert await echo(client, servers[1]) != before
        it.close()

    run(main)


def test_an_answer_keeps_a_flow_alive():
    async def main():
        server = Udp()
        it = flow_house(server, timeout=30.0)
        client = it.client()
        forwarder = await echo(client, server)
        it.later(20)
        server.send(b"news", forwarder)
        assert await client.recv() == b"news"
        it.later(20)
        assert it.forwarder.outstanding == 1
        it.close()

    run(main)


def test_a_flow_ends_after_as_many_answers_as_configured_for_each_datagram():
    async def main():
        servers = [Udp(), Udp()]
        it = flow_house(*servers, responses=1)
        client = it.client()
        await echo(client, servers[0])
        await until(lambda: it.forwarder.outstanding == 0)
        client.send(b"one")
        client.send(b"two")
        first, forwarder = await servers[1].take()
        second, _ = await servers[1].take()
        servers[1].send(first, forwarder)
        assert await client.recv() == b"one"
        assert it.forwarder.outstanding == 1
        servers[1].send(second, forwarder)
        assert await client.recv() == b"two"
        await until(lambda: it.forwarder.outstanding == 0)
        it.close()

    run(main)


def test_without_answers_to_come_every_datagram_is_balanced_on_its_own():
    async def main():
        servers = [Udp(), Udp()]
        it = flow_house(*servers, responses=0)
        client = it.client()
        for turn in range(6):
            client.send(b"<13>a line")
            assert await servers[turn % 2].recv() == b"<13>a line"
        await until(lambda: len(it.records) == 6)
        assert {record.termination for record in it.records} == {"--"}
        assert it.forwarder.outstanding == 0
        it.close()

    run(main)


def test_ended_flows_do_not_pile_up():
    async def main():
        server = Udp()
        it = flow_house(server, responses=0, log=None)
        client = it.client()
        for _ in range(3000):
            client.send(b"x")
            await server.recv()
        it.later(0.1)
        assert len(it.forwarder._due) <= 1024
        it.close()

    run(main)


def test_datagrams_of_new_clients_are_dropped_when_there_are_too_many():
    async def main():
        server = Udp()
        it = flow_house(server, max_flows=2)
        clients = [it.client() for _ in range(3)]
        for client in clients[:2]:
            await echo(client, server)
        clients[2].send(b"in vain")
        await until(lambda: it.counters.udp_dropped == 1)
        for client in clients[:2]:
            await echo(client, server)
        it.later(31)
        await echo(clients[2], server)
        it.close()

    run(main)


# Servers that fail


def test_a_flow_moves_with_its_next_datagram_when_its_server_goes_down():
    async def main():
        servers = [Udp(), Udp()]
        it = flow_house(*servers)
        client = it.client()
        await echo(client, servers[0])
        it.down(0)
        await echo(client, servers[1])
        await echo(client, servers[1])
        left, joined = (server.counters for server in it.backend.servers)
        assert (left.scur, left.wredis, joined.scur, joined.wredis) == (0, 1, 1, 0)
        it.close()

    run(main)


def test_a_drained_server_keeps_its_flows_and_one_in_maintenance_does_not():
    async def main():
        servers = [Udp(), Udp()]
        it = flow_house(*servers)
        client, other = it.client(), it.client()
        await echo(client, servers[0])
        it.backend.servers[0].apply(ServerState(condition=Condition.UP, admin=Admin.DRAIN))
        it.backend.refresh()
        await echo(client, servers[0])
        await echo(other, servers[1])
        it.backend.servers[0].apply(ServerState(condition=Condition.UP, admin=Admin.MAINT))
        await echo(client, servers[1])
        it.close()

    run(main)


def test_a_flow_moves_when_its_servers_address_changes():
    async def main():
        old, new = Udp(), Udp()
        it = flow_house(old)
        client = it.client()
        await echo(client, old)
        it.backend.servers[0].sockaddr = new.address
        await echo(client, new)
        it.close()

    run(main)


def test_a_flow_that_is_refused_goes_elsewhere_with_its_next_datagram():
    async def main():
        server = Udp()
        it = house(FlowForwarder, backend(closed_port(), server.address))
        client = it.client()
        client.send(b"lost")
        await until(lambda: it.backend.servers[0].counters.econ == 1)
        for _ in range(3):
            await echo(client, server)
        assert it.counters.stot == 1
        assert it.backend.servers[0].counters.scur == 0
        it.close()

    run(main)


def test_a_datagram_whose_server_refuses_as_it_is_sent_goes_to_another():
    async def main():
        servers = [Udp(), Udp()]
        it = flow_house(*servers)
        client = it.client()
        await echo(client, servers[0])
        servers[0].close()
        ((flow,),) = (table.values() for table in it.forwarder._tables.values())
        # The second send meets the refusal of the first, before the loop has had a look at the socket.
        flow.leg.sock.send(b"probe")
        assert it.forwarder._to_server(flow, b"data")
        assert await servers[1].recv() == b"data"
        it.close()

    run(main)


def test_when_every_server_refuses_the_datagram_is_dropped_and_the_flow_goes_on():
    async def main():
        it = house(FlowForwarder, backend(closed_port(), closed_port()))
        client = it.client()
        for turn in range(1, 5):
            client.send(b"lost")
            await until(lambda count=turn: sum(server.counters.econ for server in it.backend.servers) == count)
        it.later(31)
        assert [record.termination for record in it.records] == ["SC"]
        it.close()

    run(main)


def test_without_a_usable_server_datagrams_are_dropped():
    async def main():
        server = Udp()
        it = flow_house(server)
        it.down(0)
        client = it.client()
        client.send(b"lost")
        await until(lambda: it.counters.udp_dropped == 1)
        assert it.forwarder.outstanding == 0
        assert (it.records[0].server, it.records[0].termination) == ("<NOSRV>", "SC")
        assert it.backend.counters.econ == 1
        it.close()

    run(main)


def test_a_server_whose_name_is_not_resolved_is_one_that_fails():
    async def main():
        server = Udp()
        it = flow_house(server, server)
        it.backend.servers[0].sockaddr = None
        await echo(it.client(), server)
        unresolved = it.backend.servers[0].counters
        assert (unresolved.econ, unresolved.scur) == (1, 0)
        it.close()

    run(main)


def test_answers_of_strangers_do_not_arrive():
    async def main():
        server, stranger = Udp(), Udp()
        it = flow_house(server)
        client = it.client()
        forwarder = await echo(client, server)
        stranger.send(b"forged", forwarder)
        server.send(b"true", forwarder)
        assert await client.recv() == b"true"
        assert client.is_silent()
        it.close()

    run(main)


# Trouble on this machine


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOBUFS])
def test_a_flow_that_this_machine_has_no_room_for_is_dropped_without_a_record(monkeypatch, code):
    async def main():
        server = Udp()
        it = flow_house(server)
        client = it.client()
        with monkeypatch.context() as patch:
            patch.setattr("balancer.proxy.udp.connected", Faulty(code))
            client.send(b"lost")
            await until(lambda: it.counters.udp_dropped == 1)
        assert it.forwarder.outstanding == 0
        assert not it.records
        await echo(client, server)
        it.close()

    run(main)


def test_an_answer_that_this_machine_cannot_send_is_dropped(monkeypatch):
    async def main():
        server = Udp()
        it = flow_house(server)
        client = it.client()
        forwarder = await echo(client, server)
        with monkeypatch.context() as patch:
            patch.setattr(Receiver, "send", lambda _, answers: len(answers))
            server.send(b"lost", forwarder)
            await until(lambda: it.counters.udp_dropped == 1)
        await echo(client, server)
        it.close()

    run(main)


# Addresses


def test_the_same_client_has_a_flow_for_each_address_it_calls():
    async def main():
        servers = [Udp(), Udp()]
        it = flow_house(*servers, binds=("0.0.0.0",))
        client = Udp("0.0.0.0")
        for host, server in (("127.0.0.1", servers[0]), ("127.0.0.2", servers[1]), ("127.0.0.1", servers[0])):
            client.send(b"ping", (host, it.listeners[0].port))
            _, forwarder = await server.take()
            server.send(b"pong", forwarder)
            assert await client.take() == (b"pong", (host, it.listeners[0].port))
        assert it.forwarder.outstanding == 2
        it.close()

    run(main)


def test_two_binds_keep_their_flows_apart():
    async def main():
        servers = [Udp("::1"), Udp("::1")]
        it = flow_house(*servers, binds=("::1", "::1"))
        client = Udp("::1")
        for listener, server in zip(it.listeners, servers, strict=True):
            client.send(b"ping", listener.address)
            _, forwarder = await server.take()
            server.send(b"pong", forwarder)
            assert (await client.take())[1][:2] == listener.address[:2]
        it.close()

    run(main)


def test_the_key_is_the_clients_address():
    async def main():
        server = Udp()
        it = flow_house(server, needs="source")
        await echo(it.client("127.0.0.7"), server)
        assert it.backend.algorithm.keys == [bytes((127, 0, 0, 7))]
        it.close()

    run(main)


@pytest.mark.parametrize(
    ("bind", "called", "host", "octets"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.7", bytes((127, 0, 0, 7))),
        ("0.0.0.0", "127.0.0.2", "127.0.0.7", bytes((127, 0, 0, 7))),
        ("::1", "::1", "::1", bytes(15) + b"\1"),
        ("::", "::1", "::1", bytes(15) + b"\1"),
        ("::", "127.0.0.2", "127.0.0.7", bytes((127, 0, 0, 7))),
    ],
)
def test_a_client_seen_by_a_receiver(bind, called, host, octets):
    async def main():
        listener, client = Udp(bind, both_families=bind == "::"), Udp(host)
        receiver = Receiver(listener.sock)
        client.send(b"hello", (called, listener.port))
        await listener.readable()
        ((data, seen),) = receiver.receive()
        assert data == b"hello"
        mapped = bind == "::" and ":" not in host
        assert receiver.address(seen) == ("::ffff:" * mapped + host, client.port)
        assert receiver.source(seen) == octets
        assert receiver.receive() == []
        assert receiver.send([(b"answer", seen)]) == 0
        data, source = await client.take()
        assert (data, source[:2]) == (b"answer", (called, listener.port))

    run(main)


@pytest.mark.parametrize("nowhere", [None, "/run/x.sock"])
def test_there_is_no_way_to_a_server_without_an_address(nowhere):
    with pytest.raises(OSError, match="no address"):
        connected(nowhere)


def test_a_receiver_called_again_after_an_error_still_hears():
    async def main():
        listener, client = Udp(), Udp()
        receiver = Receiver(listener.sock)
        heard = asyncio.Queue()

        def hear(it):
            heard.put_nowait(it.receive()[0][0])

        loop = asyncio.get_running_loop()
        for data in (b"one", b"two"):
            receiver.listen(loop, hear)
            client.send(data, listener.address)
            assert await heard.get() == data
        receiver.stop()
        receiver.stop()

    run(main)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_no_message_about_a_path_mtu_keeps_a_datagram_from_leaving(host):
    # linux/in.h and in6.h: IP_MTU_DISCOVER 10, IPV6_MTU_DISCOVER 23, PMTUDISC_DONT 0, PMTUDISC_OMIT 5.
    option = (socket.IPPROTO_IPV6, 23) if ":" in host else (socket.IPPROTO_IP, 10)

    async def main():
        listener = Udp(host)
        Receiver(listener.sock)
        assert listener.sock.getsockopt(*option) == 5
        with connected(listener.address) as towards_server:
            assert towards_server.getsockopt(*option) == 0

    run(main)


# Counting and logging


def test_what_is_counted_and_logged():
    async def main():
        server = Udp()
        it = flow_house(server)
        client = it.client()
        for _ in range(3):
            await echo(client, server, b"ping")
        assert (it.counters.scur, it.counters.smax, it.backend.servers[0].counters.scur) == (1, 1, 1)
        it.later(31)
        assert it.records == [
            UdpRecord(
                client="127.0.0.1",
                client_port=client.port,
                began=pytest.approx(1_700_000_000 - 31),
                frontend="front",
                backend="names",
                server="s0",
                tt=pytest.approx(31_000, abs=1),
                bytes_in=12,
                bytes_out=24,
                termination="--",
                retries=0,
                query="",
            )
        ]
        front, own = it.counters, it.backend.servers[0].counters
        assert (front.stot, front.req_tot, front.udp_dropped) == (1, 3, 0)
        for row in (front, own):
            assert (row.scur, row.stot, row.bin, row.bout) == (0, 1, 12, 24)
        assert own.lastsess == 1_700_000_000
        assert own.ttime == own.ttime_max == pytest.approx(31_000_000, abs=1)
        assert it.backend.counters.total_times[25] == sum(it.backend.counters.total_times) == 1
        it.close()

    run(main)


def test_a_flow_without_any_answer_is_logged_as_such():
    async def main():
        server = Udp()
        it = flow_house(server)
        it.client().send(b"anybody?")
        await server.recv()
        it.later(31)
        assert it.records[0].termination == "sH"
        it.close()

    run(main)


def test_answers_still_pass_after_listening_has_stopped():
    async def main():
        server = Udp()
        it = flow_house(server)
        client = it.client()
        forwarder = await echo(client, server)
        it.forwarder.stop_accepting()
        server.send(b"the rest", forwarder)
        assert await client.recv() == b"the rest"
        client.send(b"too late")
        assert it.forwarder.outstanding == 1
        it.close()
        assert server.is_silent()

    run(main)


def test_who_is_refused_begins_no_flow_and_those_that_there_are_go_on():
    async def main():
        server = Udp()
        it = flow_house(server)
        first, second = it.client(), it.client()
        await echo(first, server)
        it.forwarder.refuse()
        second.send(b"ping")
        await until(lambda: it.counters.udp_dropped == 1)
        await echo(first, server)
        assert server.is_silent() and it.forwarder.outstanding == 1
        it.forwarder.admit()
        await echo(second, server)
        it.close()

    run(main)
