from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import selectors
import socket

import pytest

from balancer.addr import Address
from balancer.config import model
from balancer.health import verdict
from balancer.health.result import CheckResult, Code
from balancer.health.runner import Runner, Target
from balancer.pool.orders import Admin, Board, Condition

PASSED, REFUSED, SHORTAGE = Code.L4OK, Code.L4CON, Code.SOCKERR


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only where everyone waits, and then at once."""

    def __init__(self):
        self.now = 1000.0
        super().__init__(_NoWait(self))

    def time(self):
        return self.now


class _NoWait(selectors.DefaultSelector):
    def __init__(self, loop):
        super().__init__()
        self._loop = loop

    def select(self, timeout=None):
        events = super().select(0)
        if not events:
            assert timeout is not None, "everyone waits for ever"
            self._loop.now += max(timeout, 0)
        return events


class Cluster:
    """Servers whose checks end as told, a board, and a runner in virtual time."""

    def __init__(self, targets, *, begin=None, **keys):
        self.targets = targets
        self.board = Board(memoryview(bytearray(Board.size(len(targets)))))
        for target, init_state in zip(targets, begin or itertools.repeat("check"), strict=False):
            self.board[target.index] = verdict.initial(init_state, target.check, weight=1, now=1)
        self.outcome = {target.address: PASSED for target in targets}
        self.takes = 0.001
        self.probed = []
        self.events = []
        self.loop = asyncio.get_running_loop()
        self.begin = self.loop.time()
        self.runner = Runner(
            targets,
            state_of=self.board.__getitem__,
            on_change=self.take,
            clock=self.loop.time,
            wall=self.loop.time,
            probe_of=lambda check: self.probe,
            **keys,
        )

    async def probe(self, address):
        self.probed.append((self.loop.time() - self.begin, address))
        outcome = self.outcome[address]
        await asyncio.sleep(self.takes)
        if isinstance(outcome, Exception):
            raise outcome
        return CheckResult(outcome, self.takes)

    def take(self, event):
        self.board[event.target.index] = event.new
        self.events.append(event)

    def moments(self, address=None):
        return [moment for moment, where in self.probed if address in (None, where)]

    def texts(self, index=0):
        return [verdict.status(event.new, event.target.check) for event in self.events if event.target.index == index]

    async def at(self, moment):
        await asyncio.sleep(self.begin + moment - self.loop.time())


def tcp(**keys):
    return model.TcpCheck(type="tcp", **keys)


def target(index=0, address="127.0.0.1", check=None, **keys):
    return Target(index, "be", f"s{index}", Address(address, 80), check or tcp(), **keys)


def play(*targets, **keys):
    """Decorator: run the dialogue at once, in virtual time; nothing may be left when it ends."""

    def decorate(dialogue):
        def test():
            async def main():
                cluster = Cluster(targets or (target(),), **keys)
                try:
                    await dialogue(cluster)
                finally:
                    await cluster.runner.close()
                assert asyncio.all_tasks() == {asyncio.current_task()}

            with asyncio.Runner(loop_factory=VirtualLoop) as runner:
                runner.run(main())

        test.__name__ = dialogue.__name__
        return test

    return decorate


@play()
async def test_a_server_comes_up_fails_and_returns(cluster):
    cluster.runner.start()
    await cluster.at(3)
    assert cluster.texts() == ["UP", "UP"]
    assert cluster.events[0].changed and cluster.events[0].is_first
    cluster.outcome[cluster.targets[0].address] = REFUSED
    cluster.events.clear()
    await cluster.at(9)
    assert cluster.texts()[:3] == ["UP 2/3", "UP 1/3", "DOWN"]
    assert [event.changed for event in cluster.events[:4]] == [False, False, True, False]
    cluster.outcome[cluster.targets[0].address] = PASSED
    cluster.events.clear()
    await cluster.at(14)
    assert cluster.texts()[:3] == ["DOWN 1/2", "UP", "UP"]
    state = cluster.board[0]
    assert (state.condition, state.downs, state.check_failures) == (Condition.UP, 1, 3)
    assert 0 < state.downtime < 10_000_000
    assert 1_000_000_000 < state.last_change < 1_014_000_000


@play(target(check=tcp(interval="4s", fast_interval="500ms", down_interval="8s")))
async def test_intervals_follow_the_state(cluster):
    cluster.runner.start()
    await cluster.at(20)
    cluster.outcome[cluster.targets[0].address] = REFUSED
    await cluster.at(60)
    gaps = [round(after - before, 1) for before, after in itertools.pairwise(cluster.moments())]
    assert gaps[1:4] == [4.0, 4.0, 4.0]
    failures = gaps[gaps.index(0.5) :]
    assert failures == [0.5, 0.5, *[8.0] * (len(failures) - 2)]


@play(target(), target(1, "127.0.0.2"), begin=("down", "up"))
async def test_initial_states(cluster):
    assert [state.condition for state in cluster.board] == [Condition.DOWN, Condition.UP]
    cluster.runner.start()
    await cluster.at(0.1)
    assert (cluster.texts(0), cluster.texts(1)) == (["DOWN 1/2"], ["UP"])
    # The state is changing: the next check comes at the fast interval.
    await cluster.at(1.6)
    assert cluster.texts(0) == ["DOWN 1/2", "UP"]


@play(target(0), target(1), target(2, check=tcp(interval="1s")), target(3, "127.0.0.2"))
async def test_identical_checks_run_once_and_share_the_result(cluster):
    cluster.runner.start()
    await cluster.at(0.1)
    assert len(cluster.probed) == 3
    assert [event.target.index for event in cluster.events] == [0, 1, 2, 3]
    assert cluster.events[0].result is cluster.events[1].result
    assert cluster.events[0].result is not cluster.events[2].result


@play(target(0, check=tcp(port=80)), target(1, check=tcp()))
async def test_the_port_of_a_check_is_part_of_the_address(cluster):
    cluster.runner.start()
    await cluster.at(0.1)
    assert len(cluster.probed) == 1


def http(**keys):
    return model.HttpCheck.model_validate({"type": "http", "headers": {"A": "b"}, **keys})


@play(target(0, check=http()), target(1, check=http(port=80)), target(2, check=http(timeout="1s")))
async def test_equal_http_checks_are_one(cluster):
    cluster.runner.start()
    await cluster.at(0.1)
    assert len(cluster.probed) == 2


@play(target(0), target(1))
async def test_one_of_two_that_share_a_check_in_maintenance(cluster):
    cluster.runner.start()
    await cluster.at(1)
    cluster.runner.pause(0)
    cluster.events.clear()
    await cluster.at(11)
    assert {event.target.index for event in cluster.events} == {1}
    assert 4 <= len(cluster.events) <= 6
    cluster.runner.pause(1)
    cluster.probed.clear()
    await cluster.at(30)
    assert cluster.probed == []


@play()
async def test_errors_with_clients_are_a_failed_check_and_bring_another_soon(cluster):
    cluster.runner.start()
    await cluster.at(3.5)
    cluster.events.clear()
    cluster.probed.clear()
    cluster.runner.blame(0, 10, "mark-down")
    (event,) = cluster.events
    assert (event.result.code, event.result.info) == (Code.HANA, "Detected 10 consecutive errors")
    assert event.changed
    # Who is down already cannot fall deeper.
    cluster.runner.blame(0, 10, "mark-down")
    assert len(cluster.events) == 1
    await cluster.at(20)
    assert cluster.board[0].condition is Condition.UP
    cluster.runner.pause(0)
    cluster.runner.blame(0, 10, "mark-down")
    assert cluster.board[0].condition is Condition.UP


@play()
async def test_maintenance(cluster):
    cluster.runner.start()
    await cluster.at(3)
    cluster.runner.pause(0)
    cluster.board[0] = cluster.board[0]._replace(admin=Admin.MAINT)
    cluster.probed.clear()
    await cluster.at(63)
    cluster.runner.hint(0)
    await cluster.at(64)
    assert cluster.probed == []
    cluster.outcome[cluster.targets[0].address] = REFUSED
    cluster.board[0] = cluster.board[0]._replace(admin=Admin.READY)
    cluster.events.clear()
    state = cluster.board[0] = cluster.runner.resume(0)
    assert (state.condition, state.health) == (Condition.UP, 2)
    await cluster.at(64.1)
    # At once, and one failure is enough.
    assert cluster.moments() == [64]
    assert cluster.texts() == ["DOWN"]
    # No second effect.
    assert cluster.runner.resume(0) == cluster.board[0]


@play()
async def test_a_check_from_before_the_maintenance_does_not_count(cluster):
    cluster.takes = 1.0
    cluster.outcome[cluster.targets[0].address] = REFUSED
    cluster.runner.start()
    await cluster.at(0.5)
    cluster.runner.pause(0)
    cluster.outcome[cluster.targets[0].address] = PASSED
    cluster.board[0] = cluster.runner.resume(0)
    await cluster.at(1.4)
    assert cluster.events == []
    await cluster.at(1.6)
    assert cluster.texts() == ["UP"]
    assert cluster.moments() == [0, 0.5]


@play(target(0), target(1))
async def test_a_shared_check_under_way_counts_for_one_and_is_repeated_for_the_other(cluster):
    cluster.takes = 1.0
    cluster.outcome[cluster.targets[0].address] = REFUSED
    cluster.runner.start()
    await cluster.at(0.5)
    cluster.runner.pause(0)
    cluster.board[0] = cluster.runner.resume(0)
    cluster.outcome[cluster.targets[0].address] = PASSED
    await cluster.at(1.5)
    assert (cluster.texts(0), cluster.texts(1)) == ([], ["DOWN"])
    await cluster.at(2.5)
    assert (cluster.texts(0), cluster.texts(1)) == (["UP"], ["DOWN", "DOWN 1/2"])


@play()
async def test_servers_in_maintenance_at_the_start_stay_unchecked(cluster):
    cluster.board[0] = cluster.board[0]._replace(admin=Admin.MAINT)
    cluster.runner.start()
    await cluster.at(10)
    assert cluster.probed == []
    cluster.board[0] = cluster.runner.resume(0)._replace(admin=Admin.READY)
    await cluster.at(10.1)
    assert cluster.moments() == [10]


@play()
async def test_a_restarted_control_goes_on_from_the_board(cluster):
    state = cluster.board[0] = cluster.board[0]._replace(condition=Condition.UP, health=3, downs=7, last_change=5)
    cluster.outcome[cluster.targets[0].address] = REFUSED
    cluster.runner.start()
    await cluster.at(0.1)
    assert cluster.board[0] == state._replace(health=2, check_failures=1)


@play()
async def test_what_the_operator_changes_between_two_checks_stands(cluster):
    cluster.runner.start()
    await cluster.at(3)
    cluster.board[0] = cluster.board[0]._replace(weight=99, admin=Admin.DRAIN)
    cluster.outcome[cluster.targets[0].address] = REFUSED
    await cluster.at(20)
    state = cluster.board[0]
    assert (state.condition, state.weight, state.admin) == (Condition.DOWN, 99, Admin.DRAIN)


@play(target(check=tcp(interval="10s", fast_interval="1s")))
async def test_a_hint_checks_at_once_but_not_again_and_again(cluster):
    cluster.runner.start()
    await cluster.at(35)
    cluster.probed.clear()
    for tenth in range(21):
        await cluster.at(35 + tenth / 10)
        cluster.runner.hint(0)
    assert [round(moment, 1) for moment in cluster.moments()][:2] == [35.0, 36.0]
    assert len(cluster.probed) <= 3


@play(target(check=tcp(interval="10s", fast_interval="1s")))
async def test_hints_take_a_dead_server_down_in_two_fast_intervals(cluster):
    cluster.runner.start()
    await cluster.at(35)
    cluster.outcome[cluster.targets[0].address] = REFUSED
    cluster.runner.hint(0)
    await cluster.at(37.5)
    assert cluster.texts()[-3:] == ["UP 2/3", "UP 1/3", "DOWN"]
    cluster.probed.clear()
    # It is known to be down: hints change nothing any more.
    for _ in range(10):
        cluster.runner.hint(0)
    await cluster.at(39)
    assert cluster.probed == []


@play(target(check=tcp(interval="500ms")))
async def test_a_flapping_server_stays_on_schedule(cluster):
    cluster.runner.start()
    for turn in range(17):
        cluster.outcome[cluster.targets[0].address] = REFUSED if turn % 2 else PASSED
        await cluster.at(0.3 * (turn + 1))
        cluster.runner.hint(0)
    gaps = [after - before for before, after in itertools.pairwise(cluster.moments())]
    assert all(0.4 <= gap <= 0.6 for gap in gaps[1:])
    assert len(gaps) == pytest.approx(10, abs=2)


@play(*(target(i, f"127.1.{i // 250}.{i % 250}") for i in range(1000)), places=100)
async def test_all_servers_down_then_up(cluster):
    for address in cluster.outcome:
        cluster.outcome[address] = REFUSED
    cluster.runner.start()
    await cluster.at(1)
    assert {state.condition for state in cluster.board} == {Condition.DOWN}
    for address in cluster.outcome:
        cluster.outcome[address] = PASSED
    # Two successes: one on the schedule of a server that is down, one at the fast interval.
    await cluster.at(1 + 2 * 1.5 + 1.5)
    assert {state.condition for state in cluster.board} == {Condition.UP}


def test_running_out_of_descriptors_takes_no_server_down_and_is_logged_once_a_minute(caplog):
    @play(target(0), target(1, "127.0.0.2"), target(2, "127.0.0.3"), begin=("check", "check", "down"))
    async def dialogue(cluster):
        cluster.runner.start()
        await cluster.at(3)
        before = list(cluster.board)
        for address in cluster.outcome:
            cluster.outcome[address] = SHORTAGE
        cluster.events.clear()
        cluster.probed.clear()
        await cluster.at(33)
        assert list(cluster.board) == before
        assert not any(event.changed or event.is_worth_a_check_line for event in cluster.events)
        assert {event.result.code for event in cluster.events} == {SHORTAGE}
        # At the fast interval: 3 servers, 30 s, 1 s.
        assert len(cluster.probed) == pytest.approx(90, abs=6)
        assert len(caplog.records) == 1
        await cluster.at(93)
        assert len(caplog.records) == 2
        for address in cluster.outcome:
            cluster.outcome[address] = REFUSED
        await cluster.at(103)
        assert {state.condition for state in cluster.board} == {Condition.DOWN}

    with caplog.at_level(logging.WARNING):
        dialogue()
    assert caplog.records[0].getMessage().startswith("Checks cannot be made (127.0.0.")


def test_a_defect_in_a_probe_neither_stops_checks_nor_takes_servers_down(caplog):
    @play()
    async def dialogue(cluster):
        cluster.runner.start()
        await cluster.at(3)
        cluster.outcome[cluster.targets[0].address] = RuntimeError("bug")
        await cluster.at(5)
        assert cluster.board[0].condition is Condition.UP
        assert cluster.events[-1].result.info == "RuntimeError('bug')"
        cluster.outcome[cluster.targets[0].address] = PASSED
        await cluster.at(9)
        assert cluster.events[-1].result.ok

    dialogue()
    assert "bug" in caplog.text


@play(target(0), target(1))
async def test_a_listener_that_fails_costs_no_other_target_its_result(cluster):
    complaints = []
    cluster.loop.set_exception_handler(lambda loop, context: complaints.append(context))
    take = cluster.take

    def failing(event):
        if event.target.index == 0:
            raise RuntimeError("no")
        take(event)

    cluster.runner._on_change = failing
    cluster.runner.start()
    await cluster.at(3)
    assert {event.target.index for event in cluster.events} == {1}
    assert complaints[0]["message"].startswith("be/s0: ")
    assert len(cluster.probed) >= 2


@play(target(0, "www.example.org"))
async def test_a_name_that_nobody_resolved_is_never_resolved_here(cluster):
    cluster.runner.start()
    await cluster.at(1.5)
    assert cluster.probed == []
    assert cluster.board[0].condition is Condition.UNKNOWN
    assert cluster.events[0].result.info == "www.example.org: name not resolved"


@play()
async def test_check_lines_are_for_what_is_new(cluster):
    cluster.runner.start()
    await cluster.at(4.5)
    cluster.outcome[cluster.targets[0].address] = REFUSED
    await cluster.at(14)
    worth = [(verdict.status(event.new, event.target.check), event.is_worth_a_check_line) for event in cluster.events]
    assert worth[0] == ("UP", True)
    assert worth[1] == ("UP", False)
    assert [status for status, is_worth in worth if is_worth] == ["UP", "UP 2/3", "UP 1/3", "DOWN"]


@play(*(target(i, f"127.1.0.{i}") for i in range(40)), places=8)
async def test_no_more_checks_at_once_than_places(cluster):
    # 40 checks of 0.9 s each 2 s would be 18 at once.
    cluster.takes = 0.9
    running = most = 0
    probe = cluster.probe

    async def counting(address):
        nonlocal running, most
        running += 1
        most = max(most, running)
        result = await probe(address)
        running -= 1
        return result

    for group in cluster.runner._groups.values():
        group.probe = counting
    cluster.runner.start()
    await cluster.at(30)
    assert most == 8
    assert len({address for _, address in cluster.probed}) == 40


@play()
async def test_closed_it_ends_checks_under_way_and_reports_nothing(cluster):
    cluster.takes = 1.0
    cluster.runner.start()
    await cluster.at(0.5)
    await cluster.runner.close()
    cluster.runner.hint(0)
    await cluster.at(30)
    assert cluster.events == []
    assert len(cluster.probed) == 1


def test_all_kinds_of_checks_against_real_servers(run):
    """Nothing virtual: three servers that live, die and come back on the same port."""

    async def http(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    class Dns(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, client):
            self.transport.sendto(data[:2] + bytes([data[2] | 0x80]) + data[3:], client)

    async def main(held):
        loop = asyncio.get_running_loop()
        ports = [sock.getsockname()[1] for sock in held]

        async def listen():
            servers = [await asyncio.start_server(http, "127.0.0.1", port, reuse_port=True) for port in ports[:2]]
            transport, _ = await loop.create_datagram_endpoint(Dns, ("127.0.0.1", ports[2]), reuse_port=True)
            return servers, transport

        async def hang_up(servers, transport):
            transport.close()
            for server in servers:
                server.close()
                await server.wait_closed()

        timing = {"interval": "30ms", "timeout": "5s"}
        checks = [
            model.TcpCheck(type="tcp", **timing),
            model.HttpCheck(type="http", **timing),
            model.DnsCheck(type="dns", **timing),
        ]
        targets = [
            Target(index, "be", f"s{index}", Address("127.0.0.1", port), check)
            for index, (port, check) in enumerate(zip(ports, checks, strict=True))
        ]
        board = Board(memoryview(bytearray(Board.size(3))))
        for each in targets:
            board[each.index] = verdict.initial("check", each.check, weight=1, now=0)
        turned = asyncio.Event()

        def on_change(event):
            board[event.target.index] = event.new
            if event.changed:
                turned.set()

        async def all_are(condition):
            while {state.condition for state in board} != {condition}:
                turned.clear()
                await asyncio.wait_for(turned.wait(), 10)

        runner = Runner(targets, state_of=board.__getitem__, on_change=on_change)
        runner.start()
        for _ in range(2):
            await all_are(Condition.DOWN)
            listening = await listen()
            await all_are(Condition.UP)
            await hang_up(*listening)
        await all_are(Condition.DOWN)
        await runner.close()
        assert {state.downs for state in board} == {3}

    with contextlib.ExitStack() as stack:
        held = []
        for kind in (socket.SOCK_STREAM, socket.SOCK_STREAM, socket.SOCK_DGRAM):
            # These hold the ports between two lives of the servers, and take nothing themselves.
            sock = stack.enter_context(socket.socket(type=kind))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(("127.0.0.1", 0))
            held.append(sock)
        sock.connect(("127.0.0.2", 9))
        run(main(held))
