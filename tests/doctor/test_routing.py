from __future__ import annotations

from pathlib import Path

from balancer.doctor.routing import arp, forwarding, nonlocal_bind, promotion, reverse_path, ways
from tests.vrrp.conftest import Host, Stage, Switch, as_root

from .conftest import OK, PROBLEM, WARNING, Patient, here, put, tcp, vrrp

pytestmark = as_root

KERNEL = (
    "frontends:\n  k: {mode: tcp, engine: kernel, bind: '%s', default_backend: b}\n"
    "backends:\n  b: {servers: {one: {address: '%s'}}}\n"
)
KERNEL_4, KERNEL_6 = KERNEL % ("192.0.2.200:80", "192.0.2.9:80"), KERNEL % ("[2001:db8::c8]:80", "[2001:db8::9]:80")


def set_(host: Host, name: str, value: str) -> None:
    with host:
        (Path("/proc/sys/net") / name).write_text(value)


def test_a_strict_filter_is_right_where_answers_leave_as_packets_come(host: Host) -> None:
    for value, word in (("0", "off"), ("1", "strict"), ("2", "loose")):
        set_(host, "ipv4/conf/eth0/rp_filter", value)
        (found,) = Patient(host, vrrp()).says_all(reverse_path)
        assert found.verdict is OK and word in found.what


def test_a_strict_filter_between_two_interfaces_of_one_network(stage: Stage, host: Host) -> None:
    other = stage.switch()
    other.plug(host, "192.0.2.3/24", name="eth1")
    set_(host, "ipv4/conf/eth1/rp_filter", "1")
    text = vrrp().replace("eth0", "eth1")
    assert Patient(host, vrrp()).says(reverse_path) == []
    what = Patient(host, text).is_cured(reverse_path)
    assert what.startswith("eth1 drops what comes from 192.0.2.") and "leave by eth0 (rp_filter of eth1 is 1" in what


def test_a_strict_filter_and_a_peer_elsewhere(stage: Stage, host: Host) -> None:
    stage.switch().plug(host, "198.51.100.1/24", name="eth1")
    set_(host, "ipv4/conf/all/rp_filter", "1")
    text = vrrp(more="unicast_peer: [198.51.100.2]")
    what = Patient(host, text).is_cured(reverse_path)
    assert (
        what == "eth0 drops what comes from 198.51.100.2: answers would leave by eth1 (rp_filter of all is 1, strict)"
    )


def test_what_a_strict_filter_has_dropped(tmp_path: Path) -> None:
    net = "proc/thread-self/net"
    files = {
        "proc/sys/net/ipv4/conf/all/rp_filter": "0\n",
        "proc/sys/net/ipv4/conf/lo/rp_filter": "0\n",
        f"{net}/netstat": "TcpExt: IPReversePathFilter\nTcpExt: 1000\n",
        f"{net}/snmp": "Ip: InReceives\nIp: 5000\n",
    }
    name = next(each for each in here(tcp()).network.cards if each != "lo")
    files[f"proc/sys/net/ipv4/conf/{name}/rp_filter"] = "1\n"
    case = here(vrrp().replace("eth0", name), put(tmp_path, files))
    (found,) = [each for each in reverse_path(case) if each.verdict is WARNING]
    assert found.what.startswith("1000 packets were dropped") and found.now == (
        f"sysctl -w net.ipv4.conf.{name}.rp_filter=2",
    )
    put(tmp_path, {f"{net}/snmp": "Ip: InReceives\nIp: 5000000\n"})
    assert [each for each in reverse_path(case) if each.verdict is WARNING] == []


def test_forwarding_is_for_the_daemon_to_set(host: Host) -> None:
    set_(host, "ipv4/ip_forward", "0")
    assert Patient(host, vrrp()).says_all(forwarding) == []
    (found,) = Patient(host, KERNEL_4).says_all(forwarding)
    assert (found.verdict, found.what) == (OK, "net.ipv4.ip_forward is 0; the daemon sets it when it starts")
    set_(host, "ipv4/ip_forward", "1")
    assert [each.what for each in Patient(host, KERNEL_4).says_all(forwarding)] == ["net.ipv4.ip_forward is 1"]


def test_forwarding_that_somebody_switched_off(host: Host) -> None:
    import socket

    with host, socket.socket(socket.AF_UNIX) as lock:
        lock.bind("\0pybalancer.kernel")
        set_(host, "ipv4/ip_forward", "0")
        set_(host, "ipv6/conf/all/forwarding", "0")
        assert Patient(host, KERNEL_4).is_cured(forwarding).startswith("net.ipv4.ip_forward is 0, though")
        assert Patient(host, KERNEL_6).is_cured(forwarding).startswith("net.ipv6.conf.all.forwarding is 0, though")


def test_an_interface_that_does_not_forward(host: Host) -> None:
    set_(host, "ipv4/ip_forward", "1")
    set_(host, "ipv4/conf/eth0/forwarding", "0")
    assert Patient(host, KERNEL_4).is_cured(forwarding) == "net.ipv4.conf.eth0.forwarding is 0"


def test_a_file_that_switches_forwarding_off_again(tmp_path: Path) -> None:
    root = put(
        tmp_path, {"etc/sysctl.d/99-hard.conf": "net.ipv4.ip_forward = 0\n", "proc/sys/net/ipv4/ip_forward": "1\n"}
    )
    (found,) = [each for each in forwarding(here(KERNEL_4, root)) if each.verdict is not OK]
    assert found.what == "/etc/sysctl.d/99-hard.conf sets net.ipv4.ip_forward to 0"
    command = found.now[0].replace("/etc", f"{root}/etc")
    import subprocess

    subprocess.run(["sh", "-c", command], check=True)
    assert (root / "etc/sysctl.d/99-hard.conf").read_text() == "net.ipv4.ip_forward = 1\n"
    assert [each for each in forwarding(here(KERNEL_4, root)) if each.verdict is not OK] == []


def test_a_kernel_without_ipv6(tmp_path: Path) -> None:
    (found,) = forwarding(here(KERNEL_6, tmp_path))
    assert (
        found.verdict is PROBLEM and found.what == "there is no net.ipv6.conf.all.forwarding: this kernel has no IPv6"
    )


def test_nonlocal_bind_is_not_needed(host: Host) -> None:
    text = tcp(bind="192.0.2.200:80") + vrrp()
    (found,) = Patient(host, text).says_all(nonlocal_bind)
    assert found.verdict is OK and "not needed" in found.what
    assert Patient(host, vrrp()).says_all(nonlocal_bind) == []


def test_a_host_that_answers_no_arp(host: Host) -> None:
    assert Patient(host, vrrp()).says(arp) == []
    set_(host, "ipv4/conf/eth0/arp_ignore", "8")
    assert Patient(host, vrrp()).is_cured(arp) == "eth0 answers no ARP (arp_ignore is 8)"


def test_two_interfaces_that_answer_for_each_other(stage: Stage, switch: Switch, host: Host) -> None:
    switch.plug(host, "192.0.2.3/24", name="eth1")
    assert Patient(host, vrrp()).is_cured(arp).startswith("eth0 and eth1 are of one network")
    assert [each.verdict for each in Patient(host, vrrp()).says_all(arp)] == [OK]


def test_a_host_s_own_address_that_goes_with_a_virtual_one(host: Host) -> None:
    set_(host, "ipv4/conf/all/promote_secondaries", "0")
    set_(host, "ipv4/conf/eth0/promote_secondaries", "0")
    assert Patient(host, vrrp()).says_all(promotion) == []
    host.ip("address flush dev eth0")
    host.ip("address add 192.0.2.200/24 dev eth0 valid_lft 60 preferred_lft 60")
    host.ip("address add 192.0.2.1/24 dev eth0")
    what = Patient(host, vrrp()).is_cured(promotion)
    assert what == "eth0: 192.0.2.1 goes when 192.0.2.200 goes, being the second of its network"
    host.ip("address del 192.0.2.200/24 dev eth0")
    assert "192.0.2.1" in host.addresses()


def test_routes(host: Host) -> None:
    assert [each.verdict for each in Patient(host, tcp(server="192.0.2.9:80")).says_all(ways)] == [OK]
    patient = Patient(host, tcp(server="10.9.9.9:80") + vrrp(more="unicast_peer: [192.0.2.7]"))
    (found,) = patient.says(ways)
    assert (found.verdict, found.what) == (PROBLEM, "there is no route to 10.9.9.9")
    assert (
        found.why == "backends.web.servers.one cannot be reached"
        and found.now[1] == "ip route add 10.9.9.0/24 via GATEWAY"
    )
    host.ip(found.now[1].removeprefix("ip ").replace("GATEWAY", "192.0.2.254"))
    assert patient.says(ways) == []


def test_a_heartbeat_without_its_address(stage: Stage, host: Host) -> None:
    text = vrrp() + "  heartbeat: {bind: '198.51.100.1:3112', peers: '198.51.100.2:3112', key: secret}\n"
    host.ip("route add 198.51.100.2/32 dev eth0")
    (found,) = Patient(host, text).says(ways)
    assert found.what == "no interface has 198.51.100.1"
    stage.switch().plug(host, "198.51.100.1/24", name="eth1")
    assert "another interface" in Patient(host, text).says_all(ways)[-1].what
