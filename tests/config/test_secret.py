from __future__ import annotations

import itertools

import pytest

from balancer.config.read import loads
from balancer.config.secret import is_secret, key_path
from balancer.errors import ConfigError

SECRET, NUMBER = "Kumquat7Zebra", "8371964205"
WHOLE = {
    "stats": "uri: /",
    "vrrp": "priority: 100",
    "heartbeat": "",
    "check": "interval: 2s",
    "rule": "{allow: true}",
}
FILE = """
frontends:
  web: {{mode: http, bind: "127.0.0.1:8080", default_backend: b, http_request: [{rule}]}}
backends:
  b: {{check: {{type: http, path: /, {check}}}, servers: {{s: {{address: "127.0.0.1:8001"}}}}}}
stats: {{bind: "127.0.0.1:7000", {stats}}}
vrrp:
  instances:
    VI: {{interface: lo, virtual_router_id: 5, {vrrp}, virtual_ipaddress: [10.9.0.9]}}
  {heartbeat}
"""
BEAT = "heartbeat: {bind: 127.0.0.1, peers: [127.0.0.2]"
PLACES = {
    "stats": [
        "users: {admin: @}", "users: {admin: {password: @}}", "users: @", "users: [@]", "users: {admin: [@]}",
        "users: {admin: {password: @, admn: true}}", "users: {admin: {passwd: @}}", "password: @",
        "users: {admin: {password: {x: @}}}", "users: admin:@", "users: {admin:@}", "users: {admin: {@}}",
        "users: {@: {passwd: x}}", "users: {@: [admin]}", "users: {@: 5}", "users: {@: {admin: 5}}", "users: {@}",
        "users: {@: {password: $1$salt$qJH7.N4xYta3aEG/dfqo/0}}", "admin: @",
    ],
    "vrrp": [
        "authentication: {type: pass, password: @}", "authentication: {type: pass, passwd: @}", "auth_pass: @",
        "authentication: @", "authentication: [@]", "authentication: {password: [@]}",
        "authentication: {auth_type: PASS, auth_pass: @}", "authentication: {type: none, password: @}",
    ],
    "heartbeat": [
        BEAT + ", key: @}", BEAT + ", key: [@]}", BEAT + ", key: {a: @}}", BEAT + ", secret: @}",
        "heartbeat: @", "heartbeat: {key: @}",
    ],
    "check": [
        "headers: {Authorization: @}", "headers: {Authorization: [@]}", "headers: @", "headers: [@]",
        "header: {Authorization: @}", "headers: [{Authorization: @}]",
    ],
    "rule": [
        "{set_header: {Authorization: @}}", "{set_header: {Authorization: [@]}}", "{set_header: @}",
        "{add_header: [Authorization, @]}", "{set_header: {X-Token: @}, iff: {path: /}}", "{auth: {users: {a: @}}}",
        "{auth: @}",
    ],
}  # fmt: skip
# What somebody may have for a password, and write as it is or with the wrong quotes.
FORMS = [
    SECRET, NUMBER, f'"{SECRET}"', f"'{SECRET}", f'"{SECRET}\\u0001"', f'"{SECRET}\\n"', f'"\\q{SECRET}"', SECRET * 40,
    f"!{SECRET}", f"*{SECRET}", f"&{SECRET}", f"@{SECRET}", f"%{SECRET}", f"{SECRET}: x", f'"${{{SECRET}"',
    f'"${{NOT_SET}}{SECRET}"', f'"{SECRET}é"',
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_no_complaint_repeats_it(place: str) -> None:
    refused = 0
    for text, form in itertools.product(PLACES[place], FORMS):
        file = FILE.format(**(WHOLE | {place: text.replace("@", form)}))
        try:
            loads(file, node="here", environ={})
        except ConfigError as error:
            refused += 1
            assert SECRET not in str(error) and NUMBER not in str(error), text.replace("@", form)
    assert refused > len(FORMS) * len(PLACES[place]) / 2


def test_what_is_wrong_is_said_all_the_same() -> None:
    def said(place: str, text: str) -> str:
        with pytest.raises(ConfigError) as refused:
            loads(FILE.format(**(WHOLE | {place: text})), node="here", environ={})
        return str(refused.value)

    assert "users.…: what begins with * is no text to YAML; put it in" in said("stats", "users: {admin: *a }")
    assert "password: what begins with ! is no text to YAML" in said("stats", "users: {admin: {password: !a }}")
    assert "stats.users: wants a mapping (lines of `key: value`), not this value" in said("stats", "users: abc")
    assert "stats.users.….pasword: unknown key" in said("stats", "users: {admin: {pasword: abc}}")
    assert "users.…: this name is not allowed; a user's name has no colon" in said("stats", "users: {admin:x: y}")
    assert "authentication.type: 'paas' is not allowed" in said("vrrp", "authentication: {type: paas, password: x}")
    assert "heartbeat.key: without quotes this is a number to YAML" in said("heartbeat", BEAT + ", key: 123}")


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        (("stats", "users", "admin"), True),
        (("stats", "admin"), True),
        (("stats", "tls", "key"), False),
        (("vrrp", "heartbeat", "key"), True),
        (("vrrp", "heartbeat", "peers", 0), False),
        (("vrrp", "heartbeat"), True),
        (("backends", "token-service", "balance"), False),
        (("backends", "b", "check", "headers", "X-Any"), True),
        ((), False),
    ],
)
def test_where_a_secret_may_stand(path: tuple[str | int, ...], answer: bool) -> None:
    assert is_secret(path) is answer


def test_paths_of_keys_fit_on_a_line() -> None:
    assert key_path(("frontends", "web", "bind", 1, "address")) == "frontends.web.bind[1].address"
    assert key_path(("frontends", "my web")) == "frontends.my web"
    assert key_path(("a\nb", "", "x" * 100)) == r"'a\nb'." + "''." + repr("x" * 60) + "…"
    assert key_path(()) == ""


def test_paths_of_keys_tell_no_secret() -> None:
    assert key_path(("stats", "users", "admin", "password", "abc", "def")) == "stats.users.….password.….…"
    assert key_path(("stats", "users", "admin", "abc")) == "stats.users.….…"
    assert key_path(("stats", "users", "admin", "passwrd")) == "stats.users.….passwrd"
    assert key_path(("frontends", "users", "mode")) == "frontends.users.mode"
    assert key_path(("nodes", "here", "stats", "users", "users", "x")) == "nodes.here.stats.users.….…"
    assert key_path(("backends", "token-service", "balance")) == "backends.token-service.balance"
