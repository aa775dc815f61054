"""A small house to observe: three frontends and backends, a server in every state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from balancer.config import model
from balancer.observe.snapshot import Availability, LastCheck, Process, Rates, Roster, Snapshot, take
from balancer.pool.facts import Entity, Layout, Ledger, Sums
from balancer.pool.orders import Admin, Board, Condition, ServerState
from balancer.pool.routers import PeerFacts, RouterFacts, ScriptFacts, Standing, Term, Trouble

NOW = 1_795_392_514.0
US = 1_000_000


class House:
    """Shared memory as a worker and control leave it, and what observe makes of it."""

    def __init__(self, config: model.Config, *, description: str = "Nodo Master") -> None:
        self.roster = Roster.of(config)
        self.layout = Layout.of(config.frontends, [(name, b.servers) for name, b in config.backends.items()])
        self.block = memoryview(bytearray(self.layout.size))
        self.ledger = Ledger(self.block, self.layout)
        servers = [(b, s) for b, backend in config.backends.items() for s in backend.servers]
        self.rows = {name: i for i, name in enumerate(servers)}
        self.board = Board(memoryview(bytearray(Board.size(len(servers)))))
        for i in range(len(servers)):
            self.board[i] = ServerState(Condition.UP, health=4, last_change=int(NOW - 60) * US)
        self.checks: dict[int, LastCheck] = {}
        self.rates = Rates()
        self.process = Process("0.1.0", "director", description, 4711, NOW - 3600, workers=2, maxconn=100)
        self.availability = Availability(self.process.started)
        self.routers: Standing | None = None

    def count(self, kind: str, proxy: str, server: str = "", **numbers: int) -> None:
        """Let a worker have counted so much."""
        counters = self.ledger[Entity(kind, proxy, server)]  # type: ignore[arg-type]
        for name, value in numbers.items():
            setattr(counters, name, value)
        counters.idle = range(counters.srv_icur)
        if not counters.dirty:
            counters.dirty = True
            self.ledger.touched.append(counters)
        self.ledger.flush()

    def set(self, backend: str, server: str, state: ServerState, check: LastCheck | None = None) -> None:
        row = self.rows[backend, server]
        self.board[row] = state
        if check is not None:
            self.checks[row] = check

    def sums(self) -> dict[Entity, Sums]:
        return Sums.read([self.block], self.layout)

    def feed(self, now: float) -> None:
        self.rates.feed(self.sums(), now)
        self.availability.feed(self.roster, list(self.board), now)

    def look(self, now: float = NOW) -> Snapshot:
        return take(
            self.roster,
            self.process,
            sums=self.sums(),
            states=list(self.board),
            checks=self.checks,
            rates=self.rates,
            availability=self.availability,
            now=now,
            routers=self.routers,
        )


def config(backends: Mapping[str, object] | None = None) -> model.Config:
    """Names are taken in the order given; every backend has a frontend of its own."""
    return model.Config.model_validate(
        {
            "frontends": {
                "web": {"mode": "http", "bind": ("192.0.2.1:80", "[2001:db8::1]:80"), "default_backend": "app"},
                "tls": {"mode": "tcp", "bind": ("192.0.2.1:443",), "default_backend": "raw", "maxconn": 10},
                "dns": {"mode": "udp", "bind": ("192.0.2.1:53",), "default_backend": "names"},
            },
            "backends": {
                "app": {
                    "check": {"type": "http"},
                    "servers": {
                        "up": {"address": "10.0.0.1:80", "weight": 3, "cookie": "c1"},
                        "down": {"address": "10.0.0.2:80"},
                        "spare": {"address": "10.0.0.3:80", "backup": True},
                    },
                },
                "raw": {"check": {"type": "tcp"}, "servers": {"one": {"address": "[2001:db8::2]:443"}}},
                "names": {"servers": {"ns": {"address": "10.0.0.5:53"}}},
            },
        }
    )


@pytest.fixture
def house() -> House:
    house = House(config())
    house.feed(NOW - 1)
    house.count("process", "", scur=7, stot=900, conn_tot=900, log_dropped=3, tasks=2)
    house.count("frontend", "web", scur=5, smax=8, stot=700, conn_tot=700, req_tot=5000, bin=10_000, bout=2_000_000,
                ereq=2, hrsp_2xx=4990, hrsp_4xx=10, intercepted=2)  # fmt: skip
    house.count("frontend", "tls", scur=10, smax=10, stot=200, conn_tot=200, bin=300, bout=400)
    house.count("frontend", "dns", stot=50, req_tot=50, udp_dropped=1, udp_late=2, udp_forged=3)
    app = house.ledger[Entity("backend", "app")]
    app.connect_times[10] = 30  # below 1.024 ms
    app.connect_times[35] = 1
    app.response_times[14] = 100
    app.total_times[0] = 1
    # What no server got; `Sums` adds the servers' own.
    house.count("backend", "app", scur=5, smax=6, econ=1, hrsp_4xx=10)
    house.count("server", "app", "up", scur=5, smax=6, stot=5000, lbtot=4000, bin=10_000, bout=2_000_000, req_tot=5000,
                hrsp_2xx=4990, wretr=4, wredis=1, connect=40, reuse=4960, srv_icur=2, ctime=31_000_000, rtime=900_000,
                ttime=1_000_000, qtime_max=5, ctime_max=30_000_000, lastsess=int(NOW) - 2)  # fmt: skip
    passed = LastCheck("L7OK", "Layer7 check passed", 200, "OK", 0.0031, NOW - 1)
    refused = LastCheck("L4CON", "Layer4 connection problem", None, "Connection refused", 0.0, NOW - 1)
    house.set("app", "up", ServerState(Condition.UP, weight=3, health=4, last_change=int(NOW - 90) * US), passed)
    down = ServerState(Condition.DOWN, last_change=int(NOW - 30) * US, downs=2, check_failures=5, downtime=10 * US)
    house.set("app", "down", down, refused)
    house.set("raw", "one", ServerState(Condition.UNKNOWN, last_change=int(NOW) * US))
    house.set("names", "ns", ServerState(Condition.UP, Admin.DRAIN, last_change=int(NOW - 5) * US))
    house.feed(NOW)
    return house


@pytest.fixture
def make_house() -> Callable[..., House]:
    """Build one of your own."""
    return House


def router(name: str = "VI_E", **more: Any) -> RouterFacts:
    """A master that lacks a server."""
    facts = {
        "interface": "eth0", "vrid": 51, "version": 2,
        "state": "MASTER", "since": NOW - 192, "why": "no master is heard",
        "base_priority": 150, "priority": 130, "addresses": ("192.0.2.200/32", "192.0.2.202/24"),
        "source": "192.0.2.1", "master": "", "master_priority": 0, "interval": 1.0, "group": "VG1",
        "heard_from": "192.0.2.3", "heard_priority": 100, "heard": NOW - 192.5,
        "released_until": None,
        "terms": (
            Term("priority", 150, ""),
            Term("interface eth1", 0, "is up (weight -5)"),
            Term("backend web", -20, "2 of 3 servers up here, 3 of 3 at 10.9.0.3 (weight -60)"),
        ),
        "counters": {"advert_sent": 192, "become_master": 1, "lower_priority_rcvd": 4},
        "troubles": (Trouble("192.0.2.9 is master too", NOW - 300, NOW - 2, 3),),
    }  # fmt: skip
    return RouterFacts(name=name, **facts | more)


def two_routers() -> Standing:
    """One is master, the other has a fault; a peer and two scripts."""
    inner = router(
        "VI_I", interface="eth1", vrid=52, state="FAULT", since=NOW - 5, why="eth1 is down", priority=150,
        addresses=("2001:db8::c8/128",), source="", master="192.0.2.3", master_priority=100, group="",
        released_until=NOW + 1800, terms=(Term("priority", 150, ""), Term("interface eth1", 0, "is down", True)),
        counters={}, troubles=(), heard_from="", heard_priority=0, heard=None,
    )  # fmt: skip
    return Standing(
        at=NOW,
        routers=(router(), inner),
        scripts=(
            ScriptFacts(name="ping", is_good=False, text="exit status 1"),
            ScriptFacts(name="new", is_good=None, text="not run yet"),
        ),
        peers=(
            PeerFacts(
                address="10.9.0.3:694", is_alive=True, node="standby", last=NOW - 0.3,
                states={"VI_E": "BACKUP"}, servers={"web": (3, 3)},
            ),
            PeerFacts(address="10.9.0.4:694", is_alive=False, node="", last=None),
        ),
    )  # fmt: skip
