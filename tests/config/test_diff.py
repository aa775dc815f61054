"""Two configurations, key by key."""

from __future__ import annotations

from typing import Any

import pytest

from balancer.config import diff
from balancer.config.diff import Key
from balancer.config.model import Backend, Bind, Config, Frontend, Global, Server, Stats, User

SERVER = {"address": "127.0.0.1:1"}
FRONT: dict[str, Any] = {"mode": "http", "bind": "127.0.0.1:1", "default_backend": "b"}


def keys(kind: type, old: dict[str, Any], new: dict[str, Any]) -> list[Key]:
    return list(diff.keys(kind.model_validate(old), kind.model_validate(new)))


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ({}, {}, []),
        ({}, {"weight": 5}, [("weight", "1", "5")]),
        ({"weight": 5}, {"weight": 5, "backup": True}, [("backup", "false", "true")]),
        ({}, {"maxconn": 7}, [("maxconn", "", "7")]),
        ({"slowstart": "90s"}, {"slowstart": "1500ms"}, [("slowstart", "90s", "1500ms")]),
        ({"slowstart": "2h"}, {"slowstart": "1d"}, [("slowstart", "2h", "1d")]),
        ({"check": {"port": 1}}, {"check": {"port": 2}}, [("check.port", "1", "2")]),
        ({}, {"address": "[::1]:80"}, [("address", "127.0.0.1:1", "[::1]:80")]),
        ({}, {"address": "/run/a.sock"}, [("address", "127.0.0.1:1", "/run/a.sock")]),
    ],
)
def test_of_a_server(old: dict[str, Any], new: dict[str, Any], found: list[tuple[str, str, str]]) -> None:
    assert keys(Server, SERVER | old, SERVER | new) == [Key(*each) for each in found]


def test_permission_bits_and_names_as_the_file_has_them() -> None:
    assert keys(Bind, {"address": "/a", "mode": "0660"}, {"address": "/a", "mode": "0600"}) == [
        ("mode", '"0660"', '"0600"')
    ]
    old, new = ({"error_files": {"503": f"/{name}"}} for name in "ab")
    context = {"directory": "/"}
    found = diff.keys(
        Frontend.model_validate(FRONT | old, context=context), Frontend.model_validate(FRONT | new, context=context)
    )
    assert list(found) == [Key("error_files.503", "/a", "/b")]


def test_a_list_of_rules_from_the_first_that_is_different() -> None:
    rules = [{"deny": status} for status in (403, 404, 413)]
    found = keys(Frontend, FRONT | {"http_request": (rules[0], rules[2])}, FRONT | {"http_request": tuple(rules)})
    assert [key.key for key in found] == ["http_request[1]"]
    assert (found[0].old, "404" in found[0].new) == ("", True)
    found = keys(Frontend, FRONT | {"http_request": (rules[0],)}, FRONT | {"http_request": (rules[1],)})
    assert [key.key for key in found] == ["http_request[0].deny"]


def test_a_rate_and_a_list() -> None:
    limits = {"limits": {"request_rate": "100/10s", "exempt": ("192.0.2.0/24", "198.51.100.0/24")}}
    found = keys(Frontend, FRONT, FRONT | limits)
    assert found[0].new == "{request_rate: {limit: 100/10s}, exempt: [192.0.2.0/24, 198.51.100.0/24]}"


SECRETS = [
    (User, {"password": "secret-1"}, {"password": "secret-2"}),
    (Stats, {"bind": "*:1", "users": {"a": "secret-1"}}, {"bind": "*:1", "users": {"a": "secret-2", "b": "secret-3"}}),
    (Backend, {"servers": {"s": SERVER}}, {
        "servers": {"s": SERVER}, "check": {"type": "http", "headers": {"Authorization": "secret-1"}}}),
    (Backend, {"servers": {"s": SERVER}, "check": {"type": "http", "headers": {"Authorization": "secret-1"}}}, {
        "servers": {"s": SERVER}, "check": {"type": "http", "headers": {"Authorization": "secret-2"}}}),
    (Frontend, FRONT, FRONT | {"http_request": ({"set_header": {"X-Token": "secret-1"}},)}),
    (Frontend, FRONT | {"http_request": ({"set_header": {"X-Token": "secret-2"}},)},
     FRONT | {"http_request": ({"set_header": {"X-Token": "secret-1"}},)}),
    (Frontend, FRONT, FRONT | {"use_backend": ({"backend": "c", "if": {"header": {"X-Key": "secret-1"}}},)}),
    (Frontend, FRONT, FRONT | {"use_backend": ({"backend": "c", "if": {"any": ({"cookie": {"k": "secret-1"}},)}},)}),
    (Config, {"vrrp": {"heartbeat": {"bind": "192.0.2.1:1", "peers": "192.0.2.2:1", "key": "secret-secret-1"}}},
     {"vrrp": {"heartbeat": {"bind": "192.0.2.1:1", "peers": "192.0.2.2:1", "key": "secret-secret-2"}}}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "old", "new"), SECRETS)
def test_no_secret_is_shown(kind: type, old: dict[str, Any], new: dict[str, Any]) -> None:
    context = {"part": True}
    found = list(diff.keys(kind.model_validate(old, context=context), kind.model_validate(new, context=context)))
    assert found
    assert "secret-" not in str(found)
    assert diff.HIDDEN in str(found)


def test_a_long_value_is_cut() -> None:
    found = keys(Frontend, FRONT, FRONT | {"http_request": tuple({"deny": 403} for _ in range(50))})
    assert len(found) == 50
    text = keys(Global, {}, {"log": tuple({"target": f"/var/log/{'x' * 50}{i}"} for i in range(9))})[0]
    assert len(text.new) <= 100 < 9 * 50
