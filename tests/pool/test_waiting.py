"""Who waits for a server, and who is next: several workers in one process, which share what real ones share."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from balancer.algorithms import registry
from balancer.config import model
from balancer.pool.facts import Counters
from balancer.pool.orders import Admin, Condition, ServerState
from balancer.pool.places import Limit, PacedPlaces, Places
from balancer.pool.server import Server
from balancer.pool.waiting import LimitedBackend, PacedBackend, Room, described

SLOTS = 4


class Idle:
    """An idle connection."""

    def __init__(self):
        self.is_open = True

    def close(self):
        self.is_open = False


class Errand:
    """A request of a worker; `name` is its number of arrival."""

    def __init__(self, name, worker, *, server=None, key=b"", uses_idle=True):
        self.name = name
        self.worker = worker
        self.wanted = server
        self.key = key
        self.uses_idle = uses_idle
        self.ticket = None
        self.server = None

    def on_place(self, server):
        assert self.server is None
        self.server = server
        if self.uses_idle and server.idle:
            server.idle.pop()
        else:
            self.worker.backend.make_room(server)
        self.worker.house.served.append(self.name)

    def __repr__(self):
        return f"{self.name}@{self.server and self.server.name}"


class Worker:
    def __init__(self, house, slot, config):
        self.house = house
        self.servers = [
            Server("web", name, server, Counters(), index)
            for index, (name, server) in enumerate(config.servers.items())
        ]
        kind = PacedPlaces if config.is_paced else Places
        rooms = {
            server: Room(
                kind(house.limits[server.name], slot),
                Places(house.seats[server.name], slot) if server.name in house.seats else None,
            )
            for server in self.servers
            if server.config.maxconn
        }
        for server in self.servers:
            server.apply(ServerState(Condition.UP))
        more = {"fullconn": config.fullconn or 1} if config.is_paced else {}
        self.backend = (PacedBackend if config.is_paced else LimitedBackend)(
            "web",
            config,
            servers=self.servers,
            algorithm=registry.create(config.balance, hash_type="map-based", rng=Random(1), last=house.turns),
            counters=Counters(),
            touched=[],
            bell=Places(house.line, slot),
            rooms=rooms,
            **more,
        )

    def ask(self, *, server=None, key=b"", **how):
        """As an exchange does."""
        house, backend = self.house, self.backend
        house.now += 0.001
        errand = Errand(len(house.errands), self, server=server, key=key, **how)
        house.errands.append(errand)
        chosen = self.servers[server] if server is not None else backend.pick(key)
        if chosen is not None and not backend.take(chosen):
            errand.on_place(chosen)
        else:
            errand.is_refused = not backend.wait(errand, chosen, house.now)
        return errand

    def finish(self, errand, *, keep=False):
        if keep:
            errand.server.idle.append(Idle())
        self.backend.release(errand.server)
        errand.worker = None


class House:
    """Workers that share their limits."""

    def __init__(self, servers, *, workers=2, balance="roundrobin", **keys):
        config = model.Backend.model_validate(
            {
                "servers": {name: {"address": "127.0.0.1:80"} | each for name, each in servers.items()},
                "balance": balance,
            }
            | keys,
            strict=False,
        )
        self.now = 1.0
        self.turns = [0]
        self.limits = {n: self._limit(s.maxconn) for n, s in config.servers.items() if s.maxconn}
        self.seats = {n: self._limit(s.maxqueue) for n, s in config.servers.items() if s.maxqueue}
        self.line = self._limit(0, is_semaphore=False)
        self.errands = []
        self.served = []
        self.workers = [Worker(self, slot, config) for slot in range(workers)]

    def _limit(self, total, **how):
        return Limit(memoryview(mmap.mmap(-1, Limit.size(SLOTS))), total, **how)

    def look(self, *, is_patient=True):
        """Everybody hears the bells."""
        for _ in range(3):
            for worker in self.workers:
                worker.backend.look(is_patient=is_patient)

    def become(self, index, **state):
        for worker in self.workers:
            worker.servers[index].apply(ServerState(**{"condition": Condition.UP} | state))
            worker.backend.refresh()

    def close(self):
        for limit in (*self.limits.values(), *self.seats.values(), self.line):
            limit.close()


@pytest.fixture
def house() -> Iterator[Callable[..., House]]:
    made = []

    def make(servers, **how):
        made.append(House(servers, **how))
        return made[-1]

    yield make
    for each in made:
        each.close()


def names(errands):
    return [errand.server.name if errand.server else None for errand in errands]


def test_what_is_too_much_waits_and_goes_in_order(house):
    it = house({"a": {"maxconn": 2}}, workers=1)
    (worker,) = it.workers
    errands = [worker.ask() for _ in range(5)]
    assert names(errands) == ["a", "a", None, None, None]
    assert (worker.backend.counters.qcur, worker.backend.waiting) == (3, 3)
    worker.finish(errands[1])
    assert it.served == [0, 1, 2]
    worker.finish(errands[0])
    worker.finish(errands[2])
    assert it.served == [0, 1, 2, 3, 4]
    assert (worker.backend.counters.qcur, worker.backend.counters.qmax) == (0, 3)
    assert worker.servers[0].counters.smax == 2


def test_full_servers_are_passed_over(house):
    it = house({"a": {"maxconn": 1}, "b": {"maxconn": 3}, "c": {}}, workers=1)
    (worker,) = it.workers
    assert names([worker.ask() for _ in range(9)]) == ["a", "b", "c", "b", "c", "b", "c", "c", "c"]
    assert worker.backend.waiting == 0


@pytest.mark.parametrize("balance", ["roundrobin", "leastconn", "random", "first"])
def test_every_place_is_used_before_anybody_waits(house, balance):
    it = house({"a": {"maxconn": 1, "weight": 9}, "b": {"maxconn": 5}, "c": {"maxconn": 2}}, balance=balance)
    errands = [it.workers[i % 2].ask() for i in range(9)]
    assert sorted(names(errands)[:8]) == sorted("abbbbbcc")
    assert names(errands)[8] is None
    if balance == "first":
        assert names(errands)[:8] == list("abbbbbcc")


def test_a_place_goes_to_whoever_waits_longest_in_any_worker(house):
    it = house({"a": {"maxconn": 1}}, workers=3)
    errands = [it.workers[i].ask() for i in (0, 2, 0, 1, 0, 2)]
    for i in range(6):
        assert it.served == list(range(i + 1))
        errands[i].worker.finish(errands[i])
        it.look()


def test_whoever_does_not_come_for_it_holds_nobody_up(house):
    it = house({"a": {"maxconn": 1}}, workers=3)
    first, hung, patient = it.workers[0].ask(), it.workers[1].ask(), it.workers[2].ask()
    it.workers[0].finish(first)
    it.workers[2].backend.look()
    assert patient.server is None
    it.workers[2].backend.look(is_patient=False)
    assert patient.server is not None and hung.server is None


def test_nobody_overtakes_those_who_wait(house):
    it = house({"a": {"maxconn": 1}})
    one, two = it.workers
    first, second = one.ask(), two.ask()
    one.finish(first)
    assert it.limits["a"].free == 1
    late = one.ask()
    assert late.server is None, "the other worker has not come for it yet"
    it.look()
    assert second.server is not None and late.server is None


def test_the_older_of_the_two_lines_is_next(house):
    it = house({"a": {"maxconn": 1}, "b": {"maxconn": 1}}, workers=1)
    (worker,) = it.workers
    first, second = worker.ask(), worker.ask()
    bound, anyone, again = worker.ask(server=0), worker.ask(), worker.ask(server=0)
    assert (bound.ticket.positions, anyone.ticket.positions, again.ticket.positions) == ((1, 0), (0, 1), (2, 0))
    assert worker.servers[0].counters.qcur == 2
    worker.finish(second)
    assert (anyone.server.name, bound.server) == ("b", None)
    worker.finish(first)
    assert bound.server.name == "a" and again.server is None
    worker.finish(anyone)
    assert again.server is None, "it is bound to the other"
    worker.finish(bound)
    assert again.server.name == "a"


def test_positions_are_over_all_workers(house):
    it = house({"a": {"maxconn": 1}})
    one, two = it.workers
    one.ask()
    assert [worker.ask().ticket.ahead for worker in (one, two, two, one)] == [1, 2, 3, 4]


def test_only_so_many_wait_for_one_server(house):
    it = house({"a": {"maxconn": 1, "maxqueue": 2}})
    one, two = it.workers
    first = one.ask()
    waiting = [one.ask(server=0), two.ask(server=0)]
    assert not any(errand.is_refused for errand in waiting)
    assert one.ask(server=0).is_refused and two.ask(server=0).is_refused
    two.backend.leave(waiting[1].ticket)
    assert not one.ask(server=0).is_refused
    one.finish(first)
    assert waiting[0].server is not None
    assert not two.ask(server=0).is_refused


def test_a_hash_leads_to_its_server_full_or_not(house):
    it = house({"a": {"maxconn": 1}, "b": {"maxconn": 1}}, balance="source", workers=1)
    (worker,) = it.workers
    errands = [worker.ask(key=b"key") for _ in range(3)]
    assert len({errand.ticket.bound for errand in errands[1:]}) == 1
    worker.finish(errands[0])
    assert errands[1].server is errands[1].ticket.bound


def test_those_who_wait_for_a_server_that_goes_down_go_where_others_go(house):
    it = house({"a": {"maxconn": 1}, "b": {"maxconn": 1}}, workers=1)
    (worker,) = it.workers
    first, second = worker.ask(), worker.ask()
    bound, anyone = worker.ask(server=0), worker.ask()
    it.become(0, condition=Condition.DOWN)
    assert worker.servers[0].counters.qcur == 0
    worker.finish(second)
    assert bound.server.name == "b", "it came before the other"
    assert bound.ticket.bound.name == "a"
    worker.finish(first)
    assert anyone.server is None, "a is down"
    it.become(0)
    assert anyone.server.name == "a"


def test_a_draining_server_serves_who_waits_for_it_and_nobody_else(house):
    it = house({"a": {"maxconn": 1}}, workers=1)
    (worker,) = it.workers
    first, anyone, bound = worker.ask(), worker.ask(), worker.ask(server=0)
    it.become(0, admin=Admin.DRAIN)
    worker.finish(first)
    assert bound.server is not None and anyone.server is None


def test_a_server_with_room_that_comes_up_takes_as_many_as_it_may(house):
    it = house({"a": {"maxconn": 1}, "b": {"maxconn": 3}})
    it.become(1, condition=Condition.DOWN)
    errands = [it.workers[i % 2].ask() for i in range(6)]
    it.become(1)
    it.look(is_patient=False)
    assert names(errands).count("b") == 3


def test_idle_connections_keep_their_places_until_others_want_them(house):
    it = house({"a": {"maxconn": 3}})
    one, two = it.workers
    mine = [one.ask() for _ in range(3)]
    for errand in mine:
        one.finish(errand, keep=True)
    idle = list(one.servers[0].idle)
    assert it.limits["a"].free == 0 and len(idle) == 3
    again = one.ask()
    assert again.server is not None
    theirs = two.ask()
    assert theirs.server is None
    it.look()
    assert theirs.server is not None
    assert [connection.is_open for connection in idle] == [False, True, True]
    assert it.limits["a"].held == 3
    assert len(one.servers[0].idle) == 1


def test_places_of_connections_that_were_closed_are_given_back(house):
    it = house({"a": {"maxconn": 2}}, workers=1)
    (worker,) = it.workers
    worker.finish(worker.ask(), keep=True)
    worker.servers[0].idle.clear()
    worker.backend.look()
    assert it.limits["a"].held == 1
    worker.backend.tidy()
    assert it.limits["a"].held == 0


def test_no_idle_connection_is_left_without_a_place(house):
    it = house({"a": {"maxconn": 2}}, workers=1)
    (worker,) = it.workers
    worker.finish(worker.ask(), keep=True)
    (idle,) = worker.servers[0].idle
    worker.ask(uses_idle=False)
    assert not idle.is_open, "it could not be used, and another is made"


def test_a_lower_limit_holds_as_soon_as_enough_have_gone(house):
    it = house({"a": {"maxconn": 4}})
    one, two = it.workers
    errands = [one.ask() for _ in range(4)] + [two.ask() for _ in range(3)]
    it.limits["a"].total = 2
    it.limits["a"].settle()
    for errand in errands[:2]:
        one.finish(errand)
        it.limits["a"].settle()
        it.look()
    assert names(errands[4:]) == [None] * 3
    for _ in range(3):
        it.limits["a"].settle()
    one.finish(errands[2])
    it.look()
    assert names(errands[4:]) == ["a", None, None]


def test_what_frees_its_place_at_once_takes_no_stack(house):
    it = house({"a": {"maxconn": 1}}, workers=1)
    (worker,) = it.workers
    first = worker.ask()

    class Hasty(Errand):
        def on_place(self, server):
            super().on_place(server)
            self.worker.backend.release(server)

    for i in range(5000):
        worker.backend.wait(Hasty(i, worker), None, it.now + i)
    worker.finish(first)
    assert len(it.served) == 5001


def test_what_is_granted_and_left_before_it_is_told_goes_to_the_next(house):
    it = house({"a": {"maxconn": 2}}, workers=1)
    (worker,) = it.workers
    first, second = worker.ask(), worker.ask()
    third, fourth, fifth = (worker.ask() for _ in range(3))

    def on_place(server):
        third.server = server
        worker.finish(second)
        worker.backend.leave(fourth.ticket)

    third.on_place = on_place
    worker.finish(first)
    assert (fourth.server, fifth.server.name) == (None, "a")


def test_what_the_log_says(house):
    it = house({"a": {"maxconn": 1, "maxqueue": 1}}, workers=1)
    (worker,) = it.workers
    worker.ask()
    anyone, bound, refused = worker.ask(), worker.ask(server=0), worker.ask(server=0)
    later = it.now + 0.5
    assert described(anyone.ticket, None, later) == ("<NOSRV>", pytest.approx(0.502, abs=1e-4), 0, 1)
    assert described(bound.ticket, None, later) == ("a", pytest.approx(0.501, abs=1e-4), 1, 0)
    assert described(refused.ticket, None, later) == ("a", -1.0, 0, 0)


class Traffic(RuleBasedStateMachine):
    """Three workers, servers with limits and without, that come and go. Never more than a limit, and nobody waits
    where there is a place."""

    @initialize(
        a=st.integers(1, 3), b=st.integers(1, 2), balance=st.sampled_from(["roundrobin", "leastconn", "source"])
    )
    def begin(self, a, b, balance):
        servers = {"a": {"maxconn": a, "maxqueue": 3}, "b": {"maxconn": b, "weight": 2}}
        self.house = House(servers, workers=3, balance=balance)
        self.up = [True, True]
        self.gone = set()

    @rule(
        worker=st.integers(0, 2),
        server=st.sampled_from([None, None, 0, 1]),
        key=st.sampled_from([b"1", b"2", b"3"]),
        uses_idle=st.booleans(),
    )
    def ask(self, worker, server, key, uses_idle):
        if server is not None and not self.up[server]:
            server = None
        it = self.house.workers[worker]
        if server is None and not it.backend.usable:
            return
        errand = it.ask(server=server, key=key, uses_idle=uses_idle)
        if getattr(errand, "is_refused", False):
            self.gone.add(errand)

    @rule(n=st.integers(0, 20), keep=st.booleans())
    def finish(self, n, keep):
        running = [e for e in self.house.errands if e.server is not None and e.worker is not None]
        if running:
            errand = running[n % len(running)]
            errand.worker.finish(errand, keep=keep)

    @rule(n=st.integers(0, 20))
    def leave(self, n):
        waiting = self.waiting()
        if waiting:
            errand = waiting[n % len(waiting)]
            errand.worker.backend.leave(errand.ticket)
            self.gone.add(errand)

    @rule(server=st.integers(0, 1), is_up=st.booleans())
    def become(self, server, is_up):
        self.up[server] = is_up
        self.house.become(server, condition=Condition.UP if is_up else Condition.DOWN)

    @rule(worker=st.integers(0, 2), is_patient=st.booleans())
    def look(self, worker, is_patient):
        self.house.workers[worker].backend.look(is_patient=is_patient)

    @rule(worker=st.integers(0, 2))
    def tidy(self, worker):
        self.house.workers[worker].backend.tidy()

    @rule()
    def everybody_looks(self):
        self.house.look(is_patient=False)
        for i, (name, limit) in enumerate(self.house.limits.items()):
            if self.up[i] and limit.free:
                assert not [e for e in self.waiting() if e.ticket.server is None or e.ticket.server.name == name]

    def waiting(self):
        return [e for e in self.house.errands if e.server is None and e not in self.gone]

    @invariant()
    def limits_hold(self):
        if not hasattr(self, "house"):
            return
        house = self.house
        for i, (name, limit) in enumerate(house.limits.items()):
            running = sum(worker.servers[i].counters.scur for worker in house.workers)
            here = [e for e in house.errands if e.server is not None and e.worker is not None and e.server.name == name]
            assert running == len(here) <= limit.total
            idle = sum(len(worker.servers[i].idle) for worker in house.workers)
            assert running + idle <= limit.held <= limit.total, "nor has it more connections"
            assert limit.held + limit.free == limit.total
        assert sum(worker.backend.waiting for worker in house.workers) == len(self.waiting())
        assert all(errand.ticket.is_waiting for errand in self.waiting())

    def teardown(self):
        if hasattr(self, "house"):
            for i in range(2):
                self.become(i, True)
            while running := [e for e in self.house.errands if e.server is not None and e.worker is not None]:
                running[0].worker.finish(running[0])
                self.house.look(is_patient=False)
            assert not self.waiting(), "nobody is lost"
            self.house.close()


Traffic.TestCase.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
TestTraffic = Traffic.TestCase


def test_what_a_server_is_given_rises_with_what_there_is_to_do(house):
    """HAProxy's minconn and fullconn."""
    it = house({"a": {"maxconn": 10, "minconn": 2}}, workers=1, fullconn=20)
    (worker,) = it.workers
    (server,) = worker.servers
    errands = []
    for number in range(1, 31):
        errands.append(worker.ask())
        assert server.counters.scur == min(number, max(2, number * 10 // 20) if number < 20 else 10)
        assert worker.backend.waiting == number - server.counters.scur
    served = []
    while len(served) < 30:
        (*_, last) = [errand for errand in errands if errand.server is not None and errand not in served]
        worker.finish(last, keep=True)
        served.append(last)
        left = 30 - len(served)
        assert server.counters.scur <= (max(2, left * 10 // 20) if left < 20 else 10)
        assert left == 0 or server.counters.scur > 0
    worker.backend.tidy()
    assert it.limits["a"].held <= 2
    server.idle.clear()
    worker.backend.tidy()
    assert it.limits["a"].held == 0


def test_what_there_is_to_do_is_that_of_all_workers(house):
    it = house({"a": {"maxconn": 4, "minconn": 1}, "b": {"maxconn": 4, "minconn": 1}}, fullconn=8)
    one, two = it.workers
    errands = [one.ask(server=0) for _ in range(3)]
    assert names(errands) == ["a", None, None]
    # They wait for a alone, and that is given more as b has more to do.
    others = [two.ask(server=1) for _ in range(5)]
    it.look()
    assert one.servers[0].counters.scur == 3
    assert two.servers[1].counters.scur == 4
    for errand in (*errands, others[0]):
        errand.worker.finish(errand)
    it.look()
    # Of four that are left it is given two, and has three.
    assert names(others) == ["b", "b", "b", "b", None]
    for errand in others[1:4]:
        errand.worker.finish(errand)
    assert others[4].server


def test_a_server_that_warms_up_is_given_a_part_of_its_maxconn(house):
    it = house({"a": {"maxconn": 20, "slowstart": "10s"}}, workers=1)
    (worker,) = it.workers
    it.become(0, throttle=1)
    errands = [worker.ask() for _ in range(30)]
    for throttle, most in ((1, 1), (10, 2), (55, 11), (100, 20)):
        it.become(0, throttle=throttle)
        assert worker.servers[0].counters.scur == most
    assert sum(errand.server is None for errand in errands) == 10


@pytest.mark.parametrize("seed", range(8))
def test_nobody_waits_for_ever_and_none_is_given_too_much(house, seed):
    dice = Random(seed)
    it = house(
        {"a": {"maxconn": 3, "minconn": 1}, "b": {"maxconn": 9, "minconn": 2}, "c": {"maxconn": 2}},
        workers=3, balance=dice.choice(["roundrobin", "leastconn"]), fullconn=dice.choice([1, 10, 60]),
    )  # fmt: skip
    going = []
    for step in range(900):
        if step < 700 and dice.random() < (0.75 if step % 200 < 60 else 0.45):
            server = dice.choice([None, None, None, 0, 1])
            going.append(dice.choice(it.workers).ask(server=server))
        served = [errand for errand in going if errand.server is not None]
        if served and dice.random() < 0.6:
            errand = dice.choice(served)
            going.remove(errand)
            errand.worker.finish(errand, keep=dice.random() < 0.5)
        if dice.random() < 0.3:
            it.look(is_patient=dice.random() < 0.5)
        if step % 20 == 0:
            for worker in it.workers:
                worker.backend.tidy()
        for index, most in enumerate((3, 9, 2)):
            assert sum(worker.servers[index].counters.scur for worker in it.workers) <= most
            assert it.limits["abc"[index]].held <= most
    while going:
        it.look(is_patient=False)
        served = [errand for errand in going if errand.server is not None]
        assert served
        for errand in served:
            going.remove(errand)
            errand.worker.finish(errand)
        for worker in it.workers:
            worker.backend.tidy()
    assert all(worker.backend.waiting == worker.backend.counters.scur == 0 for worker in it.workers)
