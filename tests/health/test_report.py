"""Golden lines in the words of HAProxy 2.6: its own output for a server that refuses, hangs, answers 503 and so on,
and where numbers differ from that, its format strings (srv_append_status in src/server.c)."""

from __future__ import annotations

import pytest

from balancer.config import model
from balancer.health.report import Severity, Standing, check_line, no_server_line, server_line
from balancer.health.result import CheckResult, Code
from balancer.pool.orders import Admin, Condition, ServerState

CHECK = model.TcpCheck(type="tcp")
REFUSED = CheckResult(Code.L4CON, 0.0002, "Connection refused")
PASSED = CheckResult(Code.L4OK, 0.0, "")


@pytest.mark.parametrize(
    ("result", "line"),
    [
        (
            CheckResult(Code.L7RSP, 0.0, "HTTP content check did not match", 200),
            'Server be/s1 is DOWN, reason: Layer7 invalid response, info: "HTTP content check did not match", '
            "check duration: 0ms. 0 active and 0 backup servers left. "
            "0 sessions active, 0 requeued, 0 remaining in queue.",
        ),
        (
            CheckResult(Code.L6RSP, 0.0, "SSL handshake failure"),
            'Server be/s1 is DOWN, reason: Layer6 invalid response, info: "SSL handshake failure", '
            "check duration: 0ms. 0 active and 0 backup servers left. "
            "0 sessions active, 0 requeued, 0 remaining in queue.",
        ),
        (
            CheckResult(Code.L7TOUT, 0.3018),
            "Server be/s1 is DOWN, reason: Layer7 timeout, check duration: 301ms. "
            "0 active and 0 backup servers left. 0 sessions active, 0 requeued, 0 remaining in queue.",
        ),
        (
            CheckResult(Code.L4TOUT, 0.3004),
            "Server be/s1 is DOWN, reason: Layer4 timeout, check duration: 300ms. "
            "0 active and 0 backup servers left. 0 sessions active, 0 requeued, 0 remaining in queue.",
        ),
        (
            CheckResult(Code.L7STS, 0.0, 'Service "Unavailable"', 503),
            "Server be/s1 is DOWN, reason: Layer7 wrong status, code: 503, "
            'info: "Service <22>Unavailable<22>", check duration: 0ms. '
            "0 active and 0 backup servers left. 0 sessions active, 0 requeued, 0 remaining in queue.",
        ),
    ],
)
def test_down(result, line):
    assert server_line("be", "s1", Condition.DOWN, result=result, standing=Standing(0, 0)) == (Severity.ALERT, line)


def test_down_with_servers_left():
    line = server_line("be", "s", Condition.DOWN, result=REFUSED, standing=Standing(1, 0))
    assert line.text == (
        'Server be/s is DOWN, reason: Layer4 connection problem, info: "Connection refused", check duration: 0ms. '
        "1 active and 0 backup servers left. 0 sessions active, 0 requeued, 0 remaining in queue."
    )


def test_down_with_a_backup_left_and_clients_about():
    line = server_line("be", "s", Condition.DOWN, result=REFUSED, standing=Standing(0, 1, 5, 2, 3))
    assert line.text == (
        'Server be/s is DOWN, reason: Layer4 connection problem, info: "Connection refused", check duration: 0ms. '
        "0 active and 1 backup servers left. Running on backup. 5 sessions active, 2 requeued, 3 remaining in queue."
    )


def test_up():
    line = server_line("be", "s", Condition.UP, result=PASSED, standing=Standing(2, 0, requeued=1, queued=4))
    assert line == (
        Severity.NOTICE,
        "Server be/s is UP, reason: Layer4 check passed, check duration: 0ms. "
        "2 active and 0 backup servers online. 1 sessions requeued, 4 total in queue.",
    )


def test_a_backup_comes_up_while_it_is_alone():
    line = server_line("be", "s2", Condition.UP, result=PASSED, standing=Standing(0, 1), is_backup=True)
    assert line.text == (
        "Backup Server be/s2 is UP, reason: Layer4 check passed, check duration: 0ms. "
        "0 active and 1 backup servers online. Running on backup. 0 sessions requeued, 0 total in queue."
    )


def test_a_draining_server_that_goes_down_alarms_nobody():
    line = server_line("be", "s", Condition.DOWN, result=REFUSED, standing=Standing(1, 0), was_draining=True)
    assert line.severity is Severity.NOTICE


def test_no_server():
    assert no_server_line("be") == (Severity.EMERG, "backend be has no server available!")


@pytest.mark.parametrize(
    ("state", "result", "line"),
    [
        (
            ServerState(Condition.DOWN),
            REFUSED,
            'Health check for server be/s1 failed, reason: Layer4 connection problem, info: "Connection refused", '
            "check duration: 0ms, status: 0/2 DOWN.",
        ),
        (
            ServerState(Condition.DOWN, health=1),
            PASSED,
            "Health check for server be/s1 succeeded, reason: Layer4 check passed, check duration: 0ms, "
            "status: 1/2 DOWN.",
        ),
        (
            ServerState(Condition.UP, health=4),
            PASSED,
            "Health check for server be/s1 succeeded, reason: Layer4 check passed, check duration: 0ms, "
            "status: 3/3 UP.",
        ),
        (
            ServerState(Condition.UP, health=3),
            REFUSED,
            'Health check for server be/s1 failed, reason: Layer4 connection problem, info: "Connection refused", '
            "check duration: 0ms, status: 2/3 UP.",
        ),
        (
            ServerState(Condition.UP, health=4),
            CheckResult(Code.L7OK, 0.012, "OK", 200),
            'Health check for server be/s1 succeeded, reason: Layer7 check passed, code: 200, info: "OK", '
            "check duration: 12ms, status: 3/3 UP.",
        ),
        (
            ServerState(Condition.UP, Admin.DRAIN, health=4),
            PASSED,
            "Health check for server be/s1 succeeded, reason: Layer4 check passed, check duration: 0ms, "
            "status: 3/3 DRAIN.",
        ),
        (
            ServerState(Condition.UP, weight=0, health=4),
            PASSED,
            "Health check for server be/s1 succeeded, reason: Layer4 check passed, check duration: 0ms, "
            "status: 3/3 DRAIN.",
        ),
    ],
)
def test_check(state, result, line):
    assert check_line("be", "s1", state, CHECK, result=result) == (Severity.NOTICE, line)


def test_check_of_a_backup():
    line = check_line("be", "s2", ServerState(Condition.DOWN), CHECK, result=REFUSED, is_backup=True)
    assert line.text.startswith("Health check for backup server be/s2 failed, reason: ")
