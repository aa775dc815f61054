from __future__ import annotations

import pytest

from balancer.health.result import CheckResult, Code


def test_what_a_server_said_is_bounded_and_printable():
    result = CheckResult(Code.L7STS, 0.0, "evil\r\n\x1b[2J caf\xe9" + "x" * 70_000, 500)
    assert result.info.startswith("evil???[2J caf?xxx")
    assert len(result.info) == 127


@pytest.mark.parametrize("code", Code)
def test_only_passed_checks_are_ok(code):
    assert CheckResult(code, 0.0).ok == code.name.endswith("OK")


def test_a_socket_error_says_nothing_of_the_server():
    assert [code for code in Code if not CheckResult(code, 0.0).is_conclusive] == [Code.SOCKERR]


def test_description_and_duration_as_haproxy_tells_them():
    result = CheckResult(Code.L4CON, 0.0019, "Connection refused")
    assert (result.description, result.milliseconds) == ("Layer4 connection problem", 1)
