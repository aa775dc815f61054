"""The same task in each balancer's language."""

from __future__ import annotations

import subprocess
from pathlib import Path

import balancers
import pytest
from balancers import Contestant, Frontend, Task
from rig import find_tool

from balancer.config import read

WEB = ("127.0.0.1:8001", "127.0.0.1:8002", "127.0.0.1:8003")
HTTP = Frontend("http", 21000, WEB)
TCP = Frontend("tcp", 21001, WEB)
UDP = Frontend("udp", 21002, ("127.0.0.1:5301", "127.0.0.1:5302"))
KERNEL = Frontend("tcp", 80, WEB, host="192.0.2.1", engine="nat", title="kernel")
KERNEL_DNS = Frontend("udp", 53, UDP.servers, host="192.0.2.1", engine="nat", title="kernel-dns")
HAPROXY = balancers.haproxy("haproxy", "HAProxy")
DNSDIST = balancers.dnsdist("dnsdist", "dnsdist")
NGINX = balancers.nginx("nginx", "nginx")
IPVS = balancers.ipvs("ipvsadm", "IPVS")
OURS = balancers.pybalancer(["pybalancer"], "pybalancer")


def said(contestant: Contestant, task: Task, comment: str = "#") -> str:
    """Its configuration without comments and empty lines."""
    lines = contestant.render(task).splitlines()
    return "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith(comment)) + "\n"


def test_haproxy() -> None:
    assert said(HAPROXY, Task((HTTP,), log_port=5140)) == (
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
        "    server s1 127.0.0.1:8001 cookie s1\n"
        "    server s2 127.0.0.1:8002 cookie s2\n"
        "    server s3 127.0.0.1:8003 cookie s3\n"
    )


def test_haproxy_has_no_udp_and_no_kernel_engine() -> None:
    text = said(HAPROXY, Task((TCP, UDP, KERNEL)))
    assert "21001" in text
    assert "21002" not in text
    assert "192.0.2.1" not in text
    assert "log" not in text


def test_dnsdist() -> None:
    server = 'checkName="bench.test.", checkType="SOA", mustResolve=true, checkInterval=2'
    assert said(DNSDIST, Task((HTTP, UDP)), "--") == (
        'setSecurityPollSuffix("")\n'
        'setACL({"0.0.0.0/0"})\n'
        'setLocal("127.0.0.1:21002", {reusePort=false})\n'
        "setServerPolicy(roundrobin)\n"
        f'newServer({{address="127.0.0.1:5301", {server}}})\n'
        f'newServer({{address="127.0.0.1:5302", {server}}})\n'
    )
    assert said(DNSDIST, Task((UDP,), workers=3)).count('"127.0.0.1:21002", {reusePort=true}') == 3


@pytest.mark.parametrize("frontends", [(HTTP,), (TCP,), (UDP,), (HTTP, TCP, UDP)])
def test_pybalancer_takes_its_configuration(frontends: tuple[Frontend, ...]) -> None:
    text = OURS.render(Task(frontends, workers=2, reuse="always", stats_port=21003))
    config = read.loads(text, node="here", environ={})
    assert config.global_.workers == 2
    assert [each.target for each in config.global_.log] == ["none"]
    assert [frontend.bind[0].address.port for frontend in config.frontends.values()] == [one.port for one in frontends]
    for frontend in frontends:
        backend = config.backends[f"{frontend.mode}-servers"]
        assert [str(server.address) for server in backend.servers.values()] == list(frontend.servers)
        assert (backend.cookie is not None) == (frontend.mode == "http")
        assert (config.frontends[frontend.mode].forwarded_for is not None) == (frontend.mode == "http")


def test_pybalancer_logs_where_haproxy_does() -> None:
    assert "udp://127.0.0.1:5140" in OURS.render(Task((HTTP,), log_port=5140))


def test_the_kernel_engine_and_ipvs_get_the_same() -> None:
    config = read.loads(OURS.render(Task((TCP, KERNEL, KERNEL_DNS))), node="here", environ={})
    assert [(name, each.engine) for name, each in config.frontends.items()] == [
        ("tcp", "proxy"), ("kernel", "kernel"), ("kernel-dns", "kernel"),
    ]  # fmt: skip
    assert said(IPVS, Task((TCP, KERNEL, KERNEL_DNS))) == (
        "-A -t 192.0.2.1:80 -s rr\n"
        "-a -t 192.0.2.1:80 -r 127.0.0.1:8001 -m -w 1\n"
        "-a -t 192.0.2.1:80 -r 127.0.0.1:8002 -m -w 1\n"
        "-a -t 192.0.2.1:80 -r 127.0.0.1:8003 -m -w 1\n"
        "-A -u 192.0.2.1:53 -s rr\n"
        "-a -u 192.0.2.1:53 -r 127.0.0.1:5301 -m -w 1\n"
        "-a -u 192.0.2.1:53 -r 127.0.0.1:5302 -m -w 1\n"
    )


def test_nginx_and_haproxy_take_theirs(tmp_path: Path) -> None:
    frontends = (HTTP, TCP, UDP) if balancers.stream_module() else (HTTP,)
    for contestant, command in (
        (NGINX, [find_tool("nginx"), "-t", "-e", "stderr", "-c"]),
        (HAPROXY, [find_tool("haproxy"), "-c", "-f"]),
    ):
        for workers in (1, 2):
            file = tmp_path / f"{contestant.name}-{workers}"
            file.write_text(contestant.render(Task(frontends, workers=workers), directory=str(tmp_path)))
            done = subprocess.run([*command, file], capture_output=True, text=True, check=False, timeout=20)
            assert done.returncode == 0, done.stderr


def test_command_lines() -> None:
    assert balancers.haproxy("/x/haproxy", "A").command("f.cfg") == ["/x/haproxy", "-db", "-f", "f.cfg"]
    assert balancers.pybalancer(["python", "-m", "balancer"], "B").command("f.yaml") == [
        *("python", "-m", "balancer", "-c", "f.yaml")
    ]
