"""What servers are told, as it may be written."""

from __future__ import annotations

from typing import Any

import pytest

from balancer.config.model import Frontend


def told(**own: Any) -> Frontend:
    return Frontend.model_validate({"mode": "http", "bind": ":80", "default_backend": "b"} | own, strict=None)


@pytest.mark.parametrize("given", ["port", ("port",), {"headers": "port"}, {"headers": ("port",), "if_none": False}])
def test_x_forwarded_is_a_word_a_list_or_a_mapping(given: Any) -> None:
    frontend = told(x_forwarded=given)
    assert frontend.x_forwarded is not None
    assert frontend.x_forwarded.headers == ("port",)
    assert not frontend.x_forwarded.exclude and not frontend.x_forwarded.if_none
    assert frontend.has_rules


def test_nothing_is_told_of_itself() -> None:
    frontend = told()
    assert frontend.x_forwarded is frontend.forwarded is frontend.forwarded_for is frontend.request_id is None
    assert not frontend.has_rules
    assert not told(forwarded_for=True).has_rules


def test_whose_headers_there_are_none_of() -> None:
    for key in ("forwarded", "forwarded_for", "x_forwarded"):
        more = {"headers": "host"} if key == "x_forwarded" else {}
        own = getattr(told(**{key: {"except": "10.0.0.0/8", "if_none": True} | more}), key)
        assert own.exclude == ("10.0.0.0/8",) and own.if_none
