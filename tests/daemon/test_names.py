"""Names resolved while it runs, inside control: where servers are to begin with, and what an answer does to them."""

from __future__ import annotations

import asyncio
import json

import pytest

from balancer.addr import Address
from balancer.daemon.control import inherit, initialise
from balancer.daemon.decisions import Decisions, Former
from balancer.daemon.logbook import RESOLVED, Logbook, Storage
from balancer.daemon.names import Last, Names
from balancer.daemon.remembered import Remembered
from balancer.health.runner import Runner
from balancer.names.answer import Status
from balancer.observe.log import Level
from balancer.pool.orders import Condition
from tests.names.nameserver import NameServer

NAME = "www.example"
SERVICE = "_http._tcp.example"


class Bench:
    """Names of one plan, and what was said."""

    def __init__(self, plan, memory) -> None:
        self.plan, self.memory = plan, memory
        self.said: list[str] = []
        self.decisions = Decisions(plan, memory, ())
        self.runner = Runner([], state_of=self.decisions.__getitem__, on_change=lambda event: None)
        self.remembered = Remembered(plan.config, memory.logbook, self)
        storage = memory.logbook.storage
        self.names = Names(plan, self.decisions, self.runner, (), self.remembered, storage, self)

    def event(self, level: Level, text: str) -> None:
        """The log."""
        self.said.append(text)

    def at(self, server: str) -> str:
        seat = self.plan.seats["b", server]
        return str(seat.at(self.decisions[seat.index]))

    def weights(self) -> list[int]:
        return [self.decisions[seat.index].weight for seat in self.plan.seats.values()]

    def run(self, is_done) -> None:
        async def run() -> None:
            self.names.start(asyncio.get_running_loop())
            async with asyncio.timeout(10):
                while not is_done():
                    await asyncio.sleep(0.01)
                    self.names.turn()
            await self.names.close()

        asyncio.run(run())


@pytest.fixture
def dns():
    with NameServer() as server:
        yield server


@pytest.fixture
def of(plan, memory, dns, monkeypatch):
    monkeypatch.setattr("balancer.daemon.plan.first_addresses", lambda hosts, *, within: dict.fromkeys(hosts, "::1"))

    def make(backend, logbook=None) -> Bench:
        section = {"nameservers": {"n": f"127.0.0.1:{dns.port}"}, "timeout": {"resolve": "20ms", "retry": "5s"}}
        section["hold"] = {"nx": "0s"}
        made = plan({"backends": {"b": {"resolvers": "r", "servers": {}, **backend}}, "resolvers": {"r": section}})
        shared = memory(made, logbook)
        initialise(made, shared)
        return Bench(made, shared)

    return make


@pytest.mark.parametrize(
    ("init_addr", "where"),
    [
        ("libc", "[::1]:80"),
        ("none", "None"),
        (("last", "none"), "None"),
        ("10.0.0.9", "10.0.0.9:80"),
        (("last", "10.0.0.9", "libc"), "10.0.0.9:80"),
        (("none", "libc"), "None"),
    ],
)
def test_where_a_server_is_until_the_first_answer(of, init_addr, where) -> None:
    one = of({"servers": {"s": {"address": f"{NAME}:80", "init_addr": init_addr}}})
    assert one.at("s") == where
    assert (one.decisions[0].condition is Condition.DOWN) == (where == "None")
    assert one.plan.unresolved == []


def test_two_servers_of_one_name_divide_its_addresses(of, dns) -> None:
    dns.set(NAME, "A", "10.0.0.1", "10.0.0.2")
    one = of({"servers": dict.fromkeys("abc", f"{NAME}:80")})
    one.run(lambda: one.at("a") != "[::1]:80" and one.at("c") == "None")
    assert {one.at("a"), one.at("b")} == {"10.0.0.1:80", "10.0.0.2:80"}
    assert any("b/a changed its IP from ::1 to 10.0.0." in line and line.endswith(" by r/n.") for line in one.said)
    assert any("Server b/c is going DOWN for maintenance (No IP for server b/c)" in line for line in one.said)


def test_two_hundred_addresses_for_three_servers(of, dns) -> None:
    dns.set(NAME, "A", *(f"10.0.1.{n}" for n in range(1, 201)))
    one = of({"server_template": {"prefix": "s", "count": 3, "address": f"{NAME}:80", "init_addr": "none"}})
    one.run(lambda: "None" not in (one.at("s1"), one.at("s2"), one.at("s3")))
    before = [one.at(f"s{n}") for n in (1, 2, 3)]
    assert len(set(before)) == 3
    asked = len(dns.asked)
    again = Bench(one.plan, one.memory)
    again.run(lambda: len(dns.asked) > asked + 20)
    assert [again.at(f"s{n}") for n in (1, 2, 3)] == before, "whatever the order of the answers"
    assert again.said == []


def test_ipv6_alone_will_do(of, dns) -> None:
    dns.set(NAME, "AAAA", "2001:db8::1")
    one = of({"servers": {"s": f"{NAME}:80"}})
    one.run(lambda: one.at("s") == "[2001:db8::1]:80")


@pytest.mark.parametrize(("prefer", "where"), [("ipv4", "10.0.0.1:80"), ("ipv6", "[2001:db8::1]:80")])
def test_of_two_families_one_is_preferred(of, dns, prefer, where) -> None:
    dns.set(NAME, "A", "10.0.0.1")
    dns.set(NAME, "AAAA", "2001:db8::1")
    one = of({"servers": {"s": f"{NAME}:80"}, "resolve_prefer": prefer})
    one.run(lambda: one.at("s") == where)


def test_weights_are_the_records_but_for_an_operators(of, dns) -> None:
    dns.set("a.example", "A", "10.0.0.1")
    dns.set("b.example", "A", "10.0.0.2")
    dns.set(SERVICE, "SRV", "0 1 80 a.example.", "0 10 81 b.example.")
    one = of({"server_template": {"prefix": "s", "count": 2, "address": SERVICE}})
    one.run(lambda: sorted(one.weights()) == [1, 10])
    assert {one.at("s1"), one.at("s2")} == {"10.0.0.1:80", "10.0.0.2:81"}
    first = next(seat for seat in one.plan.seats.values() if one.decisions[seat.index].weight == 1)
    one.decisions.take(first, one.decisions[first.index]._replace(weight=7), tell=False)
    one.remembered.keep(("b", first.server), "weight", 7, by="somebody")
    dns.set(SERVICE, "SRV", "0 3 80 a.example.", "0 20 81 b.example.")
    again = Bench(one.plan, one.memory)
    again.remembered.keep(("b", first.server), "weight", 7, by="somebody")
    again.run(lambda: sorted(again.weights()) == [7, 20])


def test_when_services_end_their_targets_are_asked_for_no_more(of, dns) -> None:
    """Also those that are due at that moment."""
    dns.set("a.example", "A", "10.0.0.1")
    dns.set(SERVICE, "SRV", "0 1 80 a.example.")
    one = of({"server_template": {"prefix": "s", "count": 1, "address": SERVICE}})

    def end() -> bool:
        if one.at("s1") != "10.0.0.1:80":
            return False
        lookups = one.names._lookups
        service, target = (next(each for key, each in lookups.items() if key[2] is is_it) for is_it in (True, False))
        service.status, service._bad_since, service.due, target.due = Status.NX, 0.0, 0.0, 0.0
        one.names._under_way.clear()
        one.names._wake()
        assert list(lookups.values()) == [service]
        assert one.names._under_way.keys() == lookups.keys()
        return True

    one.run(end)
    assert any("s1 is going DOWN for maintenance" in line for line in one.said)


def test_a_target_without_address_takes_no_place(of, dns) -> None:
    dns.set("b.example", "A", "10.0.0.2")
    dns.set(SERVICE, "SRV", "0 1 80 nobody.example.", "0 1 80 b.example.")
    one = of({"server_template": {"prefix": "s", "count": 2, "address": SERVICE}})
    one.run(lambda: sorted((one.at("s1"), one.at("s2"))) == ["10.0.0.2:80", "None"])


def test_where_servers_are_is_kept_and_known_again(of, dns, tmp_path) -> None:
    dns.set(NAME, "A", "10.0.0.1")
    logbook = Logbook(Storage(str(tmp_path / "state"), None))
    try:
        backend = {"servers": {"s": f"{NAME}:80"}}
        one = of(backend, logbook)
        one.run(lambda: one.at("s") == "10.0.0.1:80")
        assert json.loads((tmp_path / "state" / RESOLVED).read_text())["servers"] == {
            "b/s": [f"{NAME}:80", "10.0.0.1", 80, None]
        }
        assert of(backend, logbook).at("s") == "10.0.0.1:80"
        assert of({"servers": {"s": "other.example:80"}}, logbook).at("s") == "[::1]:80", "another name"
        assert of({"servers": {"s": {"address": f"{NAME}:80", "init_addr": "libc"}}}, logbook).at("s") == "[::1]:80"
    finally:
        logbook.close()


def test_whose_record_is_no_more_is_nowhere_after_a_restart_either(of, dns, tmp_path) -> None:
    dns.set(NAME, "A", "10.0.0.1", "10.0.0.2")
    logbook = Logbook(Storage(str(tmp_path / "state"), None))
    kept = tmp_path / "state" / RESOLVED
    try:
        one = of({"server_template": {"prefix": "s", "count": 2, "address": f"{NAME}:80"}}, logbook)
        one.run(lambda: len(json.loads(kept.read_text())["servers"]) == 2 if kept.exists() else False)
        dns.set(NAME, "A", "10.0.0.2")
        one.run(lambda: [each[1] for each in json.loads(kept.read_text())["servers"].values()] == ["10.0.0.2"])
    finally:
        logbook.close()


@pytest.mark.parametrize(
    "octets",
    [
        b"", b"\xff", b"[]", b'{"version": 2, "servers": {"b/s": ["www.example:80", "10.0.0.1", 80, null]}}',
        b'{"version": 1, "servers": []}', b'{"version": 1, "servers": {"b/s": []}}', b"[" * 100_000,
        b'{"version": 1, "servers": {"b/s": ["www.example:80", "nonsense", 80, null]}}',
        b'{"version": 1, "servers": {"b/s": ["www.example:80", "10.0.0.1", 0, null]}}',
        b'{"version": 1, "servers": {"b/s": ["www.example:80", "10.0.0.1", true, null]}}',
        b'{"version": 1, "servers": {"b/s": ["www.example:80", "10.0.0.1", 80, 1e9]}}',
        b'{"version": 1, "servers": {"b/s": ["www.example:80", ["10.0.0.1"], 80, 1]}}',
    ],
)  # fmt: skip
def test_what_was_kept_and_makes_no_sense_is_nothing(of, tmp_path, octets) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / RESOLVED).write_bytes(octets)
    logbook = Logbook(Storage(str(tmp_path / "state"), None))
    try:
        one = of({"servers": {"s": f"{NAME}:80"}}, logbook)
        assert one.at("s") == "[::1]:80"
        assert Last.load(one.plan, logbook.storage).get(one.plan.seats["b", "s"]) is None
    finally:
        logbook.close()


def test_a_reload_leaves_servers_where_they_are(of, dns) -> None:
    dns.set(NAME, "A", "10.0.0.1")
    backend = {"servers": {"s": f"{NAME}:80", "t": "10.0.0.7:80", "u": "gone.example:80"}}
    one = of(backend)
    one.run(lambda: one.at("s") == "10.0.0.1:80" and one.at("u") == "None")
    after = of({**backend, "servers": backend["servers"] | {"v": "10.0.0.8:80"}})
    inherit(after.plan, after.memory, Former(one.plan, one.memory))
    boards = [after.plan.seats["b", name].at(after.memory.board[i]) for i, name in enumerate("stuv")]
    assert boards == [Address("10.0.0.1", 80), Address("10.0.0.7", 80), None, Address("10.0.0.8", 80)]


def test_many_names_that_are_due_at_once_have_their_turn(of, dns) -> None:
    """More than are asked for at a time, and all of them due again before the last one was."""
    for number in range(200):
        dns.set(f"n{number}.example", "A", f"10.1.0.{number}")
    one = of({"servers": {f"s{n}": {"address": f"n{n}.example:80", "init_addr": "none"} for n in range(200)}})
    one.run(lambda: all(seat.at(one.decisions[seat.index]) is not None for seat in one.plan.seats.values()))
