from __future__ import annotations

import pytest

from balancer.addr import parse_address
from balancer.observe.snapshot import Availability, Rates, Roster, ServerEntry, ServerRow, taking
from balancer.pool.facts import COUNTERS, Entity, Sums
from balancer.pool.orders import Admin, Condition, ServerState

ZERO = dict.fromkeys(COUNTERS, 0)
WEB = Entity("frontend", "web")


def row(state: ServerState, *, checked: bool = True, rise: int = 2, fall: int = 3) -> ServerRow:
    entry = ServerEntry(
        "app",
        "s",
        0,
        parse_address("10.0.0.1:80"),
        "",
        mode="tcp",
        backup=False,
        weight=1,
        is_checked=checked,
        rise=rise,
        fall=fall,
    )
    return ServerRow(entry, state, ZERO, Rates()[Entity("server", "app", "s")], None, 1000.0, 900.0)


@pytest.mark.parametrize(
    ("condition", "admin", "health", "checked", "status", "label", "tone"),
    [
        (Condition.UP, Admin.READY, 4, True, "UP", "UP", "up"),
        (Condition.UP, Admin.READY, 3, True, "UP 2/3", "UP", "going-down"),
        (Condition.UP, Admin.READY, 2, True, "UP 1/3", "UP", "going-down"),
        (Condition.DOWN, Admin.READY, 0, True, "DOWN", "DOWN", "down"),
        (Condition.DOWN, Admin.READY, 1, True, "DOWN 1/2", "DOWN", "going-up"),
        (Condition.UNKNOWN, Admin.READY, 0, True, "UP 1/3", "UP", "unchecked"),
        (Condition.UP, Admin.READY, 0, False, "no check", "UP", "unchecked"),
        (Condition.UP, Admin.DRAIN, 4, True, "DRAIN", "DRAIN", "drain"),
        (Condition.UP, Admin.DRAIN, 3, True, "DRAIN 2/3", "DRAIN", "drain"),
        (Condition.UP, Admin.DRAIN, 0, False, "DRAIN", "DRAIN", "drain"),
        (Condition.DOWN, Admin.DRAIN, 0, True, "DOWN", "DOWN", "down"),
        (Condition.UP, Admin.MAINT, 4, True, "MAINT", "MAINT", "maint"),
        (Condition.DOWN, Admin.MAINT, 0, True, "MAINT", "MAINT", "maint"),
    ],
)
def test_a_status_is_haproxys_word(
    condition: Condition, admin: Admin, health: int, checked: bool, status: str, label: str, tone: str
) -> None:
    server = row(ServerState(condition, admin, health=health), checked=checked)
    assert (server.status, server.label, server.tone) == (status, label, tone)


def test_weight_zero_drains_but_is_called_up() -> None:
    server = row(ServerState(Condition.UP, weight=0, health=4))
    assert (server.status, server.label, server.tone) == ("UP", "UP", "drain")


def test_downtime_counts_the_present_outage() -> None:
    down = row(ServerState(Condition.DOWN, last_change=990_000_000, downtime=5_000_000))
    up = row(ServerState(Condition.UP, last_change=990_000_000, downtime=5_000_000))
    assert (down.since, down.downtime) == (10.0, 15.0)
    assert (up.since, up.downtime) == (10.0, 5.0)


def test_a_state_that_never_changed_lasts_since_the_start() -> None:
    assert row(ServerState(Condition.UP)).since == 100.0


def test_the_roster_follows_the_configuration(house) -> None:
    roster = house.roster
    assert [f.name for f in roster.frontends] == ["web", "tls", "dns"]
    assert roster.frontends[0].binds == ("192.0.2.1:80", "[2001:db8::1]:80")
    assert [f.limit for f in roster.frontends] == [20000, 10, 20000]
    assert [(b.name, b.mode) for b in roster.backends] == [("app", "http"), ("raw", "tcp"), ("names", "udp")]
    rows = [server.row for backend in roster.backends for server in backend.servers]
    assert rows == [0, 1, 2, 3, 4]
    assert [s.is_checked for b in roster.backends for s in b.servers] == [True, True, True, True, False]


def test_take_puts_everything_together(house) -> None:
    snapshot = house.look()
    web, tls, dns = snapshot.frontends
    assert (web.status, tls.status, dns.status) == ("OPEN", "FULL", "OPEN")
    app, raw, names = snapshot.backends
    assert (app.active, app.backup, app.status, app.weight) == (1, 1, "UP", 3)
    # The only server is not known yet, so it is the one in use.
    assert (raw.active, raw.status) == (1, "UP")
    assert (names.active, names.status) == (0, "DOWN")
    assert [s.status for s in snapshot.servers] == ["UP", "DOWN", "UP", "UP 1/3", "DRAIN"]
    assert app.servers[0].check is not None and app.servers[0].check.status == 200
    assert raw.servers[0].check is None
    assert (snapshot.requests, snapshot.bytes_out, snapshot.uptime) == (5050, 2_000_400, 3600.0)


def test_a_stopping_daemon_has_no_open_frontend(house) -> None:
    house.process = house.process._replace(stopping=True)
    assert {f.status for f in house.look().frontends} == {"STOP"}


def test_backups_in_use_give_the_backend_its_weight(house) -> None:
    house.set("app", "up", ServerState(Condition.DOWN))
    app = house.look().backends[0]
    assert (app.active, app.backup, app.weight, app.status) == (0, 1, 1, "UP")


def sums(**numbers: int) -> dict[Entity, Sums]:
    return {WEB: Sums({**ZERO, **numbers}, {})}


def test_rates_are_per_second_with_their_maximum() -> None:
    rates = Rates()
    rates.feed(sums(stot=1000, req_tot=5000, conn_tot=1000), 10.0)
    assert rates[WEB].sessions == 0  # what came before we looked is no rate
    rates.feed(sums(stot=1100, req_tot=5600, conn_tot=1100), 12.0)
    assert (rates[WEB].sessions, rates[WEB].requests, rates[WEB].connections) == (50, 300, 50)
    rates.feed(sums(stot=1100, req_tot=5600, conn_tot=1100), 13.0)
    assert (rates[WEB].sessions, rates[WEB].sessions_max) == (0, 50)
    assert (rates[WEB].requests, rates[WEB].requests_max) == (0, 300)


def test_rates_survive_clocks_and_counters_that_go_back() -> None:
    rates = Rates()
    rates.feed(sums(stot=1000), 10.0)
    rates.feed(sums(stot=2000), 9.0)
    rates.feed(sums(stot=2000), 9.0)
    rates.feed(sums(stot=500), 10.0)
    assert rates[WEB].sessions == 0
    rates.feed(sums(stot=600), 11.0)
    assert rates[WEB].sessions == 100


def test_rates_forget_who_is_gone() -> None:
    rates = Rates()
    rates.feed(sums(stot=1), 1.0)
    rates.feed(sums(stot=9), 2.0)
    rates.feed({}, 3.0)
    assert rates[WEB].sessions_max == 0


def test_averages_begin_as_means_and_then_forget_slowly() -> None:
    rates = Rates()
    rates.feed(sums(), 0.0)
    rates.feed(sums(stot=100, ttime=100 * 20_000), 1.0)
    assert rates[WEB].total_time == pytest.approx(0.020)
    rates.feed(sums(stot=200, ttime=100 * 20_000 + 100 * 40_000), 2.0)
    assert 0.029 < rates[WEB].total_time < 0.032
    total = 200
    for second in range(3, 30):
        total += 1000
        rates.feed(sums(stot=total, ttime=6_000_000 + (total - 200) * 1000), float(second))
    assert rates[WEB].total_time == pytest.approx(0.001, rel=0.01)


def test_averages_of_a_past_before_us_count_as_one_window() -> None:
    rates = Rates()
    rates.feed(sums(stot=1_000_000, ttime=1_000_000 * 10_000), 0.0)
    assert rates[WEB].total_time == pytest.approx(0.010)
    rates.feed(sums(stot=1_010_240, ttime=1_000_000 * 10_000 + 10_240 * 1000), 1.0)
    assert rates[WEB].total_time == pytest.approx(0.001, rel=0.01)


def test_sessions_still_open_are_not_averaged() -> None:
    rates = Rates()
    rates.feed(sums(), 0.0)
    rates.feed(sums(stot=10, scur=10), 1.0)
    assert rates[WEB].total_time == 0.0
    rates.feed(sums(stot=10, scur=0, ttime=50_000), 2.0)
    assert rates[WEB].total_time == pytest.approx(0.005)


def test_availability_counts_outages(house) -> None:
    roster = Roster((), house.roster.backends[1:2])
    entry = roster.backends[0].servers[0]
    up, down = ([ServerState()] * entry.row + [ServerState(c)] for c in (Condition.UP, Condition.DOWN))
    availability = Availability(started=0.0)
    availability.feed(roster, up, 10.0)
    assert availability["raw"] == (True, 0.0, 0, 0.0)
    availability.feed(roster, down, 20.0)
    availability.feed(roster, down, 21.0)
    assert availability["raw"] == (False, 20.0, 1, 0.0)
    availability.feed(roster, up, 25.0)
    assert availability["raw"] == (True, 25.0, 1, 5.0)
    availability.feed(roster, down, 26.0)
    assert availability["raw"] == (False, 26.0, 2, 5.0)


def test_a_backend_down_from_the_start_was_down_once(house) -> None:
    house.set("raw", "one", ServerState(Condition.DOWN))
    availability = Availability(started=5.0)
    availability.feed(house.roster, list(house.board), 6.0)
    assert availability["raw"] == (False, 5.0, 1, 0.0)


def test_a_large_picture_is_taken_in_pieces(house) -> None:
    """So that thousands of servers keep no check waiting."""
    roster = house.roster
    app = roster.backends[0]
    large = roster._replace(backends=(app._replace(servers=app.servers * 1000),))
    house.roster = large
    pieces = taking(
        large,
        house.process,
        sums=house.sums(),
        states=list(house.board),
        checks=house.checks,
        rates=house.rates,
        availability=house.availability,
        now=1000.0,
    )
    assert sum(1 for _ in pieces) >= 3000 // 128
    assert len(house.look().backends[0].servers) == 3000
