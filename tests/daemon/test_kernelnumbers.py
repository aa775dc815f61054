"""What the kernel's counters become in the ledger; over the death of who keeps it, see test_kerneld.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from balancer.daemon import kernelnumbers
from balancer.daemon.kernelnumbers import Numbers
from balancer.errors import KernelError
from balancer.kernel import counters
from balancer.kernel.conntrack import Load
from balancer.kernel.counters import Tally
from balancer.kernel.plan import Planner
from balancer.observe.log import Level
from balancer.pool.facts import Entity, Ledger
from balancer.pool.orders import Condition, ServerState
from balancer.pool.services import Counts


class Kernel:
    """What it would say, and what is said of it."""

    def __init__(self, plan, memory, monkeypatch, mode: str) -> None:
        known = plan(
            {
                "frontends": {"f": {"mode": mode, "engine": "kernel", "bind": "192.0.2.1:80", "default_backend": "b"}},
                "backends": {"b": {"servers": {f"s{i}": f"10.0.0.{i}:80" for i in (1, 2)}}},
            }
        )
        self.ledger = Ledger(memory(known).blocks[-1], known.layout)
        self.indexes = {name: seat.index for (_, name), seat in known.seats.items()}
        addresses = {pair: seat.address for pair, seat in known.seats.items()}
        planner = Planner(known.config, addresses, lambda *pair: known.seats[pair].index)
        self.services = planner.services(lambda _: ServerState(Condition.UP))
        self.label = f"{self.services[0].protocol} 192.0.2.1 80"
        self.loads: dict[tuple[str, tuple[str, int]], Load] = {}
        self.tallies: dict[tuple[str, str], Tally] = {}
        self.error: Exception | None = None
        self.asked = 0
        self.said: list[tuple[Level, str]] = []
        self.now = 0.0
        monkeypatch.setattr(counters, "read", self._read)
        monkeypatch.setattr(kernelnumbers, "time", SimpleNamespace(monotonic=lambda: self.now, time=lambda: 1.0))
        self.numbers = Numbers(
            self.ledger, lambda: (None, self), lambda level, text: self.said.append((level, text)), None
        )
        self.numbers.begin(self.services, ())
        self.numbers.follow(self.services)

    def _read(self, nft, services):
        self.asked += 1
        if isinstance(self.error, KernelError):
            raise self.error
        return dict(self.tallies)

    def counts(self, services):
        if isinstance(self.error, OSError):
            raise self.error
        return dict(self.loads)

    def update(self, now: float) -> None:
        self.now = now
        self.numbers.update(now)

    def row(self, *of: str):
        return self.ledger[Entity(*of)]


@pytest.fixture
def kernel(plan, memory, monkeypatch):
    return lambda mode="tcp": Kernel(plan, memory, monkeypatch, mode)


@pytest.mark.parametrize(("mode", "count"), [("tcp", 3), ("udp", 12)])
def test_what_is_there_and_what_has_been(kernel, mode, count):
    """A flow of datagrams is one whether or not it was answered; a connection that has ended is none."""
    it = kernel(mode)
    it.loads = {(it.label, ("10.0.0.1", 80)): Load(3, 9), (it.label, ("10.0.0.9", 80)): Load(0, 7)}
    it.tallies = {(it.label, "s1"): Tally(5, 50, 500, 40, 400)}
    it.update(1000.0)
    own, front = it.row("server", "b", "s1"), it.row("frontend", "f")
    assert (own.stot, own.lbtot, own.bin, own.bout, own.scur) == (5, 5, 500, 400, count)
    assert (front.stot, front.scur, front.smax) == (5, count, count)
    assert (front.conn_tot, front.req_tot) == ((5, 0) if mode == "tcp" else (0, 50))
    assert it.row("server", "b", "s2").scur == 0
    assert it.numbers.has_connections is (mode == "tcp")
    load, totals, _ = it.numbers.of(it.services[0], it.services[0].targets[0])
    assert (load, totals) == (Load(3, 9), Counts(5, 50, 40, 500, 400))
    it.loads = {}
    it.numbers.count_connections(1001.0)
    it.numbers.update_totals()
    assert (own.scur, own.smax, own.stot) == (0, count, 5)
    assert not it.numbers.has_connections


def test_connections_weigh_as_ipvs_weighs_them(kernel):
    for mode, weight in (("tcp", 2.5), ("udp", 130.0)):
        it = kernel(mode)
        it.loads = {(it.label, ("10.0.0.2", 80)): Load(2, 128)}
        it.update(1000.0)
        assert it.numbers.weights() == {it.indexes["s2"]: weight}


def test_it_asks_only_as_often_as_it_is_time(kernel):
    it = kernel()
    it.update(1000.0)
    it.update(1000.1)
    assert it.asked == 1
    it.update(1002.0)
    assert it.asked == 2
    it.numbers.update_totals()
    assert it.asked == 3


def test_how_fast_it_grows(kernel):
    it = kernel()
    it.update(1000.0)
    it.tallies = {(it.label, "s1"): Tally(4, 40, 400, 20, 200)}
    it.update(1002.0)
    assert it.numbers.of(it.services[0], it.services[0].targets[0])[2] == Counts(2, 20, 10, 200, 100)
    it.update(1004.0)
    assert it.numbers.of(it.services[0], it.services[0].targets[0])[2] == Counts()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KernelError("no table"), "the kernel's counters cannot be read: no table"),
        (OSError(105, "No buffer space available"),
         "the kernel's connections cannot be counted: No buffer space available"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_and_stays_as_it_was(kernel, error, said):
    it = kernel()
    it.loads = {(it.label, ("10.0.0.1", 80)): Load(3, 0)}
    it.tallies = {(it.label, "s1"): Tally(5, 50, 500, 40, 400)}
    it.update(1000.0)
    it.error = error
    it.update(1002.0)
    own = it.row("server", "b", "s1")
    assert it.said == [(Level.ERR, said)] and (own.scur, own.stot) == (3, 5)
