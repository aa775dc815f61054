from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from balancer.config import read
from balancer.config.check import warnings
from balancer.config.model import Config

Load = Callable[..., Config]

WEB = """\
frontends:
  web: {mode: http, bind: "10.0.0.1:80", default_backend: b}
backends:
  b: {check: {type: tcp}, servers: {a: {address: "10.0.1.1:80"}, c: {address: "10.0.1.2:80"}}}
"""


def test_a_plain_configuration_warns_of_nothing(config: Load, examples: Path) -> None:
    assert warnings(config(WEB)) == []
    assert warnings(read.load(examples / "minimal.yaml", node="this", environ={})) == []


def test_the_cluster_is_told_what_does_not_run(examples: Path) -> None:
    said = warnings(read.load(examples / "cluster.yaml", node="this", environ={}))
    assert said[:3] == [
        "frontends: ipvs-http, dns and dns-tcp will not run: this version has no `engine: kernel` yet",
        "gateway: nothing is masqueraded: this version does not program the kernel yet",
        "global.runtime_socket: will not be opened: this version takes no runtime commands yet",
    ]
    assert not any("mypasswd" in text or "123" in text for text in said)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("mode: http", "mode: http, timeout: {client: 10s}",
         "frontends.web.timeout.client: 10s is shorter than the server's 30s: "
         "a slow answer is logged as the client's fault"),
        ("mode: http", "mode: http, forwarding: nat", "frontends.web.forwarding: has no effect with engine proxy"),
        ("mode: http", "mode: http, udp: {}", "frontends.web.udp: has no effect with mode http"),
        ("check: {type: tcp}, ", "", "backends.b.check: there is none, so its servers always count as up"),
        (':80"}', ':80", weight: 0}', "backends.b.servers: every weight is 0, so no new client is served"),
        (':80"}', ':80", backup: true}', "backends.b.servers: all are backups, so they serve from the start"),
        ("10.0.1.2", "10.0.1.1", "backends.b.servers.c: has the address of a (10.0.1.1:80)"),
        ("check:", "hash_type: consistent, check:", "backends.b.hash_type: has no effect with balance roundrobin"),
        ('1.1:80"', '1.1:80", cookie: a', "backends.b.servers.a.cookie: has no effect, as the backend has no `cookie`"),
        ('check: {type: tcp}, servers: {a: {', "check: {type: tcp}, cookie: {name: S}, servers: {a: {cookie: a, ",
         "backends.b.servers.c: has no cookie value, so its clients are not kept"),
        ("{type: tcp}", "{type: http, tls: {ca_file: /dev/../etc/hostname}}",
         "backends.b.check.tls.ca_file: has no effect without `verify: true`"),
        ("frontends:", "stats: {bind: ':7000', users: {a: x, b: y}}\nfrontends:",
         "stats.users: plain-text password of a and b; ${NAME} takes it from outside"),
    ],
)  # fmt: skip
def test_this_deserves_a_line(config: Load, old: str, new: str, says: str) -> None:
    assert warnings(config(WEB.replace(old, new))) == [says]


def test_no_check_on_purpose_and_passwords_from_outside_deserve_none(config: Load) -> None:
    assert warnings(config(WEB.replace("type: tcp", "type: none"))) == []
    assert warnings(config(WEB + "stats: {bind: ':7000', users: {a: '${X}'}}", X="secret")) == []


def test_a_long_password_of_vrrp(config: Load) -> None:
    text = """
vrrp:
  instances:
    A:
      interface: eth0
      virtual_router_id: 1
      virtual_ipaddress: 10.0.0.1
      authentication: {type: pass, password: "${X}"}
"""
    assert warnings(config(text, X="12345678")) == []
    assert warnings(config(text, X="123456789")) == [
        "vrrp.instances.A.authentication: only the first 8 octets of the password count"
    ]
