"""What runs behind the balancers, as text."""

from __future__ import annotations

import os
import time
from pathlib import Path

import arena
from arena import Way


def test_no_two_ways_share_an_address() -> None:
    one, other = Way("one", 1), Way("other", 2)
    addresses = [each for way in (one, other) for each in (way.client, way.vip, way.second_vip, way.inside)]
    assert len(set(addresses)) == len(addresses)
    assert one.servers(80) == ("10.0.1.2:80", "10.0.1.3:80", "10.0.1.4:80")


def test_servers_listen_where_the_contestants_ask() -> None:
    web = arena.render_web(Path("/nowhere"), 2, Path("/c"), Path("/k"))
    assert "listen 80 " in web
    assert "listen 443 ssl " in web
    assert "$http_x_forwarded_for" in web
    assert "listen-on port 53 { any; }" in arena.render_named(Path("/nowhere"))
    assert "Listen 8080\n" in arena.render_apache(Path("/nowhere"))


def test_cores_are_said_to_taskset() -> None:
    assert arena.on_cores(None) == []
    assert arena.on_cores({1, 0}) == ["taskset", "-c", "0,1"]


def test_cpu_time_of_what_was_started_only_grows() -> None:
    before = arena.cpu_ns()
    child = os.posix_spawn("/bin/sh", ["sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"], {})
    os.waitpid(child, 0)
    assert arena.cpu_ns() > before
    assert time.process_time() > 0
