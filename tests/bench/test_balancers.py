"""The same task in three languages."""

from __future__ import annotations

import balancers
import pytest
from balancers import Frontend, Task

from balancer.config import read

HTTP = Frontend("http", 21000, (8001, 8002, 8003))
TCP = Frontend("tcp", 21001, (8001, 8002, 8003))
UDP = Frontend("udp", 21002, (5301, 5302))


def test_haproxy() -> None:
    assert balancers.render_haproxy(Task((HTTP,), log_port=5140)) == (
        "global\n"
        "    maxconn 5000\n"
        "    nbthread 1\n"
        "    log 127.0.0.1:5140 local0\n"
        "defaults\n"
        "    timeout connect 5s\n"
        "    timeout client 300s\n"
        "    timeout server 300s\n"
        "    timeout http-request 300s\n"
        "    timeout http-keep-alive 300s\n"
        "    retries 3\n"
        "    option redispatch\n"
        "    log global\n"
        "frontend http\n"
        "    mode http\n"
        "    bind 127.0.0.1:21000\n"
        "    option forwardfor\n"
        "    option httplog\n"
        "    default_backend http-servers\n"
        "backend http-servers\n"
        "    mode http\n"
        "    balance roundrobin\n"
        "    http-reuse safe\n"
        "    cookie SERVERID insert\n"
        "    default-server check inter 2000ms\n"
        "    server s8001 127.0.0.1:8001 cookie s8001\n"
        "    server s8002 127.0.0.1:8002 cookie s8002\n"
        "    server s8003 127.0.0.1:8003 cookie s8003\n"
    )


def test_haproxy_has_no_udp() -> None:
    text = balancers.render_haproxy(Task((TCP, UDP)))
    assert "21001" in text
    assert "21002" not in text
    assert "log" not in text


def test_dnsdist() -> None:
    server = 'checkName="bench.test.", checkType="SOA", mustResolve=true, checkInterval=2'
    assert balancers.render_dnsdist(Task((HTTP, UDP))) == (
        'setSecurityPollSuffix("")\n'
        'setLocal("127.0.0.1:21002")\n'
        "setServerPolicy(roundrobin)\n"
        f'newServer({{address="127.0.0.1:5301", {server}}})\n'
        f'newServer({{address="127.0.0.1:5302", {server}}})\n'
    )


@pytest.mark.parametrize("frontends", [(HTTP,), (TCP,), (UDP,), (HTTP, TCP, UDP)])
def test_pybalancer_takes_its_configuration(frontends: tuple[Frontend, ...]) -> None:
    text = balancers.render_pybalancer(Task(frontends, workers=2, reuse="always", stats_port=21003))
    config = read.loads(text, node="here", environ={})
    assert config.global_.workers == 2
    assert config.global_.log.target == "none"
    assert [frontend.bind[0].address.port for frontend in config.frontends.values()] == [one.port for one in frontends]
    for frontend in frontends:
        backend = config.backends[f"{frontend.mode}-servers"]
        assert [server.address.port for server in backend.servers.values()] == list(frontend.servers)
        assert (backend.cookie is not None) == (frontend.mode == "http")
        assert (config.frontends[frontend.mode].forwarded_for is not None) == (frontend.mode == "http")


def test_pybalancer_logs_where_haproxy_does() -> None:
    assert "udp://127.0.0.1:5140" in balancers.render_pybalancer(Task((HTTP,), log_port=5140))


def test_command_lines() -> None:
    assert balancers.haproxy("/x/haproxy", "A").command("f.cfg") == ["/x/haproxy", "-db", "-f", "f.cfg"]
    assert balancers.pybalancer(["python", "-m", "balancer"], "B").command("f.yaml") == [
        *("python", "-m", "balancer", "-c", "f.yaml")
    ]
