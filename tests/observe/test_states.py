"""show servers state, show servers conn, show backend."""

from __future__ import annotations

import pytest

from balancer.observe import states
from balancer.observe.snapshot import LastCheck
from balancer.pool.orders import Admin, Condition, ServerState
from tests.observe.conftest import NOW


def fields(house, server: str) -> dict[str, str]:
    version, header, *lines = states.state(house.look()).splitlines()
    assert version == "1"
    names = header.removeprefix("# ").split(" ")
    found = [dict(zip(names, line.split(" "), strict=True)) for line in lines]
    return next(each for each in found if each["srv_name"] == server)


def test_a_server_stands_with_all_its_numbers(house) -> None:
    found = fields(house, "up")
    assert (found["be_id"], found["be_name"], found["srv_id"], found["srv_addr"], found["srv_port"]) == (
        "5", "app", "1", "10.0.0.1", "80"
    )  # fmt: skip
    assert (found["srv_op_state"], found["srv_admin_state"]) == ("2", "0")
    assert (found["srv_uweight"], found["srv_iweight"], found["srv_time_since_last_change"]) == ("3", "3", "90")
    # L7OK, passed, 4 of rise 2 and fall 3, configured and enabled.
    assert (found["srv_check_status"], found["srv_check_result"]) == ("15", "3")
    assert (found["srv_check_health"], found["srv_check_state"]) == ("4", "6")


@pytest.mark.parametrize(
    ("state", "op", "admin", "check"),
    [
        (ServerState(Condition.UP, health=4), "2", "0", "6"),
        (ServerState(Condition.UP, Admin.DRAIN, health=4), "2", "8", "6"),
        (ServerState(Condition.UP, Admin.MAINT, health=4), "0", "1", "14"),
        (ServerState(Condition.DOWN), "0", "0", "6"),
        (ServerState(Condition.DOWN, Admin.MAINT), "0", "1", "14"),
    ],
)
def test_states_are_haproxys_numbers(house, state: ServerState, op: str, admin: str, check: str) -> None:
    house.set("app", "up", state)
    found = fields(house, "up")
    assert (found["srv_op_state"], found["srv_admin_state"], found["srv_check_state"]) == (op, admin, check)


@pytest.mark.parametrize(
    ("code", "status", "result"),
    [("L4OK", "6", "3"), ("L4TOUT", "7", "2"), ("L4CON", "8", "2"), ("L7TOUT", "12", "2"), ("L7STS", "17", "2")],
)
def test_checks_are_haproxys_numbers(house, code: str, status: str, result: str) -> None:
    house.set("app", "up", ServerState(Condition.UP, health=4), LastCheck(code, "", None, "", 0.0, NOW))
    found = fields(house, "up")
    assert (found["srv_check_status"], found["srv_check_result"]) == (status, result)


def test_of_one_backend_alone(house) -> None:
    for write in (states.state, states.connections):
        everyone, some = write(house.look()).splitlines(), write(house.look(), "raw").splitlines()
        assert 0 < len(some) < len(everyone) and set(some) < set(everyone)


def test_connections_in_use_and_idle(house) -> None:
    (line,) = [line for line in states.connections(house.look()).splitlines() if line.startswith("app/up ")]
    assert line == "app/up 5/1 10.0.0.1 80 - 5000 5 6 5 2 0 -1 2 2"


def test_backends_by_name(house) -> None:
    assert states.backends(house.look()) == "# name\napp\nraw\nnames\n"
