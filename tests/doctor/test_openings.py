from __future__ import annotations

from pathlib import Path

from balancer.doctor.openings import manager, opening
from balancer.doctor.processes import Process

from .conftest import here, put, tcp


def test_rules_of_nobody_else(tmp_path: Path) -> None:
    case = here(tcp(), tmp_path)
    assert manager(case) == "nft"
    assert opening(case, "vrrp").now == ("nft list ruleset",)
    assert opening(case, "tcp", 80, chain="inet filter input") == (
        ("nft insert rule inet filter input tcp dport 80 accept",),
        ("# in /etc/nftables.conf, in inet filter input: tcp dport 80 accept",),
    )
    assert opening(case, "vrrp", family=6, chain="inet f i").now == (
        "nft insert rule inet f i ip6 nexthdr vrrp accept",
    )
    assert opening(case, "udp", 53, chain="iptables INPUT").now == ("iptables -I INPUT -p udp --dport 53 -j ACCEPT",)
    assert opening(case, "vrrp", family=6, chain="iptables INPUT").now == ("ip6tables -I INPUT -p vrrp -j ACCEPT",)


def test_firewalld(tmp_path: Path) -> None:
    case = here(tcp(), tmp_path)
    case.processes.all = {7: Process(7, ("/usr/bin/python3", "-s", "/usr/sbin/firewalld"), "firewalld", "")}
    assert opening(case, "tcp", 80) == (
        ("firewall-cmd --add-port=80/tcp",), ("firewall-cmd --permanent --add-port=80/tcp",)
    )  # fmt: skip
    assert opening(case, "vrrp").always == ("firewall-cmd --permanent --add-protocol=vrrp",)


def test_ufw(tmp_path: Path) -> None:
    case = here(tcp(), put(tmp_path, {"etc/ufw/ufw.conf": "# x\nENABLED=yes\n"}))
    assert opening(case, "udp", 53) == (("ufw allow 53/udp",), ())
    assert opening(case, "vrrp").now == ("iptables -I ufw-before-input -p vrrp -j ACCEPT",)
    assert opening(case, "vrrp", family=6).always[0].endswith("/etc/ufw/before6.rules")
