from __future__ import annotations

from collections.abc import Callable

import pytest

from balancer.config.model import Config

Complaints = Callable[..., list[str]]
Load = Callable[..., Config]


def two(one: str, other: str, modes: tuple[str, str] = ("tcp", "tcp")) -> str:
    return f"""
frontends:
  one: {{mode: {modes[0]}, bind: {one}, default_backend: b}}
  other: {{mode: {modes[1]}, bind: {other}, default_backend: b}}
backends:
  b: {{servers: {{a: {{address: "10.0.1.1:53"}}}}}}
"""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('"10.0.0.1:80"', '"10.0.0.1:80"'),
        ('"*:80"', '"10.0.0.1:80"'),
        ('"10.0.0.1:80"', '"*:80"'),
        ('"*:80"', '":80"'),
        ('"[::1]:80"', '"[0:0::1]:80"'),
        ('"[::]:80"', '"[::1]:80"'),
        ('{address: "[::]:80", v4v6: true}', '"10.0.0.1:80"'),
        ('"*:80"', '{address: "[::]:80", v4v6: true}'),
        ('"[::ffff:10.0.0.1]:80"', '"10.0.0.1:80"'),
        ('"localhost:80"', '"LocalHost.:80"'),
        ("/run/a.sock", '"unix@/run/a.sock"'),
        ('{address: "*:80", interface: eth0}', '"*:80"'),
        ('"10.0.0.1:80"', '{address: "10.0.0.1:80", interface: eth0}'),
        ('{address: "*:80", interface: eth0}', '{address: "10.0.0.1:80", interface: eth0}'),
    ],
)
def test_these_clash(complaints: Complaints, one: str, other: str) -> None:
    says = complaints(two(one, other))
    assert len(says) == 1
    assert says[0].startswith("4:")
    assert "frontends.other.bind" in says[0]
    assert says[0].endswith("is taken by frontend one")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('"10.0.0.1:80"', '"10.0.0.2:80"'),
        ('"10.0.0.1:80"', '"10.0.0.1:81"'),
        ('"*:80"', '"[::]:80"'),
        ('"*:80"', '"[::1]:80"'),
        ('{address: "[::]:80", v4v6: true}', '"10.0.0.1:81"'),
        ("/run/a.sock", "/run/b.sock"),
        ('{address: "*:80", interface: eth0}', '{address: "*:80", interface: eth1}'),
        ('{address: "*:80", interface: eth0}', '{address: "10.0.0.1:80", interface: eth1}'),
    ],
)
def test_these_do_not(config: Load, one: str, other: str) -> None:
    assert len(config(two(one, other)).frontends) == 2


def test_tcp_and_udp_are_apart(config: Load, complaints: Complaints) -> None:
    same = '"10.0.0.1:53"'
    assert len(config(two(same, same, ("tcp", "udp"))).frontends) == 2
    assert len(complaints(two(same, same, ("udp", "udp")))) == 1
    assert len(complaints(two(same, same, ("tcp", "http")))) == 1


def test_stats_and_the_runtime_socket_take_part(complaints: Complaints) -> None:
    text = two('"10.0.0.1:80"', "/run/a.sock") + "stats: {bind: ':80'}\nglobal: {runtime_socket: {path: /run/a.sock}}"
    assert complaints(text) == [
        "7:15: stats.bind: 0.0.0.0:80 clashes: 10.0.0.1:80, which overlaps, is taken by frontend one",
        "8:33: global.runtime_socket.path: /run/a.sock clashes: the same address is taken by frontend other",
    ]


def test_each_bind_in_the_way_is_told_once(complaints: Complaints) -> None:
    says = complaints(two('["10.0.0.1:80", "10.0.0.1:80"]', '["*:80", "10.0.0.2:80"]'))
    assert [text.split(": ")[1] for text in says] == ["frontends.one.bind[1]", "frontends.other.bind[0]"]


def test_thousands_of_binds_on_one_port(config: Load) -> None:
    binds = ", ".join(f'"10.{i // 250}.{i % 250}.1:80"' for i in range(5000))
    assert len(config(two(f"[{binds}]", '":81"')).frontends["one"].bind) == 5000
