from __future__ import annotations

import os
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


def test_the_cluster_is_told_of_its_passwords_alone(examples: Path) -> None:
    said = warnings(read.load(examples / "cluster.yaml", node="this", environ={}))
    assert said and all("plain-text password" in text for text in said)
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
        ("mode: http", "mode: http, use_backend: [{backend: b}, {backend: b, if: {path: /}}]",
         "frontends.web.use_backend[0]: is for all requests, so what comes behind it has no effect"),
        ("mode: http", "mode: http, http_request: [{deny: true}, {deny: true, if: {path: /}}]",
         "frontends.web.http_request[0]: is for all requests, so the rules behind it have no effect"),
        ("frontends:", "acls: {a: {path: /}, b: a, c: b}\nfrontends:", "acls.c: is used nowhere"),
        ("mode: http", "mode: http, use_backend: {backend: b, if: [{path: /}, {not: {scheme: https}}]}",
         "frontends.web: `scheme` is always http in its conditions without trusted_proxies or accept_proxy"),
        ("10.0.1.2", "10.0.1.1", "backends.b.servers.c: has the address of a (10.0.1.1:80)"),
        ("check:", "hash_type: consistent, check:", "backends.b.hash_type: has no effect with balance roundrobin"),
        ('1.1:80"', '1.1:80", cookie: a', "backends.b.servers.a.cookie: has no effect, as the backend has no `cookie`"),
        ('check: {type: tcp}, servers: {a: {', "check: {type: tcp}, cookie: {name: S}, servers: {a: {cookie: a, ",
         "backends.b.servers.c: has no cookie value, so its clients are not kept"),
        ("{type: tcp}", "{type: http, tls: {ca_file: /dev/../etc/hostname}}",
         "backends.b.check.tls.ca_file: has no effect without `verify: true`"),
        ("{type: tcp}", "{type: tcp}, timeout: {queue: 1s}",
         "backends.b.timeout.queue: has no effect, as none of its servers has a `maxconn`"),
        ('1.1:80"', '1.1:80", maxconn: 5, maxqueue: 2',
         "backends.b.servers.a.maxqueue: has no effect without a cookie or a hash that leads to this server"),
        ("frontends:", "stats: {bind: ':7000', users: {a: x, b: y}}\nfrontends:",
         "stats.users: 2 plain-text passwords; ${NAME} takes one from outside"),
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


ROUTER = """
vrrp:
  scripts: {s: {script: /bin/true}, w: {script: /bin/true, weight: 5}}
  files: {n: {file: /run/n}, z: {file: /run/z, weight: 0}}
  heartbeat: {bind: "10.9.0.2:694", peers: "10.9.0.3:694", key: "${X}"}
  instances:
    A: {interface: eth0, virtual_router_id: 1, virtual_ipaddress: 10.0.0.1, MORE}
"""
IDLE = (
    "vrrp.instances.A.preempt: where it is false on all directors, only FAULT (weight 0) moves the addresses, "
    "not the weight of "
)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("track_script: [s, {script: w, weight: 0}], track_file: [z, {file: n, weight: 0}], track_interface: eth1", []),
        ("track_script: w", [IDLE + "track_script w"]),
        ("track_script: {script: s, weight: -5}", [IDLE + "track_script s"]),
        ("track_interface: [eth1, {interface: eth2, weight: 1}]", [IDLE + "track_interface eth2"]),
        ("track_file: [n, {file: z, weight: 2}]", [IDLE + "track_file n or track_file z"]),
        ("track_backend: b", [IDLE + "track_backend b"]),
        ("preempt_delay: 5s", ["vrrp.instances.A.preempt_delay: has no effect with `preempt: false`"]),
        ("priority: 255, track_script: w, preempt_delay: 5s",
         ["vrrp.instances.A.preempt: has no effect with priority 255: the owner always takes its addresses"]),
    ],
)  # fmt: skip
def test_who_does_not_preempt_has_no_use_for_weights(config: Load, more: str, says: list[str]) -> None:
    def said(text: str) -> list[str]:
        return [line for line in warnings(config(WEB + text, X="secret")) if "preempt" in line]

    assert said(ROUTER.replace("MORE", f"preempt: false, {more}")) == says
    assert said(ROUTER.replace("MORE", more)) == []


def test_a_key_of_the_heartbeat_that_everybody_can_read(config: Load) -> None:
    text = WEB + "vrrp: {heartbeat: {bind: '10.9.0.2:694', peers: '10.9.0.3:694', key: KEY}}"
    assert warnings(config(text.replace("KEY", "'${X}'"), X="secret")) == []
    assert warnings(config(text.replace("KEY", "secret"))) == [
        "vrrp.heartbeat: plain-text key; ${NAME} takes it from outside"
    ]


# Programs that root runs

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root's programs matter")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """In a directory that is nobody's but root's."""
    folder = tmp_path / "own"
    folder.mkdir(mode=0o755)
    path = folder / "check"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def scripts(program: Path, more: str = "") -> str:
    instance = "interface: eth0, virtual_router_id: 1, virtual_ipaddress: 10.0.0.1"
    return (
        f"vrrp: {{scripts: {{s: {{script: [{program}, arg]}}}}, "
        f"instances: {{A: {{{instance}, track_script: s, notify_master: {program}}}}}{more}}}"
    )


@as_root
@pytest.mark.parametrize("weak", ["program", "folder", "owner", "owner of the folder", "link", "folder of the link"])
def test_a_program_that_others_can_write_is_root_for_them(
    config: Load, program: Path, tmp_path: Path, weak: str
) -> None:
    named, told = program, program
    if weak == "program":
        program.chmod(0o775)
    elif weak == "folder":
        told = program.parent
        told.chmod(0o757)
    elif weak == "owner":
        os.chown(program, 65534, 0)
    elif weak == "owner of the folder":
        told = program.parent
        os.chown(told, 65534, 0)
    else:
        named = tmp_path / "elsewhere" / "link"
        named.parent.mkdir()
        named.symlink_to(program)
        told = program if weak == "link" else named.parent
        told.chmod(0o777)
    rest = "runs as root, and others than root can write"
    assert warnings(config(scripts(named))) == [
        f"vrrp.scripts.s.script: {rest} {told}; chmod it, or set vrrp.script_user"
    ], "once for each place"
    assert warnings(config(scripts(named, ", script_user: nobody"))) == []


@as_root
def test_a_program_that_is_roots_alone_deserves_no_line(config: Load, program: Path) -> None:
    assert warnings(config(scripts(program))) == []
    # As in /tmp: many may put files there, and nobody can take another's away.
    program.parent.chmod(0o1777)
    assert warnings(config(scripts(program))) == []


@as_root
def test_a_notify_program_of_a_group_counts_too(config: Load, program: Path) -> None:
    program.chmod(0o777)
    text = (
        "vrrp: {instances: {A: {interface: eth0, virtual_router_id: 1, virtual_ipaddress: 10.0.0.1}}, "
        f"sync_groups: {{G: {{group: A, notify_stop: {program}}}}}}}"
    )
    (line,) = warnings(config(text))
    assert line.startswith("vrrp.sync_groups.G.notify_stop: runs as root")


def test_who_is_not_root_makes_nobody_root(config: Load, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program.chmod(0o777)
    it = config(scripts(program))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert warnings(it) == []


def test_only_the_kernel_keeps_clients_by_their_address(config: Load) -> None:
    kept = WEB.replace("b: {check", "b: {persistence_timeout: 60s, check")
    said = "backends.b.persistence_timeout: has no effect without a frontend of engine kernel"
    assert warnings(config(kept)) == [said]
    assert said not in warnings(config(kept.replace("mode: http", "mode: tcp, engine: kernel")))


def test_clients_that_stay_know_no_slow_start(config: Load) -> None:
    slow = WEB.replace('address: "10.0.1.1:80"', 'address: "10.0.1.1:80", slowstart: 5s', 1)
    assert slow != WEB
    assert not any("slowstart" in line for line in warnings(config(slow)))
    source = slow.replace("b: {check", "b: {balance: source, check")
    (said,) = [line for line in warnings(config(source)) if "slowstart" in line]
    assert said.endswith(".slowstart: has no effect with balance source, where clients stay with their server")
    # Its maxconn rises with any.
    assert not any(
        "slowstart" in line for line in warnings(config(source.replace("slowstart", "maxconn: 9, slowstart")))
    )


def test_a_load_that_nobody_looks_at(config: Load) -> None:
    idle = WEB.replace("  b: {", "  b: {fullconn: 100, ")
    (said,) = [line for line in warnings(config(idle)) if "fullconn" in line]
    assert said == "backends.b.fullconn: has no effect, as none of its servers has a `minconn`"
    used = idle.replace('1.1:80"', '1.1:80", maxconn: 5, minconn: 2')
    assert not any("fullconn" in line for line in warnings(config(used)))


def test_the_proxy_protocol_tells_of_https(config: Load) -> None:
    rule = "http_request: {deny: true, if: {scheme: http}}, default_backend"
    asked = WEB.replace("default_backend", rule, 1)
    assert any("scheme" in line for line in warnings(config(asked)))
    told = asked.replace('bind: "10.0.0.1:80"', 'bind: {address: "10.0.0.1:80", accept_proxy: true}')
    assert told != asked
    assert not any("scheme" in line for line in warnings(config(told)))


KERNEL = WEB.replace("mode: http", "mode: tcp, engine: kernel")


def test_what_only_the_proxy_heeds_is_said_once_for_each_frontend_of_the_kernel(config: Load) -> None:
    more = "timeout: {client: 1s, client_fin: 2s}, maxconn: 9, tcp_keepalive: true"
    front = KERNEL.replace("engine: kernel", f"engine: kernel, {more}")
    own = "frontends.web.engine: kernel has no use for maxconn, tcp_keepalive, timeout.client"
    assert warnings(config(front)) == [f"{own} and timeout.client_fin: no effect"]
    both = front.replace("  b: {", "  b: {retries: 1, tcp_keepalive: true, timeout: {server: 1h}, ")
    rest = "timeout.client_fin, backends.b.retries, backends.b.tcp_keepalive and backends.b.timeout.server"
    assert warnings(config(both)) == [f"{own}, {rest}: no effect"]
    other = '\n  g: {mode: tcp, bind: "10.0.0.1:81", timeout: {client: 1h}, default_backend: b}\nbackends:'
    assert warnings(config(both.replace("\nbackends:", other))) == [f"{own} and timeout.client_fin: no effect"]
    servers = front.replace('1.1:80"', '1.1:80", slowstart: 5s, maxconn: 9, minconn: 2')
    keys = ("maxconn", "minconn", "slowstart")
    its = [f"backends.b.servers.a.{key}" for key in keys]
    assert f"{own}, timeout.client_fin, {its[0]}, {its[1]} and {its[2]}: no effect" in warnings(config(servers))
    udp = KERNEL.replace("mode: tcp", "mode: udp, timeout: {client: 1s}")
    assert warnings(config(udp)) == ["frontends.web.engine: kernel has no use for timeout.client: no effect"]


def test_what_the_kernel_has_no_use_for_is_no_mistake_in_defaults(config: Load) -> None:
    defaults = "defaults: {timeout: {client: 1s, server: 30s}, maxconn: 9, retries: 1, tcp_keepalive: true}\n"
    assert warnings(config(defaults + KERNEL)) == []
    assert warnings(config(defaults + KERNEL.replace("tcp, ", "tcp, tcp_keepalive: false, "))) == []
    (line,) = warnings(config(defaults + KERNEL.replace("kernel", "proxy")))
    assert line.startswith("frontends.web.timeout.client: 1s is shorter")


def test_only_the_kernels_flows_are_logged_and_only_where_a_frontend_is_logged(config: Load) -> None:
    logged = WEB.replace("mode: http", "mode: http, flow_log: both")
    said = "frontends.web.flow_log: has no effect with engine proxy, which logs its connections without it"
    assert warnings(config(logged)) == [said]
    assert warnings(config(logged.replace("both", "none"))) == []
    assert warnings(config(logged.replace("mode: http", "mode: tcp, engine: auto"))) == []
    kernel = logged.replace("mode: http", "mode: tcp, engine: kernel")
    assert warnings(config(kernel)) == []
    silent = kernel.replace("flow_log", "log: false, flow_log")
    assert warnings(config(silent)) == ["frontends.web.flow_log: has no effect with `log: false`"]


def test_a_default_for_flows_is_for_somebody(config: Load) -> None:
    default = "defaults: {flow_log: end}\n"
    assert warnings(config(WEB + default)) == ["defaults.flow_log: has no effect without a frontend of engine kernel"]
    assert warnings(config(KERNEL + default)) == []
