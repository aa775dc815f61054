from __future__ import annotations

from balancer.errors import BadRequest, BadResponse, BalancerError, ConfigError, Problem, ProtocolError


def test_a_problem_is_a_line_that_editors_jump_to():
    assert str(Problem("balancer.yaml", 3, 9, "frontends.web.mode", "'tpc'")) == (
        "balancer.yaml:3:9: frontends.web.mode: 'tpc'"
    )


def test_a_problem_of_the_whole_file_names_no_key():
    assert str(Problem("balancer.yaml", 1, 1, "", "cannot be read")) == "balancer.yaml:1:1: cannot be read"


def test_all_problems_are_told():
    problems = [Problem("f", 1, 1, "a", "x"), Problem("f", 2, 1, "b", "y")]
    error = ConfigError(problems)
    assert error.problems == tuple(problems)
    assert str(error) == "f:1:1: a: x\nf:2:1: b: y"


def test_who_is_at_fault_stands_in_the_type():
    refused = BadRequest("two Host lines")
    assert (refused.why, refused.status) == ("two Host lines", 400)
    assert BadRequest("too large", 431).status == 431
    assert isinstance(refused, ProtocolError) and isinstance(BadResponse("no status"), ProtocolError)
    assert issubclass(ProtocolError, BalancerError) and issubclass(ConfigError, BalancerError)
