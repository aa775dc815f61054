from __future__ import annotations

import subprocess
from pathlib import Path

from balancer.doctor.settings import Settings, remedy, shown

from .conftest import put


def test_a_setting_as_it_is(tmp_path: Path) -> None:
    put(tmp_path, {"proc/sys/net/ipv4/ip_forward": "1\n", "proc/sys/net/ipv4/ip_local_port_range": "32768\t60999\n"})
    settings = Settings(tmp_path)
    assert settings.get("net/ipv4/ip_forward") == "1" and settings.number("net/ipv4/ip_forward") == 1
    assert settings.number("net/ipv4/ip_local_port_range") is None
    assert settings.get("net/ipv4/none") is None and settings.number("net/ipv4/none") is None


def test_a_remedy_is_as_sysctl_takes_it() -> None:
    assert remedy("net/ipv4/ip_forward", 1) == (
        "sysctl -w net.ipv4.ip_forward=1",
        "echo 'net.ipv4.ip_forward = 1' >> /etc/sysctl.d/90-pybalancer.conf",
    )
    assert remedy("net/ipv4/conf/eth0.100/rp_filter", 2).now == "sysctl -w net/ipv4/conf/eth0.100/rp_filter=2"
    assert (
        remedy("net/ipv4/ip_local_port_range", "1024 65535").now
        == "sysctl -w 'net.ipv4.ip_local_port_range=1024 65535'"
    )
    assert shown("net/core/somaxconn") == "net.core.somaxconn"


def test_what_the_next_start_sets(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "usr/lib/sysctl.d/50-default.conf": "net.ipv4.ip_forward=0\n-net.core.somaxconn = 128\n",
            "etc/sysctl.d/99-hard.conf": "# net.ipv4.tcp_syncookies = 0\nnet/ipv4/ip_forward = 1\n; no\nnonsense\n",
            "etc/sysctl.d/README": "net.core.somaxconn = 7\n",
        },
    )
    settings = Settings(tmp_path)
    assert settings.written("net/ipv4/ip_forward") == ("1", "/etc/sysctl.d/99-hard.conf")
    assert settings.written("net/core/somaxconn") == ("128", "/usr/lib/sysctl.d/50-default.conf")
    assert settings.written("net/ipv4/tcp_syncookies") is None


def test_a_file_of_the_same_name_in_etc_is_read_in_place_of_the_packages(tmp_path: Path) -> None:
    put(tmp_path, {"usr/lib/sysctl.d/a.conf": "net.ipv4.ip_forward=0\n", "etc/sysctl.d/a.conf": ""})
    assert Settings(tmp_path).written("net/ipv4/ip_forward") is None


def test_names_of_interfaces_have_dots(tmp_path: Path) -> None:
    put(tmp_path, {"etc/sysctl.conf": "net.ipv4.conf.eth0/100.rp_filter=1\nnet/ipv4/conf/eth0.200/rp_filter=2\n"})
    settings = Settings(tmp_path)
    assert settings.written("net/ipv4/conf/eth0.100/rp_filter") == ("1", "/etc/sysctl.conf")
    assert settings.written("net/ipv4/conf/eth0.200/rp_filter") == ("2", "/etc/sysctl.conf")


def test_numbers_of_the_network(tmp_path: Path) -> None:
    put(tmp_path, {"proc/thread-self/net/netstat": "TcpExt: A B\nTcpExt: 1 2\nIpExt: B\nIpExt: 7\n"})
    settings = Settings(tmp_path)
    assert settings.counted("netstat", "TcpExt", "B") == 2 and settings.counted("netstat", "IpExt", "B") == 7
    assert settings.counted("netstat", "TcpExt", "C") == settings.counted("snmp", "Tcp", "A") == 0


def test_a_file_that_is_no_text_is_read_as_far_as_it_can(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff\0=1\n")
    assert Settings(tmp_path).lines("x") and Settings(tmp_path).text("none") is None


def test_what_is_to_last_does(tmp_path: Path) -> None:
    """The commands leave a file that sysctl(8) takes."""
    (tmp_path / "etc/sysctl.d").mkdir(parents=True)
    wanted = {"net/ipv4/conf/eth0.100/rp_filter": "2", "net/ipv4/ip_local_port_range": "1024 65535"}
    for name, value in wanted.items():
        command = remedy(name, value).always.replace("/etc/", f"{tmp_path}/etc/")
        subprocess.run(["sh", "-c", command], check=True)
    settings = Settings(tmp_path)
    own = "/etc/sysctl.d/90-pybalancer.conf"
    assert {name: settings.written(name) for name in wanted} == {name: (wanted[name], own) for name in wanted}
