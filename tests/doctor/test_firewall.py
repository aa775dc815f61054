from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from balancer.doctor import firewall
from balancer.doctor.finding import Verdict
from balancer.doctor.firewall import through
from tests.vrrp.conftest import Host, Stage, as_root

from .conftest import OK, PROBLEM, UNKNOWN, Patient, put, tcp, vrrp

pytestmark = as_root
KERNEL = tcp("192.0.2.200:80", "192.0.2.9:80").replace("mode: tcp", "mode: tcp, engine: kernel")
INPUT = "table inet filter {\n chain input { type filter hook input priority 0; policy drop;\n %s\n }\n}\n"
FORWARD = "table ip filter {\n chain FORWARD { type filter hook forward priority 0; policy drop;\n %s\n }\n}\n"


def rules(host: Host, text: str) -> None:
    with host:
        subprocess.run(["nft", "-f", "-"], input=f"flush ruleset\n{text}", text=True, check=True)


def test_no_rules(host: Host) -> None:
    (found,) = Patient(host, tcp("*:80") + vrrp()).says_all(through)
    assert found.verdict is OK and found.what.startswith("3 of 3 kinds of packets pass: tcp 0.0.0.0:80, VRRP on eth0")


def test_a_port_that_is_closed(host: Host) -> None:
    rules(host, INPUT % "ct state established,related accept; iifname lo accept; tcp dport 22 accept")
    assert Patient(host, tcp("*:80")).is_cured(through) == "tcp 0.0.0.0:80 is dropped by inet filter input"
    assert Patient(host, tcp("127.0.0.1:81")).says_all(through) == []


def test_vrrp_that_is_not_let_in_or_out(host: Host) -> None:
    rules(host, INPUT % "tcp dport 80 accept")
    assert Patient(host, vrrp()).is_cured(through) == "VRRP on eth0 is dropped by inet filter input"
    rules(host, (INPUT % "accept").replace("input", "output").replace("accept", ""))
    assert Patient(host, vrrp()).is_cured(through) == "VRRP on eth0 may not leave: inet filter output drops it"
    rules(host, INPUT % "")
    assert "VRRP on eth0 is dropped" in Patient(host, vrrp(vips="['2001:db8::c8/64']")).is_cured(through)


def test_a_peer_and_the_heartbeat(host: Host) -> None:
    text = vrrp(more="unicast_peer: [192.0.2.9], unicast_src_ip: 192.0.2.1")
    text += "  heartbeat: {bind: '192.0.2.1:3112', peers: '192.0.2.9:3112', key: secret}\n"
    rules(host, INPUT % "ip saddr 192.0.2.9 ip daddr 192.0.2.1 accept")
    assert Patient(host, text).says(through) == []
    rules(host, INPUT % "ip saddr 192.0.2.8 accept")
    found = [each.what for each in Patient(host, text).says(through)]
    assert found == [
        "VRRP from 192.0.2.9 on eth0 is dropped by inet filter input",
        "the heartbeat of 192.0.2.9 is dropped by inet filter input",
    ]


def test_what_is_open_to_some_is_meant_so(host: Host) -> None:
    rules(host, INPUT % "ip saddr 10.0.0.0/8 tcp dport 80 accept")
    (found,) = Patient(host, tcp("*:80")).says_all(through)
    assert (found.verdict, found.what) == (OK, "tcp 0.0.0.0:80 is open to some, as inet filter input has it")


def test_rules_that_are_not_understood(host: Host) -> None:
    rules(host, INPUT % "meta mark 7 tcp dport { 80, 81 } accept")
    (found,) = Patient(host, tcp("*:80")).says_all(through)
    assert found.verdict is UNKNOWN and found.now == ("nft list chain inet filter input",)


def test_what_is_sent_elsewhere(host: Host) -> None:
    rules(
        host, "table ip nat {\n chain p { type nat hook prerouting priority -100; tcp dport 80 redirect to 3128; }\n}"
    )
    (found,) = Patient(host, tcp("*:80")).says_all(through)
    assert found.verdict is PROBLEM and found.what == "tcp 0.0.0.0:80 is sent elsewhere by a rule of ip nat p"


def test_what_the_kernel_is_to_forward(host: Host) -> None:
    assert [each.check for each in Patient(host, KERNEL).says_all(through)] == ["forward"]
    rules(host, FORWARD % "ct state established,related accept")
    what = Patient(host, KERNEL).is_cured(through)
    assert what.startswith("chain FORWARD of table ip filter stops what is not allowed there")


def test_iptables_of_old(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\nCOMMIT\n"
    monkeypatch.setattr(firewall, "said", lambda program, *_: saved if program == "iptables-legacy-save" else None)
    root = put(tmp_path, {"proc/thread-self/net/ip_tables_names": "filter\n"})
    (found,) = Patient(host, tcp("*:80"), root).says(through)
    assert found.what == "tcp 0.0.0.0:80 is dropped by iptables INPUT"
    assert found.now == ("iptables -I INPUT -p tcp --dport 80 -j ACCEPT",)
    (found,) = Patient(host, KERNEL, root).says(through)
    assert found.what == "iptables FORWARD drops what is for 192.0.2.9:80"
    monkeypatch.setattr(firewall, "said", lambda *_: None)
    (found,) = Patient(host, tcp("*:80"), root).says(through)
    assert found.verdict is UNKNOWN and "iptables-legacy-save" in found.now[0]


def test_rules_of_iptables_in_nftables(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nft cannot show of them, iptables-save does."""
    ruleset = [
        {"table": {"family": "ip", "name": "filter"}},
        {"chain": {"family": "ip", "table": "filter", "name": "INPUT", "hook": "input", "policy": "drop"}},
        {"rule": {"family": "ip", "table": "filter", "chain": "INPUT", "expr": [
            {"xt": {"type": "match", "name": "multiport"}}, {"accept": None}]}},
    ]  # fmt: skip

    class Fake:
        def list_json(self, _: str) -> list[object]:
            return ruleset

        def close(self) -> None:
            pass

    monkeypatch.setattr(firewall, "Nft", Fake)
    saved = "*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp -m multiport --dports 80,443 -j ACCEPT\nCOMMIT\n"
    monkeypatch.setattr(firewall, "said", lambda program, *_: saved if program == "iptables-nft-save" else None)
    patient = Patient(host, tcp("*:80"))
    assert [each.verdict for each in patient.says_all(through)] == [OK]
    saved = saved.replace("80,443", "443")
    assert [each.verdict for each in patient.says_all(through)] == [PROBLEM]
    monkeypatch.setattr(firewall, "said", lambda *_: None)
    assert [each.verdict for each in patient.says_all(through)] == [UNKNOWN]


def test_who_has_no_rights_is_told_so_elsewhere(host: Host) -> None:
    case = Patient(host, tcp("*:80")).case()
    case.is_root = False
    with host:
        assert list(through(case)) == []


def test_interfaces_of_different_mtu(stage: Stage, host: Host) -> None:
    stage.switch().plug(host, "198.51.100.1/24", "2001:db8:1::1/64", name="eth1")
    host.ip("address add 2001:db8::1/64 dev eth0")
    for text, protocol, kind in (
        (KERNEL.replace("192.0.2.9", "198.51.100.9") + vrrp(), "icmp", "destination-unreachable"),
        (
            KERNEL.replace("192.0.2.200", "[2001:db8::1]").replace("192.0.2.9", "[2001:db8:1::9]"),
            "icmpv6",
            "packet-too-big",
        ),
    ):
        patient = Patient(host, text)

        def sizes(patient: Patient = patient) -> list[tuple[Verdict, str]]:
            return [(each.verdict, each.what) for each in patient.says_all(through) if each.check == "mtu"]

        host.ip("link set dev eth1 mtu 1500")
        closed = INPUT.replace("input", "output")
        rules(host, closed % "ct state established accept; ip protocol vrrp accept")
        assert sizes() == []
        host.ip("link set dev eth1 mtu 1400")
        what = patient.is_cured(through, "mtu")
        assert what == (
            "eth1 has an MTU of 1400, eth0 of 1500, and inet filter output drops what tells senders of it "
            f"({protocol} {kind})"
        )
        for fine in (
            "ct state established,related accept",
            f"{protocol} type {kind} accept",
            f"meta l4proto {protocol} accept",
        ):
            rules(host, closed % fine)
            assert [verdict for verdict, _ in sizes()] == [OK], fine
        rules(host, closed % "ct status dnat accept")
        assert [verdict for verdict, _ in sizes()] == [UNKNOWN]
        rules(host, (closed % f"{protocol} type echo-request drop").replace("policy drop", "policy accept"))
        assert [verdict for verdict, _ in sizes()] == [OK]
    rules(host, "")
