from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.config import model
from balancer.health import verdict
from balancer.pool.orders import Admin, Condition, ServerState

SECOND = 1_000_000


def check(**keys):
    return model.TcpCheck(type="tcp", **keys)


def dialogue(state, outcomes, **keys):
    """The texts that a page would show after each check."""
    texts = []
    for ok in outcomes:
        state = verdict.observe(state, ok == "+", check(**keys), now=0)
        texts.append(verdict.status(state, check(**keys)))
    return texts


UP = ServerState(Condition.UP, health=4)
DOWN = ServerState(Condition.DOWN, health=0)
UNKNOWN = ServerState(Condition.UNKNOWN)


@pytest.mark.parametrize(
    ("state", "outcomes", "texts"),
    [
        (UP, "---", ["UP 2/3", "UP 1/3", "DOWN"]),
        (UP, "--+", ["UP 2/3", "UP 1/3", "UP"]),
        (UP, "--+--", ["UP 2/3", "UP 1/3", "UP", "UP 2/3", "UP 1/3"]),
        (DOWN, "++", ["DOWN 1/2", "UP"]),
        (DOWN, "+-+", ["DOWN 1/2", "DOWN", "DOWN 1/2"]),
        (DOWN, "--", ["DOWN", "DOWN"]),
        (UNKNOWN, "+-", ["UP", "UP 2/3"]),
        (UNKNOWN, "-+", ["DOWN", "DOWN 1/2"]),
    ],
)
def test_rise_2_and_fall_3(state, outcomes, texts):
    assert dialogue(state, outcomes) == texts


def test_rise_1_and_fall_1_follow_every_check():
    assert dialogue(UNKNOWN, "+-+-", rise=1, fall=1) == ["UP", "DOWN", "UP", "DOWN"]


def haproxy(health, ok, rise, fall):
    """set_server_check_status() of src/check.c, statement by statement."""
    if not ok:
        if health > 0:
            health -= 1
            if health < rise:
                health = 0
    elif health < rise + fall - 1:
        health += 1
        if health >= rise:
            health = rise + fall - 1
    return health


@given(st.data(), st.integers(1, 20), st.integers(1, 20), st.booleans())
def test_the_counter_is_haproxys(data, rise, fall, ok):
    health = data.draw(st.integers(0, rise + fall - 1))
    assert verdict.count(health, ok, rise=rise, fall=fall) == haproxy(health, ok, rise, fall)


@given(st.text("+-", max_size=40), st.integers(1, 6), st.integers(1, 6))
def test_up_after_rise_successes_in_a_row_and_down_after_fall_failures(outcomes, rise, fall):
    state, run, last = DOWN, 0, ""
    for ok in outcomes:
        run = run + 1 if ok == last else 1
        last = ok
        before = state
        state = verdict.observe(state, ok == "+", check(rise=rise, fall=fall), now=0)
        assert 0 <= state.health < rise + fall
        if before.condition is not state.condition:
            assert run >= (rise if ok == "+" else fall)
        elif run >= (rise if ok == "+" else fall):
            assert state.condition is (Condition.UP if ok == "+" else Condition.DOWN)


@pytest.mark.parametrize(
    ("init_state", "before", "after_failure", "after_success"),
    [("check", "UNKNOWN", "DOWN", "UP"), ("up", "UP 1/3", "DOWN", "UP"), ("down", "DOWN", "DOWN", "DOWN 1/2")],
)
def test_where_a_server_begins(init_state, before, after_failure, after_success):
    state = verdict.initial(init_state, check(), weight=7, now=5)
    assert (state.weight, state.last_change, verdict.status(state, check())) == (7, 5, before)
    assert dialogue(state, "-") == [after_failure]
    assert dialogue(state, "+") == [after_success]


def test_a_server_without_checks_is_up():
    state = verdict.initial("check", model.NoCheck(), weight=1, now=0)
    assert state.is_usable
    assert verdict.status(state, model.NoCheck()) == "no check"


def test_what_is_counted_on_the_way_down_and_up():
    state = verdict.initial("up", check(fall=2), weight=3, now=0)
    state = verdict.observe(state, True, check(fall=2), now=1 * SECOND)
    assert (state.last_change, state.check_failures) == (0, 0)
    state = verdict.observe(state, False, check(fall=2), now=2 * SECOND)
    assert (state.downs, state.check_failures, state.last_change) == (0, 1, 0)
    state = verdict.observe(state, False, check(fall=2), now=3 * SECOND)
    assert (state.downs, state.check_failures, state.last_change, state.downtime) == (1, 2, 3 * SECOND, 0)
    state = verdict.observe(state, False, check(fall=2), now=4 * SECOND)
    assert (state.downs, state.check_failures, state.last_change) == (1, 2, 3 * SECOND)
    state = verdict.observe(state, True, check(fall=2), now=5 * SECOND)
    state = verdict.observe(state, True, check(fall=2), now=7 * SECOND)
    assert (state.condition, state.last_change, state.downtime) == (Condition.UP, 7 * SECOND, 4 * SECOND)
    assert state.weight == 3


def test_a_clock_set_back_takes_no_downtime_off():
    state = ServerState(Condition.DOWN, health=1, last_change=10 * SECOND, downtime=5)
    assert verdict.observe(state, True, check(), now=2 * SECOND).downtime == 5


def test_a_check_changes_nothing_that_the_operator_set():
    state = ServerState(Condition.UP, Admin.DRAIN, weight=0, health=2)
    state = verdict.observe(state, False, check(), now=0)
    assert (state.condition, state.admin, state.weight) == (Condition.DOWN, Admin.DRAIN, 0)


def test_the_state_is_the_same_object_where_nothing_changes():
    assert verdict.observe(UP, True, check(), now=9) is UP
    assert verdict.observe(DOWN, False, check(), now=9) is DOWN


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (ServerState(Condition.UP, health=9), "UP 2/3"),
        (ServerState(Condition.UP, health=0), "DOWN"),
        (ServerState(Condition.DOWN, health=9), "DOWN"),
    ],
)
def test_a_counter_from_before_a_reload_with_another_rise_and_fall(state, text):
    assert dialogue(state, "-") == [text]


def test_leaving_maintenance_the_server_serves_and_the_first_check_decides():
    state = ServerState(Condition.DOWN, health=0, last_change=1 * SECOND, downs=4)
    state = verdict.resumed(state, check(), now=3 * SECOND)
    assert (state.condition, state.health, state.last_change, state.downs) == (Condition.UP, 2, 3 * SECOND, 4)
    assert state.downtime == 2 * SECOND
    assert dialogue(state, "-") == ["DOWN"]
    assert dialogue(state, "+") == ["UP"]
    assert verdict.resumed(UP, check(), now=9).last_change == UP.last_change
    assert verdict.resumed(UP, model.NoCheck(), now=9).condition is Condition.UP


@pytest.mark.parametrize(
    ("state", "seconds"),
    [(UP, 4.0), (UP._replace(health=3), 0.5), (DOWN, 9.0), (DOWN._replace(health=1), 0.5), (UNKNOWN, 0.5)],
)
def test_intervals(state, seconds):
    assert verdict.interval(state, check(interval="4s", fast_interval="500ms", down_interval="9s")) == seconds


@pytest.mark.parametrize(("interval", "fast"), [("4s", 1.0), ("200ms", 0.2)])
def test_intervals_by_default(interval, fast):
    keys = check(interval=interval)
    assert [verdict.interval(state, keys) for state in (UP, DOWN, UNKNOWN)] == [keys.interval, keys.interval, fast]
    assert verdict.timeout(keys) == keys.interval
    assert verdict.timeout(check(interval=interval, timeout="7s")) == 7.0


@pytest.mark.parametrize(
    ("health", "on_error", "text"),
    [
        (4, "fastinter", "UP"), (4, "fail-check", "UP 2/3"), (4, "sudden-death", "UP 1/3"), (4, "mark-down", "DOWN"),
        (3, "sudden-death", "UP 1/3"), (2, "sudden-death", "DOWN"), (2, "fail-check", "DOWN"), (3, "mark-down", "DOWN"),
    ],
)  # fmt: skip
def test_what_errors_with_clients_do(health, on_error, text):
    state = verdict.blamed(UP._replace(health=health), on_error, check(), now=5 * SECOND)
    assert verdict.status(state, check()) == text
    assert state.downs == (text == "DOWN")
    assert verdict.blamed(DOWN, on_error, check(), now=0) is DOWN
