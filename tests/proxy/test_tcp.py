"""A TCP session from accept to its record, and each way it can end."""

from __future__ import annotations

import asyncio
import gc
import resource
import socket
import struct
from pathlib import Path

import pytest

from balancer.pool.orders import Condition
from balancer.proxy.stream import Stream
from balancer.proxy.tcp import Half, Session, source_key
from balancer.wire import proxyproto
from tests.proxy.rig import Origin, rig, run, tcp, turns, until

PLAIN = pytest.mark.parametrize("plain", [False, True], ids=["uvloop", "asyncio"])
MEGABYTE = b"0123456789abcdef" * 65536


def resident():
    """Octets of memory this process has at the moment."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@PLAIN
def test_octets_pass_both_ways_and_are_accounted_for(plain):
    async def main():
        async with rig(tcp()) as it:
            client, server = await it.pair(b"hello")
            await server.expect(b"hello")
            await server.send(b"and good day")
            await client.expect(b"and good day")
            assert (it.front.scur, it.back.scur, it.server().scur) == (1, 1, 1)
            client.half_close()
            assert await server.is_closed()
            await server.send(b", bye")
            await server.close()
            assert await client.rest() == b", bye"
            record = await it.record()
            assert (record.frontend, record.backend, record.server) == ("front", "back", "s0")
            assert (record.client, record.client_port) == client.address
            assert (record.termination, record.bytes_read, record.why) == ("--", 17, "")
            assert (record.retries, record.redispatched, record.tw) == (0, False, 0)
            assert 0 <= record.tc <= record.tt < 5000
            assert (record.actconn, record.feconn, record.beconn, record.srvconn) == (1, 1, 0, 0)
            await it.at_rest()
            for counters in (it.front, it.server()):
                assert (counters.bin, counters.bout, counters.stot, counters.smax) == (5, 17, 1, 1)
            assert (it.front.conn_tot, it.server().connect, it.server().lbtot) == (1, 1, 1)
            assert it.server().cli_abrt == it.server().srv_abrt == it.back.econ == 0
            assert sum(it.back.connect_times) == sum(it.back.total_times) == 1

    run(main, plain=plain)


def test_the_server_may_speak_first():
    async def main():
        async with rig(tcp()) as it:
            client = await it.connect()
            server = await it.origin.accept()
            await server.send(b"220 ready\r\n")
            await client.expect(b"220 ready\r\n")
            await client.send(b"EHLO\r\n")
            await server.expect(b"EHLO\r\n")
            await it.at_rest()

    run(main)


@PLAIN
def test_a_client_may_say_all_it_has_to_say_at_once(plain):
    async def main():
        async with rig(tcp()) as it:
            client = await it.connect()
            await client.send(b"question")
            client.half_close()
            server = await it.origin.accept()
            assert await server.rest() == b"question"
            await server.send(MEGABYTE)
            await server.close()
            assert await client.rest() == MEGABYTE
            assert (await it.record()).termination == "--"
            await it.at_rest()

    run(main, plain=plain)


@PLAIN
def test_a_server_may_end_first_and_still_be_told_more(plain):
    async def main():
        async with rig(tcp()) as it:
            client, server = await it.pair(b"x")
            server.half_close()
            assert await client.is_closed()
            await client.send(MEGABYTE)
            client.half_close()
            assert await server.rest() == b"x" + MEGABYTE
            assert (await it.record()).termination == "--"
            await it.at_rest()

    run(main, plain=plain)


def test_a_server_that_ends_at_once_is_no_fault():
    async def main():
        async with rig(tcp()) as it:
            for _ in range(20):
                client = await it.connect()
                server = await it.origin.accept()
                await server.send(b"bye")
                await server.close()
                assert await client.rest() == b"bye"
                await client.close()
                assert (await it.record()).termination == "--"
            await it.at_rest()

    run(main)


@PLAIN
@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_is_passed_on_as_a_reset(who, plain):
    async def main():
        async with rig(tcp()) as it:
            client, server = await it.pair(b"x")
            await server.expect(b"x")
            one, other = (client, server) if who == "client" else (server, client)
            one.reset()
            assert await other.is_reset()
            record = await it.record()
            assert record.termination == ("CD" if who == "client" else "SD")
            await it.at_rest()
            assert (it.server().cli_abrt, it.server().srv_abrt) == ((1, 0) if who == "client" else (0, 1))

    run(main, plain=plain)


def test_what_came_before_a_reset_arrives_before_it():
    async def main():
        async with rig(tcp()) as it:
            client, server = await it.pair(b"x")
            await server.send(b"an answer, and then the machine died")
            server.reset()
            await client.expect(b"an answer, and then the machine died")
            assert await client.is_reset()
            await it.at_rest()

    run(main)


def test_a_refused_connection_is_tried_again_and_then_given_up_with_a_reset():
    async def main():
        async with rig(tcp(retries=2, timeout={"connect": "20ms"}), [Origin()]) as it:
            it.origin.refuse()
            client = await it.connect()
            assert await client.is_reset()
            record = await it.record()
            assert (record.termination, record.retries, record.redispatched) == ("SC", 2, False)
            assert (record.server, record.tc, record.bytes_read) == ("s0", -1, 0)
            assert "back/s0: " in record.why
            await it.at_rest()
            assert (it.server().connect, it.server().wretr, it.server().wredis, it.server().econ) == (3, 2, 0, 1)

    run(main)


def test_a_refused_connection_goes_to_another_server_at_once():
    async def main():
        async with rig(tcp(2, backend={"balance": "first"}), 2) as it:
            it.origins[0].refuse()
            client = await it.connect()
            await client.send(b"precious")
            server = await it.origins[1].accept()
            await server.expect(b"precious")
            client.half_close()
            await server.close()
            record = await it.record()
            assert (record.server, record.retries, record.redispatched, record.termination) == ("s1", 1, True, "--")
            await it.at_rest()
            assert (it.server("s0").wredis, it.server("s0").econ, it.server("s0").scur) == (1, 0, 0)
            assert (it.server("s1").stot, it.server("s1").connect) == (1, 1)

    run(main)


def test_a_server_that_does_not_answer_is_given_up_after_the_connect_timeout():
    async def main():
        with socket.socket() as hole:
            # A full backlog: the kernel drops further SYNs.
            hole.bind(("127.0.0.1", 0))
            hole.listen(0)
            plugs = [socket.socket() for _ in range(3)]
            for plug in plugs:
                plug.setblocking(False)
                plug.connect_ex(hole.getsockname())
            silent = {"address": f"127.0.0.1:{hole.getsockname()[1]}"}
            async with rig(tcp(server=silent, retries=1, timeout={"connect": "100ms"})) as it:
                client = await it.connect()
                assert await client.is_reset()
                record = await it.record()
                assert (record.termination, record.retries, record.tc) == ("sC", 1, -1)
                assert 250 <= record.tt < 3000
                await it.at_rest()
                assert (it.server().econ, it.server().wretr) == (1, 1)
            for plug in plugs:
                plug.close()

    run(main)


def test_a_client_that_leaves_while_its_server_is_dialled_leaves_nothing_behind():
    async def main():
        async with rig(tcp(retries=3, timeout={"connect": "2s"})) as it:
            it.origin.refuse()
            client = await it.connect()
            await until(lambda: it.server().wretr, "the first retry")
            client.reset()
            record = await it.record()
            assert (record.termination, record.tc) == ("CC", -1)
            await it.at_rest()
            assert it.server().cli_abrt == 1

    run(main)


def test_without_a_server_the_client_is_told_at_once():
    async def main():
        async with rig(tcp()) as it:
            await it.decide(0, Condition.DOWN)
            client = await it.connect()
            assert await client.is_reset()
            record = await it.record()
            assert (record.server, record.termination, record.tw) == ("<NOSRV>", "SC", -1)
            assert record.why == "back has no server available"
            await it.at_rest()
            assert it.back.econ == 1
            await it.decide(0, Condition.UP)
            client = await it.connect()
            await it.origin.accept()
            await it.at_rest()

    run(main)


@pytest.mark.parametrize(
    ("timeouts", "termination"),
    [({"client": "200ms", "server": "10s"}, "cD"), ({"client": "10s", "server": "200ms"}, "sD")],
)
def test_an_idle_session_is_cut(timeouts, termination):
    async def main():
        async with rig(tcp(timeout=timeouts)) as it:
            client, server = await it.pair(b"x")
            assert await client.is_reset()
            assert await server.is_reset()
            record = await it.record()
            assert record.termination == termination
            assert record.tt >= 95, "the clock is a tenth of a second wide"
            await it.at_rest()

    run(main)


def test_traffic_either_way_keeps_a_session_alive():
    async def main():
        async with rig(tcp(timeout={"client": "400ms", "server": "400ms"})) as it:
            client, server = await it.pair(b"x")
            await server.expect(b"x")
            loop = asyncio.get_running_loop()
            began = loop.time()
            while loop.time() - began < 1.2:
                await server.send(b".")
                await client.expect(b".")
                await asyncio.sleep(0.05)
            assert not it.records
            await it.at_rest()

    run(main)


def test_the_tunnel_timeout_takes_the_place_of_both():
    async def main():
        timeouts = {"client": "100ms", "server": "100ms", "tunnel": "10s"}
        async with rig(tcp(timeout=timeouts)) as it:
            client, server = await it.pair(b"x")
            await server.expect(b"x")
            await asyncio.sleep(0.4)
            await client.send(b"still here")
            await server.expect(b"still here")
            await it.at_rest()

    run(main)


@pytest.mark.parametrize("who", ["client", "server"])
def test_half_closed_the_other_half_has_its_fin_timeout(who):
    async def main():
        timeouts = {"client": "10s", "server": "10s", "client_fin": "100ms", "server_fin": "100ms"}
        async with rig(tcp(timeout=timeouts)) as it:
            client, server = await it.pair(b"x")
            await server.expect(b"x")
            one, other = (client, server) if who == "client" else (server, client)
            one.half_close()
            assert await other.is_closed()
            assert await one.is_reset()
            record = await it.record()
            assert record.termination == ("sD" if who == "client" else "cD")
            await it.at_rest()

    run(main)


@pytest.mark.parametrize("way", ["down", "up"])
def test_whoever_does_not_read_slows_the_sender_down(way):
    async def main():
        async with rig(tcp()) as it:
            client, server = await it.pair(b"x")
            await server.expect(b"x")
            sender, receiver = (server, client) if way == "down" else (client, server)
            receiver.stop_reading()
            before = resident()
            total = 50 * len(MEGABYTE)

            async def send():
                for _ in range(50):
                    sender.writer.write(MEGABYTE)
                    await sender.writer.drain()

            sending = asyncio.create_task(send())
            session = next(iter(it.worker._sweeper.members))
            half = session.server_half if way == "down" else session.client
            await until(lambda: not half.transport.is_reading(), "the sender is held")
            passed = half.count
            await asyncio.sleep(0.1)
            assert half.count == passed < total / 2
            assert resident() - before < 20 << 20
            receiver.go_on_reading()
            got = 0
            async with asyncio.timeout(20):
                while got < total:
                    part = await receiver.reader.read(1 << 20)
                    assert part == (MEGABYTE * 2)[got % 16 : got % 16 + len(part)]
                    got += len(part)
            await sending
            assert resident() - before < 20 << 20
            await it.at_rest()

    run(main)


def test_a_first_chunk_that_fills_the_server_holds_the_client(monkeypatch):
    """What the client has sent before it has a server is written in one piece, larger than the write buffer."""

    async def main():
        async with rig(tcp(server={"maxconn": 1})) as it:
            upstream = it.worker._upstreams["back"]
            dial = upstream.dial

            def narrow(*how):
                made = dial(*how)
                made._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                return made

            monkeypatch.setattr(upstream, "dial", narrow)
            it.origin._server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            before, _ = await it.pair(b"x")
            client = await it.connect()
            client.writer.write(MEGABYTE * 8)
            await until(lambda: any(s.is_waiting for s in it.worker._sweeper.members), "a client that waits")
            session = next(s for s in it.worker._sweeper.members if s.is_waiting)
            await until(lambda: len(session.buffer) >= 65536, "the first chunk")
            before.reset()
            server = await it.origin.accept()
            server.stop_reading()
            while session.connected < 0:
                await asyncio.sleep(0)
            out = session.server_half.transport
            held = []
            for _ in range(200):
                await asyncio.sleep(0)
                held.append(out.get_write_buffer_size())
            assert 0 < max(held) < 1 << 20
            out.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            server.go_on_reading()
            await server.expect(MEGABYTE * 8)
            await it.at_rest()

    run(main)


def test_a_reader_that_never_reads_is_cut_and_its_octets_go_with_it():
    async def main():
        async with rig(tcp(timeout={"client": "200ms", "server": "200ms"})) as it:
            client, server = await it.pair(b"x")
            client.stop_reading()
            server.writer.write(MEGABYTE * 16)
            record = await it.record()
            assert record.termination == "cD"
            assert await server.is_reset()
            await until(lambda: not it.worker._sweeper.members, "the session is over")
            await it.at_rest()

    run(main)


def test_a_client_that_never_reads_the_rest_does_not_stay_for_ever():
    """Both ends have closed, and some of it is still with us."""

    async def main():
        async with rig(tcp(timeout={"client": "300ms", "server": "300ms"})) as it:
            client = await it.connect()
            client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.stop_reading()
            await client.send(b"x")
            server = await it.origin.accept()
            client.half_close()
            assert await server.rest() == b"x"
            session = next(iter(it.worker._sweeper.members))
            while session.client.transport is not None and not session.client.transport.get_write_buffer_size():
                server.writer.write(b"y" * 65536)
                await turns()
            await server.close()
            assert it.front.scur == 1
            await until(lambda: not it.worker._sweeper.members, "it is over")
            assert it.front.scur == 0
            await it.at_rest()

    run(main)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "octet by octet"])
def test_a_proxy_names_the_client_and_we_name_it_to_the_server(version, whole):
    encode = getattr(proxyproto, f"encode_{version}")
    header = encode(("192.0.2.7", 4711), ("198.51.100.1", 443))
    bind = {"address": "127.0.0.1:{front}", "accept_proxy": True}

    async def main():
        async with rig(tcp(frontend={"bind": bind}, server={"send_proxy": version})) as it:
            client = await it.connect()
            if whole:
                await client.send(header + b"payload")
            else:
                await client.trickle(bytes([octet]) for octet in header + b"payload")
            server = await it.origin.accept()
            await server.expect(header + b"payload")
            client.half_close()
            await server.close()
            record = await it.record()
            assert (record.client, record.client_port, record.termination) == ("192.0.2.7", 4711, "--")
            await it.at_rest()
            assert it.server().bin == len(b"payload")

    run(main)


def test_without_a_proxy_the_server_is_told_who_is_connected():
    async def main():
        async with rig(tcp(server={"send_proxy": "v1"})) as it:
            client, server = await it.pair(b"hi")
            host, port = client.address
            await server.expect(f"PROXY TCP4 {host} 127.0.0.1 {port} {it.port()}\r\nhi".encode())
            await it.at_rest()

    run(main)


ACCEPT_PROXY = {"bind": {"address": "127.0.0.1:{front}", "accept_proxy": True}}


@pytest.mark.parametrize(
    "octets",
    [
        b"GET / HTTP/1.1\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n",
        b"PROXY TCP4 " + b"1" * 100,
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c" + bytes(12),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04" + bytes(4),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
    ],
)
def test_what_is_no_proxy_header_is_refused(octets):
    async def main():
        async with rig(tcp(frontend=ACCEPT_PROXY)) as it:
            client = await it.connect()
            await client.send(octets)
            assert await client.is_reset()
            record = await it.record()
            assert (record.termination, record.server) == ("PR", "<NOSRV>")
            assert record.why
            assert it.origin.waiting == 0
            await it.at_rest()
            assert it.front.ereq == 1

    run(main)


@pytest.mark.parametrize("octets", [b"", b"PROXY TCP4 1.2.3.4"])
def test_a_proxy_header_that_does_not_come_is_not_waited_for(octets):
    async def main():
        async with rig(tcp(frontend=ACCEPT_PROXY, timeout={"http_request": "200ms"})) as it:
            client = await it.connect()
            if octets:
                await client.send(octets)
            assert await client.is_reset()
            assert (await it.record()).termination == "cR"
            await it.at_rest()

    run(main)


def test_a_client_that_leaves_in_its_proxy_header():
    async def main():
        async with rig(tcp(frontend=ACCEPT_PROXY | {"maxconn": 1})) as it:
            first = await it.connect()
            await first.send(b"PROXY TC")
            second = await it.connect()
            await second.send(b"PROXY T")
            second.half_close()
            await turns()
            first.half_close()
            for client in (first, second):
                assert await client.is_gone()
                assert (await it.record()).termination == "CR"
            await it.at_rest()

    run(main)


def test_a_parked_proxy_header_is_read_when_there_is_room():
    async def main():
        async with rig(tcp(frontend=ACCEPT_PROXY | {"maxconn": 1})) as it:
            first = await it.connect()
            await first.send(b"PROXY UNKNOWN\r\n1")
            await (await it.origin.accept()).expect(b"1")
            second = await it.connect()
            await second.send(b"PROXY UNKNOWN\r\n2")
            assert await second.is_silent()
            first.reset()
            await (await it.origin.accept()).expect(b"2")
            await it.at_rest()

    run(main)


def test_sessions_are_cut_when_their_server_goes_down_if_configured_so():
    async def main():
        async with rig(tcp(2, server={"on_marked_down": "shutdown-sessions"}), 2) as it:
            clients = []
            for i in range(2):
                clients.append(await it.connect())
                await clients[-1].send(b"x")
                await (await it.origins[i].accept()).expect(b"x")
            await it.decide(0, Condition.DOWN)
            assert await clients[0].is_reset()
            assert (await it.record()).termination == "DD"
            assert await clients[1].is_silent()
            await it.at_rest()

    run(main)


def test_sessions_survive_their_server_going_down_if_not():
    async def main():
        async with rig(tcp()) as it:
            client, server = await it.pair(b"x")
            await server.expect(b"x")
            await it.decide(0, Condition.DOWN)
            await client.send(b"still")
            await server.expect(b"still")
            await it.at_rest()

    run(main)


def test_by_unix_socket_and_ipv6(tmp_path):
    async def main():
        one, two = Origin(), Origin()
        await one.start_unix(tmp_path / "server")
        await two.start(host="::1")
        config = tcp(frontend={"bind": [str(tmp_path / "front"), "[::1]:{front}"]})
        config["backends"]["back"]["servers"] = {
            "unix": {"address": one.path, "send_proxy": "v2"},
            "six": {"address": "[::1]:{1}", "send_proxy": "v1"},
        }
        async with rig(config, [one, two]) as it:
            client = await it.connect(bind=0)
            await client.send(b"x")
            server = await one.accept()
            await server.expect(proxyproto.encode_v2(None, None) + b"x")
            await server.send(b"y")
            await client.expect(b"y")
            server.half_close()
            await client.close()
            record = await it.record()
            assert (record.client, record.client_port, record.termination) == ("unix", 0, "--")
            client = await it.connect(bind=1)
            await client.send(b"x")
            server = await two.accept()
            await server.expect(f"PROXY TCP6 ::1 ::1 {client.address[1]} {it.port(bind=1)}\r\nx".encode())
            await server.send(b"y")
            await client.expect(b"y")
            await it.at_rest()

    run(main)


def test_connections_without_an_octet_are_logged_only_where_wanted():
    async def main(expected, **frontend):
        async with rig(tcp(frontend=frontend)) as it:
            client = await it.connect()
            server = await it.origin.accept()
            client.half_close()
            await server.close()
            assert await client.is_closed()
            await it.at_rest()
            assert len(it.records) == expected

    run(lambda: main(0))
    run(lambda: main(1, dontlognull=False))
    run(lambda: main(0, dontlognull=False, log=False))


def test_octets_of_a_long_session_are_counted_while_it_goes_on():
    async def main():
        async with rig(tcp()) as it:
            client, server = await it.pair(b"12345")
            await server.send(b"123")
            await client.expect(b"123")
            await until(lambda: it.server().bin == 5 and it.server().bout == 3, "the counters")
            assert (it.front.bin, it.front.bout) == (5, 3)
            await client.send(b"6")
            await server.expect(b"123456")
            await it.at_rest()
            assert (it.front.bin, it.front.bout, it.server().bin) == (6, 3, 6)

    run(main)


def test_a_stopping_worker_waits_for_its_sessions():
    async def main():
        async with rig(tcp()) as it:
            client, server = await it.pair(b"x")
            await server.expect(b"x")
            it.worker._stop()
            await client.send(b"more")
            await server.expect(b"more")
            assert not it.running.done()
            client.half_close()
            await server.close()
            await until(it.running.done, "the worker has stopped")
            assert (await it.record()).termination == "--"

    run(main)


def test_a_hard_stop_cuts_them():
    async def main():
        config = tcp()
        config["global"] = {"hard_stop_after": "200ms"}
        async with rig(config) as it:
            client, server = await it.pair(b"x")
            await server.expect(b"x")
            it.worker._stop()
            assert await client.is_reset()
            assert await server.is_reset()
            assert (await it.record()).termination == "KD"
            await it.at_rest()

    run(main)


def test_an_unexpected_fault_ends_the_session_and_is_not_hidden(monkeypatch):
    async def main():
        async with rig(tcp()) as it:
            complaints = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

            def broken(*_):
                raise ZeroDivisionError("on purpose")

            monkeypatch.setattr(it.worker._upstreams["back"], "dial", broken)
            client = await it.connect()
            assert await client.is_reset()
            assert (await it.record()).termination == "IC"
            await it.at_rest()
            gc.collect()
            assert [str(context["exception"]) for context in complaints] == ["on purpose"]
            assert it.back.eint == 1

    run(main)


ENDINGS = {
    "in order": lambda client, server: (client.half_close(), server.half_close()),
    "client resets": lambda client, server: client.reset(),
    "server resets": lambda client, server: server.reset(),
}


@PLAIN
@pytest.mark.parametrize("ending", [*ENDINGS, "refused", "no server"])
def test_memory_does_not_wait_for_the_garbage_collector(ending, plain):
    async def main():
        async with rig(tcp(retries=0)) as it:
            await turns()
            if ending == "refused":
                it.origin.refuse()
            elif ending == "no server":
                await it.decide(0, Condition.DOWN)
            gc.collect()
            gc.disable()
            try:
                for _ in range(20):
                    client = await it.connect()
                    if ending in ENDINGS:
                        server = await it.origin.accept()
                        ENDINGS[ending](client, server)
                        assert await server.is_gone()
                    assert await client.is_gone()
                await it.at_rest()
                await turns()
                assert not [one for one in gc.get_objects() if isinstance(one, (Session, Half, Stream))]
            finally:
                gc.enable()

    run(main, plain=plain)


def test_two_hundred_sessions_that_end_in_the_middle_leave_nothing_behind():
    async def main():
        async with rig(tcp()) as it:
            for i in range(200):
                client = await it.connect()
                client.writer.write(b"x" * (i * 97))
                await turns(i % 7)
                while it.origin.waiting:
                    server = await it.origin.accept()
                    if i % 2 and not server.writer.transport.is_closing():
                        server.writer.write(b"y" * (i * 89))
                        server.reset()
                client.reset()
            await it.at_rest()
            assert it.front.conn_tot <= 200
            assert it.server().scur == 0

    run(main)


def test_an_ipv4_client_has_one_key_whatever_the_socket():
    assert source_key("192.0.2.1") == source_key("::ffff:192.0.2.1") == bytes((192, 0, 2, 1))
    assert source_key("fe80::1%eth0") == source_key("fe80::1") == socket.inet_pton(socket.AF_INET6, "fe80::1")


def test_who_is_gone_before_he_is_accepted_has_his_name_all_the_same():
    async def main():
        async with rig(tcp()) as it:
            for _ in range(20):
                # No turn of the loop between: it is reset when it is accepted.
                with socket.create_connection(("127.0.0.1", it.port())) as client:
                    client.sendall(b"evil")
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await turns()
            while it.origin.waiting:
                await (await it.origin.accept()).is_gone()
            _, server = await it.pair(b"good")
            await server.expect(b"good")
            assert all(record.client == "127.0.0.1" for record in it.records)
            await it.at_rest()

    run(main)
