from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from balancer.config import model
from balancer.daemon.generation import Child, Generation, surplus
from balancer.daemon.names import Last
from balancer.errors import StartError
from balancer.observe.log import AccessLog, Level
from balancer.pool.facts import Elder, Entity, Ledger, Totals
from balancer.pool.orders import Admin, Condition, ServerState
from tests.e2e.bed.process import free_port

FRONTEND, SERVER = Entity("frontend", "f"), Entity("server", "b", "s")


@pytest.fixture
def generation(plan):
    """generation({…}, before=…)"""
    made: list[Generation] = []

    def make(config=None, *, before=None, port=None):
        front = {"mode": "tcp", "bind": f"127.0.0.1:{port or free_port()}", "default_backend": "b"}
        own = plan({"frontends": {"f": front}} | (config or {}))
        made.append(Generation.of(own, AccessLog([model.Log(target="none")]), None, before))
        return made[-1]

    yield make
    for one in made:
        one.sockets.close()
        one.close()


def count(one: Generation, number: int, **numbers: int) -> None:
    """As a worker does it."""
    ledger = Ledger(one.memory.blocks[number], one.plan.layout)
    for name, value in numbers.items():
        setattr(ledger[FRONTEND], name, getattr(ledger[FRONTEND], name) + value)
    ledger.flush()


def total(one: Generation, name: str) -> int:
    """As control sees it."""
    past = [Elder([one.memory.past], one.plan.layout)]
    past += [Elder(elder.memory.blocks, elder.plan.layout) for elder in one.elders]
    return Totals(one.memory.blocks, one.plan.layout, past).sums[FRONTEND].counters[name]


def test_what_was_counted_goes_on_however_many_reloads_there_are(generation):
    port = free_port()
    current = generation({"global": {"workers": 2}}, port=port)
    count(current, 1, stot=5, scur=2, smax=3)
    expected = 5
    for _ in range(5):
        before, current = current, generation({"global": {"workers": 2}}, before=current, port=port)
        current.take_over(before)
        assert total(current, "stot") == expected
        # Those of before count on, beside the new ones.
        count(before, 0, stot=1)
        count(current, 0, stot=10)
        expected += 11
        assert total(current, "stot") == expected
    assert total(current, "smax") == 3
    # Whoever has ended is only kept until the next reload.
    assert len(current.elders) == 1


def test_those_who_still_have_connections_count_by_themselves(generation):
    port = free_port()
    first = generation(port=port)
    first.children = [Child("worker 0", lambda: None, number=0)]
    count(first, 0, scur=1, stot=1)
    second = generation(before=first, port=port)
    second.take_over(first)
    third = generation(before=second, port=port)
    third.take_over(second)
    assert third.elders == [first, second] and not second.elders
    assert (total(third, "stot"), total(third, "scur")) == (1, 1)
    first.bury(first.children[0], was_killed=True)
    assert (total(third, "stot"), total(third, "scur")) == (1, 0), "its connections died with it"
    fourth = generation(before=third, port=port)
    fourth.take_over(third)
    assert total(fourth, "stot") == 1


def test_one_that_takes_over_again_counts_all_once(generation):
    port = free_port()
    gone, lives, before = (generation(port=each) for each in (free_port(), free_port(), port))
    lives.children = [Child("worker 0", lambda: None, number=0)]
    for number, each in enumerate((gone, lives, before)):
        count(each, 0, stot=10**number)
    before.elders = [gone, lives]
    count_of_past = total(before, "stot")
    failed = generation(before=before, port=port)
    failed.take_over(before)
    count(failed, 0, stot=1000)
    before.take_back(failed)
    assert total(before, "stot") == 1111
    assert before.elders == [lives, failed] and not failed.elders and count_of_past == 111
    # What follows it has all of it, too.
    after = generation(before=before, port=port)
    after.take_over(before)
    assert total(after, "stot") == 1111


def test_whatever_children_have_written_another_takes_over(generation):
    """They may be anybody's, and this is the supervisor, without whom nobody is there."""
    current = generation({"global": {"workers": 2}})
    for octet in (b"\xff", b"\x7f", b"\x80"):
        before, current = current, generation({"global": {"workers": 2}}, before=current)
        before.memory._map[:] = octet * len(before.memory._map)
        current.take_over(before)
        current.serving.servers()
        before.take_back(current)
        current.take_over(before)


def test_no_disk_is_waited_for_at_a_reload(generation, monkeypatch):
    """Virtual routers would not speak meanwhile; and what stands there is whoever's control is."""
    read = []
    monkeypatch.setattr("balancer.daemon.control.Last.load", lambda *_: read.append(1) or Last({}))
    first = generation()
    assert read == [1]
    generation(before=first)
    assert read == [1]


def test_servers_stay_as_control_and_the_operator_left_them(generation):
    port = free_port()
    servers = {
        "s": {"address": "127.0.0.1:9", "weight": 5}, "t": "127.0.0.1:10", "moves": "127.0.0.1:11", "x": "127.0.0.1:12"
    }  # fmt: skip
    before = generation({"backends": {"b": {"check": {"type": "tcp"}, "servers": dict(servers)}}}, port=port)
    down = ServerState(Condition.DOWN, downs=4, downtime=77)
    drained = ServerState(Condition.UP, Admin.DRAIN, weight=2, health=4, last_change=6)
    for name, state in (("s", drained), ("t", down), ("moves", down)):
        before.memory.board[before.plan.seats["b", name].index] = state
    before.memory.turns["b"][0] = 42
    # Other places on the board, another address, another weight, one that is new.
    after = generation(
        {"backends": {"a": {"servers": {"s": "127.0.0.1:1"}}, "b": {"check": {"type": "tcp"}, "servers": {
            "new": "127.0.0.1:13", "moves": "127.0.0.1:99", "t": {"address": "127.0.0.1:10", "weight": 9},
            "s": {"address": "127.0.0.1:9", "weight": 5}}}}},
        before=before, port=port,
    )  # fmt: skip
    after.take_over(before)
    state = {pair: after.memory.board[seat.index] for pair, seat in after.plan.seats.items()}
    assert state["b", "s"] == drained
    assert state["b", "t"] == down._replace(weight=9)
    assert state["b", "moves"].condition is state["b", "new"].condition is Condition.UNKNOWN
    assert state["a", "s"].condition is Condition.UP
    assert after.memory.turns["b"][0] == 42


def test_a_server_without_checks_is_up_whatever_they_said(generation):
    port = free_port()
    before = generation({"backends": {"b": {"check": {"type": "tcp"}, "servers": {"s": "127.0.0.1:9"}}}}, port=port)
    before.memory.board[0] = ServerState(Condition.DOWN, Admin.MAINT, downs=1)
    after = generation({"backends": {"b": {"servers": {"s": "127.0.0.1:9"}}}}, before=before, port=port)
    assert after.memory.board[0] == ServerState(Condition.UP, Admin.MAINT, downs=1)


def test_what_cannot_be_leaves_what_is(generation):
    port = free_port()
    before = generation(port=port)
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = port, free_port(), taken.getsockname()[1]
        bind = tuple(f"127.0.0.1:{each}" for each in ports)
        front = {"mode": "tcp", "bind": bind, "default_backend": "b"}
        with pytest.raises(StartError, match="cannot bind"):
            generation({"frontends": {"f": front}}, before=before)
    assert len(list(Path("/proc/self/fd").iterdir())) == open_files
    with socket.create_connection(("127.0.0.1", port)):
        pass


def test_a_child_that_is_told_gets_the_signal():
    pid = os.fork()
    if not pid:
        signal.pause()
        os._exit(0)
    child = Child("worker 0", lambda: None, pid=pid)
    # Others have handlers here, which one that waits to be woken up may have run already.
    child.tell(signal.SIGKILL)
    assert child.is_told
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert not Path(f"/proc/{pid}").exists()


def test_what_the_supervisor_says_is_kept_from_its_start_and_over_reloads(generation):
    port = free_port()
    plain = generation(port=port)
    log = AccessLog([model.Log(target="none")])
    log.event(Level.WARNING, "before there is any memory")
    first = Generation.of(plain.plan, log, None, plain)
    log.event(Level.NOTICE, "serving")
    plain.close()
    second = generation(before=first, port=port)
    first.close()
    second.log.event(Level.NOTICE, "reloaded")
    events = [event[1:] for event in second.memory.journal.read().events]
    assert events == [
        (Level.WARNING, "supervisor", "before there is any memory"), (Level.NOTICE, "supervisor", "serving"),
        (Level.NOTICE, "supervisor", "reloaded"),
    ]  # fmt: skip


def test_who_has_the_fewest_connections_makes_room(generation):
    """But not those who have just been told: nobody knows what they have."""
    port = free_port()
    process = Entity("process", "")
    elders: list[Generation] = []
    for connections in (2, 1, 1, 0):
        one = generation({"global": {"workers": 2}}, before=elders[-1] if elders else None, port=port)
        one.children = [Child(f"worker {number}", lambda: None, number=number) for number in range(2)]
        one.dismissed = 100.0
        ledger = Ledger(one.memory.blocks[1], one.plan.layout)
        ledger[process].scur = connections
        ledger.flush()
        elders.append(one)
    many, few, others, none = elders
    assert surplus(elders, 8, 200.0) == []
    assert surplus(elders, 7, 200.0) == [none]
    assert surplus(elders, 6, 200.0) == [none]
    assert surplus(elders, 3, 200.0) == [none, few, others], "the oldest of them first"
    assert surplus(elders, 0, 200.0) == [none, few, others, many]
    none.dismissed = 199.5
    assert surplus(elders, 6, 200.0) == [few]
    none.dismissed, none.is_ended = 100.0, True
    assert surplus(elders, 6, 200.0) == [], "there is room soon"
    none.children.clear()
    assert surplus(elders, 5, 200.0) == [few], "one that has left takes none"
