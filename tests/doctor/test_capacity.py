from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from balancer.doctor import capacity
from balancer.doctor.finding import Finding
from balancer.doctor.processes import Process
from tests.vrrp.conftest import Net, as_root

from .conftest import OK, PROBLEM, WARNING, Patient, here, put, tcp, vrrp
from .test_units import systemd

KERNEL = tcp("192.0.2.9:80").replace("mode: tcp", "mode: tcp, engine: kernel")


def bad(found: Iterable[Finding]) -> list[Finding]:
    return [each for each in found if each.verdict is not OK]


def test_descriptors_of_a_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, {"proc/sys/fs/nr_open": "1048576\n"})
    systemd(tmp_path, monkeypatch, "LoadState=loaded\nLimitNOFILE=131072\n")
    text = tcp() + "global: {maxconn: 20000, workers: 2}\n"
    assert bad(capacity.descriptors(here(text, tmp_path))) == []
    systemd(tmp_path, monkeypatch, "LoadState=loaded\nLimitNOFILE=1024\n")
    (found,) = bad(capacity.descriptors(here(text, tmp_path)))
    assert found.verdict is WARNING and found.what.startswith("pybalancer.service may open 1024, 4")
    assert "LimitNOFILE=4" in found.now[0]
    # So many of them serve all.
    number = found.now[0].partition("LimitNOFILE=")[2].partition("\\n")[0]
    systemd(tmp_path, monkeypatch, f"LoadState=loaded\nLimitNOFILE={number}\n")
    assert bad(capacity.descriptors(here(text, tmp_path))) == []
    systemd(tmp_path, monkeypatch, "LoadState=loaded\nLimitNOFILE=16\n")
    (found,) = bad(capacity.descriptors(here(text, tmp_path)))
    assert found.verdict is PROBLEM and "too few to serve anybody" in found.what


def test_descriptors_of_the_daemon_that_runs(tmp_path: Path) -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (1024, 1024))
        case = here(tcp())
        case.__dict__["daemon"] = Process(child.pid, ("pybalancer",), "pybalancer", "")
        (found,) = bad(capacity.descriptors(case))
        assert found.what.startswith("the daemon that runs may open 1024, ")
    finally:
        child.kill()
        child.wait()


def test_a_file_that_the_daemon_cannot_read_or_a_name(tmp_path: Path) -> None:
    (found,) = bad(capacity.descriptors(here(tcp(server="[fe80::1%nowhere]:80"))))
    assert found.verdict is PROBLEM and "no interface 'nowhere'" in found.what


def test_files_of_the_whole_machine(tmp_path: Path) -> None:
    root = put(tmp_path, {"proc/sys/fs/file-max": "30000\n", "proc/sys/fs/file-nr": "1000\t0\t30000\n"})
    (found,) = [each for each in bad(capacity.descriptors(here(tcp(), root))) if "fs.file-max" in each.what]
    assert found.verdict is WARNING and found.now == ("sysctl -w fs.file-max=81000",)


CONNTRACK = "proc/sys/net/netfilter/nf_conntrack_"


@pytest.mark.parametrize(
    ("count", "maximum", "verdict"), [(10, 1000, OK), (850, 1000, WARNING), (990, 1000, PROBLEM), (0, 0, OK)]
)
def test_the_table_of_connections_fills(tmp_path: Path, count: int, maximum: int, verdict: str) -> None:
    put(tmp_path, {f"{CONNTRACK}count": f"{count}\n", f"{CONNTRACK}max": f"{maximum}\n"})
    case = here(KERNEL, tmp_path)
    case.is_root = False
    (found,) = capacity.connections(case)
    assert found.verdict is verdict


def test_the_table_matters_only_where_connections_are_followed(tmp_path: Path) -> None:
    put(tmp_path, {f"{CONNTRACK}count": "0\n", f"{CONNTRACK}max": "1000\n"})
    assert list(capacity.connections(here(tcp(), tmp_path))) == []
    put(tmp_path, {f"{CONNTRACK}count": "1\n"})
    case = here(tcp(), tmp_path)
    case.is_root = False
    (found,) = capacity.connections(case)
    assert found.verdict is WARNING and "has room for 1000" in found.what
    assert found.now == ("sysctl -w net.netfilter.nf_conntrack_max=80000",)
    put(tmp_path, {f"{CONNTRACK}max": "80000\n"})
    assert bad(capacity.connections(case)) == []


def test_a_hash_table_that_is_small(tmp_path: Path) -> None:
    put(tmp_path, {f"{CONNTRACK}count": "1\n", f"{CONNTRACK}max": "1048576\n", f"{CONNTRACK}buckets": "16384\n"})
    case = here(KERNEL, tmp_path)
    case.is_root = False
    (found,) = bad(capacity.connections(case))
    assert "16384 places" in found.what and found.now == ("sysctl -w net.netfilter.nf_conntrack_buckets=524288",)


def test_no_table_yet(tmp_path: Path) -> None:
    assert [each.verdict for each in capacity.connections(here(KERNEL, tmp_path))] == [OK]
    assert list(capacity.connections(here(tcp(), tmp_path))) == []


@as_root
def test_a_backlog_that_the_kernel_cuts_short(net: Net) -> None:
    patient = Patient(net, tcp())
    with net:
        Path("/proc/sys/net/core/somaxconn").write_text("128")
    assert patient.is_cured(capacity.backlog).startswith("net.core.somaxconn is 128")
    assert Patient(net, vrrp()).says_all(capacity.backlog) == []


@as_root
def test_half_open_connections(net: Net) -> None:
    patient = Patient(net, tcp())
    with net:
        Path("/proc/sys/net/core/somaxconn").write_text("4096")
        Path("/proc/sys/net/ipv4/tcp_max_syn_backlog").write_text("64")
        Path("/proc/sys/net/ipv4/tcp_syncookies").write_text("1")
        assert patient.says(capacity.backlog) == []
        Path("/proc/sys/net/ipv4/tcp_syncookies").write_text("0")
    assert "tcp_max_syn_backlog is 64" in patient.is_cured(capacity.backlog)


def test_queues_that_were_full(tmp_path: Path) -> None:
    net = "proc/thread-self/net"
    put(
        tmp_path,
        {f"{net}/netstat": "TcpExt: ListenOverflows\nTcpExt: 500\n", f"{net}/snmp": "Tcp: PassiveOpens\nTcp: 9000\n"},
    )
    (found,) = capacity.backlog(here(tcp(), tmp_path))
    assert found.verdict is OK and "500 connections found a queue full" in found.what
    put(tmp_path, {f"{net}/snmp": "Tcp: PassiveOpens\nTcp: 9000000\n"})
    assert list(capacity.backlog(here(tcp(), tmp_path))) == []


@as_root
def test_ports_towards_servers(net: Net) -> None:
    patient = Patient(net, tcp() + "global: {maxconn: 50000}\n")
    with net:
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("32768 60999")
    assert patient.is_cured(capacity.local_ports).startswith("28232 ports (32768 to 60999)")
    with net:
        assert Path("/proc/sys/net/ipv4/ip_local_reserved_ports").read_text() == "8000\n"


@as_root
def test_a_port_that_connections_may_come_from(net: Net) -> None:
    with net:
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("32768 60999")
        Path("/proc/sys/net/ipv4/ip_local_reserved_ports").write_text("40001,40003-40004")
    assert Patient(net, tcp("*:8000")).says(capacity.local_ports) == []
    assert Patient(net, tcp("*:40000")).is_cured(capacity.local_ports).startswith("port 40000 is one of those")
    with net:
        assert Path("/proc/sys/net/ipv4/ip_local_reserved_ports").read_text() == "40000-40001,40003-40004\n"


def test_memory(tmp_path: Path) -> None:
    put(tmp_path, {"proc/meminfo": "MemFree: 1 kB\nMemTotal: 4194304 kB\n"})
    assert [each.verdict for each in capacity.memory(here(tcp(), tmp_path))] == [OK]
    put(tmp_path, {"sys/fs/cgroup/memory.max": "104857600\n"})
    (found,) = capacity.memory(here(tcp(), tmp_path))
    assert found.verdict is WARNING and found.what.startswith("there are 100 MiB of memory")
    put(tmp_path, {"sys/fs/cgroup/memory.max": "max\n"})
    assert [each.verdict for each in capacity.memory(here(tcp(), tmp_path))] == [OK]
    put(tmp_path, {"sys/fs/cgroup/memory.max": str(1 << 30)})
    assert [each.verdict for each in capacity.memory(here(tcp(), tmp_path))] == [OK]
    text = tcp().replace("mode: tcp", "mode: http").replace("{servers", "{cache: {total_max_size: 1g}, servers")
    assert [each.verdict for each in capacity.memory(here(text, tmp_path))] == [WARNING]


def test_processors(tmp_path: Path) -> None:
    assert [each.verdict for each in capacity.processors(here(tcp(), tmp_path))] == [OK]
    assert [each.verdict for each in capacity.processors(here(tcp() + "global: {workers: 256}\n", tmp_path))] == [
        WARNING
    ]
    put(tmp_path, {"sys/fs/cgroup/cpu.max": "50000 100000\n"})
    assert [each.verdict for each in capacity.processors(here(tcp() + "global: {workers: 1}\n", tmp_path))] == [OK]
    (found,) = capacity.processors(here(tcp() + "global: {workers: 2}\n", tmp_path))
    assert found.what == "2 workers share 0.5 processors" and found.now == ("# global.workers: 1",)


def test_how_a_limit_is_raised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By root, by root in a container, by somebody else."""
    status = "proc/thread-self/status"
    monkeypatch.setattr(capacity.os, "geteuid", lambda: 0)
    case = here(tcp(), put(tmp_path, {status: "CapEff:\t000001ffffffffff\n", "proc/sys/fs/nr_open": "1024\n"}))
    (found,) = bad(capacity.descriptors(case))
    assert found.what.startswith("fs.nr_open is 1024") and found.now[0].startswith("sysctl -w fs.nr_open=")
    put(tmp_path, {status: "CapEff:\t0000000000000000\n"})
    monkeypatch.setattr(capacity.resource, "getrlimit", lambda _: (1024, 1024))
    (found,) = bad(capacity.descriptors(case))
    assert "docker run --ulimit nofile=" in found.now[0]
    monkeypatch.setattr(capacity.os, "geteuid", lambda: 1000)
    (found,) = bad(capacity.descriptors(case))
    assert found.now[0].startswith("ulimit -n ") and found.always[0].startswith("echo '*' - nofile ")
