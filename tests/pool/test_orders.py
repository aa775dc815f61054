from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.pool.orders import Admin, Board, Condition, ServerState

NUMBER = st.integers(-(2**63), 2**63 - 1)
STATES = st.builds(
    ServerState,
    st.sampled_from(Condition),
    st.sampled_from(Admin),
    st.integers(0, 256),
    *[NUMBER] * 5,
    st.booleans(),
    NUMBER,
    st.integers(1, 100),
    st.binary(min_size=16, max_size=16),
    st.integers(0, 65535),
    st.booleans(),
)


def board(servers: int) -> tuple[Board, Board]:
    """Control's and a worker's view of one memory."""
    block = memoryview(bytearray(Board.size(servers)))
    return Board(block), Board(block)


@given(st.lists(STATES, min_size=1, max_size=10))
def test_a_worker_reads_what_control_wrote(states):
    control, worker = board(len(states))
    for index, state in enumerate(states):
        control[index] = state
    assert list(worker) == states
    assert [worker[index] for index in range(len(worker))] == states
    assert all(isinstance(s.condition, Condition) and isinstance(s.admin, Admin) for s in worker)


def test_an_order_changes_its_own_row_only():
    control, worker = board(3)
    before = list(worker)
    control[1] = ServerState(Condition.UP, Admin.DRAIN, weight=7)
    assert [worker[0], worker[2]] == [before[0], before[2]]
    assert worker[1] == ServerState(Condition.UP, Admin.DRAIN, weight=7)


def test_fresh_memory_says_not_checked_yet_and_no_weight():
    _, worker = board(1)
    assert worker[0] == ServerState(weight=0, throttle=0)
    assert not worker[0].is_unchecked


def test_a_board_has_a_row_for_every_server_and_no_more():
    control, worker = board(5000)
    assert len(worker) == 5000
    control[4999] = ServerState(Condition.UP)
    assert worker[4999].is_usable
    with pytest.raises(Exception, match="buffer"):
        worker[5000]


def test_whatever_stands_there_is_read():
    """The supervisor reads what control writes, who may be anybody."""
    assert len(list(Board(memoryview(bytearray(b"\xff" * Board.size(2)))))) == 2
    state = Board(memoryview(bytearray(b"\x77" * Board.size(1))))[0]
    assert (state.condition, state.admin) == (Condition.UNKNOWN, Admin.READY)


def test_without_servers_there_is_still_memory_to_share():
    assert Board.size(0) > 0


def test_memory_longer_than_the_rows_is_left_alone():
    """Shared memory comes in pages."""
    block = memoryview(bytearray(Board.size(2) + 17))
    assert len(list(Board(block))) == len(Board(block)) == 2


@given(st.lists(st.lists(st.tuples(st.integers(0, 199), STATES), max_size=20), max_size=5))
def test_a_worker_finds_what_changed_since_its_last_look(rounds):
    control, worker = board(200)
    seen = bytearray()
    assert worker.changes(seen) == list(enumerate(worker)), "at first everything"
    for changes in rounds:
        before = list(control)
        for index, state in changes:
            control[index] = state
        after = list(control)
        assert worker.changes(seen) == [(i, new) for i, new in enumerate(after) if new != before[i]]
        assert worker.changes(seen) == []


@pytest.mark.parametrize(("condition", "admin", "weight"), list(itertools.product(Condition, Admin, (0, 1))))
def test_who_gets_which_clients(condition, admin, weight):
    state = ServerState(condition, admin, weight)
    asked = (state.is_usable, state.is_unchecked, state.takes_cookie)
    ready = admin is Admin.READY and weight > 0
    assert asked == (
        ready and condition is Condition.UP,
        ready and condition is Condition.UNKNOWN,
        condition in (Condition.UP, Condition.UNKNOWN) and admin in (Admin.READY, Admin.DRAIN),
    )


@given(st.ip_addresses(), st.integers(1, 65535))
def test_a_server_is_where_its_name_was_resolved_to(address, port):
    state = ServerState(weight=5).at(str(address), port)
    control, worker = board(1)
    control[0] = state
    assert worker[0].port == port
    mapped = getattr(address, "ipv4_mapped", None)
    assert worker[0].host == ("" if address.packed == bytes(16) else str(mapped or address))
    assert worker[0]._replace(octets=bytes(16), port=0) == ServerState(weight=5)
