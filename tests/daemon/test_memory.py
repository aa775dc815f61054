from __future__ import annotations

import os
import select
from pathlib import Path

import pytest

from balancer.daemon.memory import Memory, answer, ring
from balancer.daemon.plan import Plan
from balancer.pool.facts import Entity, Ledger, Sums
from balancer.pool.orders import Condition, ServerState

VRRP = {
    "instances": {"VI": {"interface": "eth0", "virtual_router_id": 1, "virtual_ipaddress": "192.0.2.200"}},
    "heartbeat": {"bind": "10.9.0.2:694", "peers": "10.9.0.3:694", "key": "secret"},
}


def rings(bell: int) -> bool:
    return bool(select.select([bell], [], [], 0)[0])


def in_child(work) -> None:
    pid = os.fork()
    if not pid:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def test_what_one_process_writes_another_reads(plan, memory):
    made = plan({"global": {"workers": 2}})
    shared = memory(made)
    state = ServerState(Condition.DOWN, weight=3, downs=7)

    def be_worker_and_control() -> None:
        shared.board[0] = state
        ledger = Ledger(shared.blocks[1], made.layout)
        ledger[Entity("frontend", "f")].conn_tot = 5
        ledger.flush()

    in_child(be_worker_and_control)
    assert shared.board[0] == state
    assert Sums.read(shared.blocks, made.layout)[Entity("frontend", "f")].counters["conn_tot"] == 5


def test_workers_blocks_and_the_board_do_not_overlap(plan, memory):
    made = plan({"global": {"workers": 3}, "vrrp": VRRP})
    shared = memory(made)
    for number, block in enumerate(shared.blocks):
        block[:] = bytes([number + 1]) * len(block)
    shared.board[0] = ServerState(Condition.UP, weight=9)
    shared.turns["b"][0] = -1
    for message in (b"\xff" * shared.notice.longest, b"the notice"):
        shared.notice.write(message)
    assert (shared.turns["b"][0], shared.notice.read()) == (-1, b"the notice")
    assert [set(block) for block in shared.blocks] == [{1}, {2}, {3}]
    assert shared.board[0] == ServerState(Condition.UP, weight=9)


def test_a_bell_rings_until_it_is_answered_however_often_it_was_rung(plan, memory):
    bell = memory(plan({})).control_bell
    assert not rings(bell)
    for _ in range(1000):
        ring(bell)
    assert rings(bell)
    answer(bell)
    assert not rings(bell)
    answer(bell)


def test_a_bell_rung_for_a_process_that_died_rings_for_the_one_in_its_place(plan, memory):
    bell = memory(plan({})).worker_bells[0]
    in_child(lambda: ring(bell))
    assert rings(bell)


def test_bells_do_not_outlive_an_exec(plan, memory):
    shared = memory(plan({}))
    assert not any(os.get_inheritable(bell) for bell in (*shared.worker_bells, shared.control_bell))


def test_the_notice_has_room_for_all_that_is_configured(plan, memory):
    routers = {
        f"VI{i}": {"interface": "eth0", "virtual_router_id": i, "virtual_ipaddress": "192.0.2.200"}
        for i in range(1, 100)
    }
    small = memory(plan({"vrrp": VRRP})).notice
    assert memory(plan({"vrrp": VRRP | {"instances": routers}})).notice.longest >= small.longest + 98 * 8192
    assert small.longest >= 100_000


def test_an_order_reaches_the_supervisor_whoever_gives_it(plan, memory):
    shared = memory(plan({"vrrp": VRRP}))

    def be_control() -> None:
        shared.line.supervisor.close()
        shared.line.control.send(b"one")
        shared.line.control.send(b"two")

    in_child(be_control)
    # Its end is still there for the one in its place; packets stay apart.
    assert [shared.line.supervisor.recv(100) for _ in range(2)] == [b"one", b"two"]
    assert not any(os.get_inheritable(end.fileno()) for end in shared.line)


KERNEL = {"frontends": {"f": {"mode": "tcp", "engine": "kernel", "bind": "10.0.0.1:80", "default_backend": "b"}}}


def test_the_kernel_process_has_a_block_of_its_own_after_the_workers(plan, memory):
    shared = memory(plan(KERNEL | {"global": {"workers": 2}, "vrrp": VRRP}))
    assert len(shared.blocks) == 3
    for number, block in enumerate(shared.blocks):
        block[:] = bytes([number + 1]) * len(block)
    shared.board[0] = ServerState(Condition.UP, weight=9)
    shared.applied[0] = -1
    shared.notice.write(b"\xff" * shared.notice.longest)
    shared.turns["b"][0] = 7
    assert [set(block) for block in shared.blocks] == [{1}, {2}, {3}]
    assert (shared.applied[0], shared.turns["b"][0], shared.board[0].weight) == (-1, 7, 9)
    ring(shared.kernel_bell)
    assert rings(shared.kernel_bell) and not any(map(rings, shared.worker_bells))
    shared.kernel_line.control.send(b"question")
    assert shared.kernel_line.kernel.recv(100) == b"question"


def test_a_gateway_is_the_kernels_work_too(plan, memory):
    made = plan({"gateway": {"masquerade": [{"source": "10.0.100.0/24", "interface": "eth0"}]}})
    assert (made.has_kernel, made.has_kernel_frontends, len(memory(made).blocks)) == (True, False, 2)


def test_where_the_kernel_does_nothing_there_is_nothing_of_it(plan, memory):
    made = plan({})
    shared = memory(made)
    assert (made.has_kernel, len(shared.blocks), shared.kernel_bell, shared.kernel_line) == (False, 1, None, None)


def test_without_virtual_routers_there_is_nothing_to_say(plan, memory):
    shared = memory(plan({}))
    assert shared.line is None
    assert shared.notice.read() is None
    assert shared.notice.longest == 0


def test_closed_twice_it_closes_no_others(plan, memory):
    """The numbers of its bells may be those of clients by then."""
    shared = memory(plan({"global": {"workers": 2}}))
    bells = [*shared.worker_bells, shared.control_bell]
    shared.close()
    taken = [os.dup(0) for _ in bells]
    shared.close()
    shared.go()
    assert all(os.fstat(number) for number in taken)
    for number in taken:
        os.close(number)


def test_of_one_of_before_the_workers_bells_are_kept(plan, memory):
    udp = {"mode": "udp", "bind": "127.0.0.1:9999", "default_backend": "b", "udp": {"protocol": "generic"}}
    shared = memory(plan({"global": {"workers": 2}, "vrrp": VRRP, "frontends": {"u": udp}}))
    assert len(shared.successions) == 2
    shared.close(keeps_workers=True)
    shared.go()
    assert all(map(rings, shared.worker_bells))
    assert {end.fileno() for line in (*shared.successions, shared.line) for end in line} == {-1}
    shared.close()
    assert shared.worker_bells == []


def test_without_descriptors_nothing_is_left(plan, monkeypatch):
    made = plan({"global": {"workers": 3}, "vrrp": VRRP})
    before = len(list(Path("/proc/self/fd").iterdir()))
    real, left = os.eventfd, [2]

    def eventfd(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(24, "Too many open files")
        return real(*arguments)

    monkeypatch.setattr(os, "eventfd", eventfd)
    with pytest.raises(OSError, match="Too many"):
        Memory(made)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_clients_have_taken_outlives_a_reload(plan) -> None:
    front = {"mode": "http", "bind": "127.0.0.1:9999", "default_backend": "b"}

    def limited(**limits: object) -> Plan:
        return plan({"frontends": {"f": front | {"limits": limits}}})

    made = limited(request_rate="5/1h")
    first = Memory(made)
    second = Memory(limited(request_rate="9/1h", connections=3), first)
    assert second.secret == first.secret
    assert second.sources["f"].elders == first.sources["f"].blocks
    third = Memory(made, second)
    assert third.sources["f"].elders == second.sources["f"].blocks + first.sources["f"].blocks
    # What is counted otherwise begins anew.
    other = Memory(limited(request_rate="5/2h"), third)
    assert other.sources["f"].elders == []
    for each in (first, second, third, other):
        each.close()
