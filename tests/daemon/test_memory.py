from __future__ import annotations

import os
import select

from balancer.daemon.memory import answer, ring
from balancer.pool.facts import Entity, Ledger, Sums
from balancer.pool.orders import Condition, ServerState


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
    made = plan({"global": {"workers": 3}})
    shared = memory(made)
    for number, block in enumerate(shared.blocks):
        block[:] = bytes([number + 1]) * len(block)
    shared.board[0] = ServerState(Condition.UP, weight=9)
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
